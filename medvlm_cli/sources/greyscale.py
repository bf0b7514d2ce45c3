"""Grey values of any depth become 8 bits through a window: a centre and a width in the unit of the values.

A window taken from a range of values is the one that shows the smallest as black and the largest as white.  Under the
linear function of DICOM that is centre ``(low + high + 1) / 2`` and width ``high - low + 1``.
"""

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from medvlm_cli.core.images import FORMATS, upright
from medvlm_cli.sources.scans import Choice

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

AIR = -500
"""Hounsfield units: a scan with values below it, and none below -5000, is taken for CT.  Other modalities have none."""
_TABLE_VALUES = 1 << 17


def windowed(values: np.ndarray, window: tuple[float, float], function: Function = "LINEAR") -> np.ndarray:
    """Values as 8 bits, as DICOM's VOI LUT functions have it; NaN is black.

    Source: DICOM PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).

    Args:
        values: of any shape and number type.
        window: centre and width in the unit of ``values``; the width is 1 or more for LINEAR, else above 0.
        function: the name DICOM has for it.

    Returns:
        uint8 of the shape of ``values``, rounded to the nearest.
    """
    center, width = window
    wide = np.asarray(values, dtype=np.float64)
    with np.errstate(all="ignore"):
        if function == "SIGMOID":
            grey = 255.0 / (1.0 + np.exp(-4.0 * (wide - center) / width))
        elif function == "LINEAR_EXACT":
            grey = ((wide - center) / width + 0.5) * 255.0
        elif width == 1:
            grey = np.where(wide > center - 0.5, 255.0, 0.0)
        else:
            grey = ((wide - (center - 0.5)) / (width - 1.0) + 0.5) * 255.0
    return np.rint(np.nan_to_num(np.clip(grey, 0.0, 255.0), nan=0.0)).astype(np.uint8)


def range_window(low: float, high: float) -> tuple[float, float]:
    """The window that shows ``low`` as black and ``high`` as white."""
    return (low + high + 1.0) / 2.0, high - low + 1.0


def full_range(values: np.ndarray) -> tuple[float, float]:
    """The window over all finite values; over 0 where there are none."""
    finite = values[np.isfinite(values)]
    return range_window(float(finite.min()), float(finite.max())) if finite.size else range_window(0.0, 0.0)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The window from the 0.5th to the 99.5th percentile of the finite values: a few hot pixels do not darken all."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return range_window(0.0, 0.0)
    low, high = np.percentile(finite, (0.5, 99.5))
    return range_window(float(low), float(high))


def looks_like_ct(values: np.ndarray) -> bool:
    """Whether the values seem to be Hounsfield units: air is there, and nothing is far below it."""
    finite = values[np.isfinite(values)]
    return bool(finite.size) and -5000 <= float(finite.min()) <= AIR


def by_table(stored: np.ndarray, to_grey: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``to_grey`` applied to every value, each value once: 16-bit images hold few values and many pixels.

    Args:
        stored: values of an image.
        to_grey: element by element.
    """
    if stored.dtype.kind in "iu" and stored.size:
        low, high = int(stored.min()), int(stored.max())
        if high - low < min(_TABLE_VALUES, stored.size):
            return to_grey(np.arange(low, high + 1))[stored.astype(np.int64) - low]
    return to_grey(stored)


def png(pixels: np.ndarray) -> bytes:
    """An image as PNG without metadata, the same bytes for the same pixels.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)`` uint8.
    """
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def deep_values(data: bytes) -> np.ndarray | None:
    """The values of a PNG or TIFF of more than 8 bits of grey, upright; None for every other image.

    Args:
        data: contents of an image file that ``core.images.decode`` takes.

    Returns:
        ``(H, W)`` integers or floats; what is not finite is 0, as it is for ``decode``.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.mode[0] not in "IF":
            return None
        return np.nan_to_num(np.asarray(upright(image)), nan=0.0, posinf=0.0, neginf=0.0)


def shown_deep(values: np.ndarray, choice: Choice) -> tuple[bytes, tuple[float, float]]:
    """How deep greyscale is stored.

    Without a window it needs no PNG: ``core.images.decode`` stretches the file itself over the same range.  A window
    asked for by name is meant for CT, and counts only where the values look like it.

    Returns:
        PNG, empty where the file may stay as it is; centre and width.
    """
    window = choice.window
    if window is None or (choice.preset and not looks_like_ct(values)):
        return b"", full_range(values)
    asked = window
    return png(by_table(values, lambda part: windowed(part, asked))), window
