"""Stored values of a DICOM frame become 8 bits of grey or colour.  ``tags`` is a pydicom dataset throughout."""

from collections.abc import Callable
from typing import Any

import numpy as np

from medvlm_cli.core.config import window_of
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.sources.greyscale import Function, by_table, full_range, windowed
from medvlm_cli.sources.scans import Choice, ScanError, WindowFrom, need

Window = tuple[float, float]


class Grey:
    """How the values of one frame become grey.

    Args:
        tags: the header.
        index: the frame, whose functional group, or else that of all frames, or else the header itself counts.
    """

    def __init__(self, tags: Any, index: int) -> None:
        self._tags = tags
        self._rescale = _group(tags, index, "PixelValueTransformationSequence")
        self._voi = _group(tags, index, "FrameVOILUTSequence")

    def render(self, stored: np.ndarray, choice: Choice) -> tuple[np.ndarray, Window | None, WindowFrom]:
        """The frame in grey.

        Source: DICOM PS3.3 C.11.1 and C.11.2.

        Args:
            stored: ``(H, W)`` of any integer or float type, before rescale.
            choice: its window, where one is asked for.

        Returns:
            ``(H, W)`` uint8; centre and width of the window, None where a VOI LUT took its place; and whose it is.
        """
        window, function, source = self._window(choice)
        show: Callable[[np.ndarray], np.ndarray]
        if window is None and self._voi.get("VOILUTSequence"):
            table = _Table(self._voi.VOILUTSequence[0], self._signed)
            show, source = table.to_grey, "table"
        else:
            chosen = window = window or full_range(self._values(_present(self._unpadded(stored))))

            def show(values: np.ndarray) -> np.ndarray:
                return windowed(values, chosen, function)

        grey = by_table(stored, lambda part: show(self._values(part)))
        inverted = self._tags.PhotometricInterpretation == "MONOCHROME1"
        return (255 - grey if inverted else grey), window, source

    @property
    def _signed(self) -> bool:
        return self._tags.get("PixelRepresentation") == 1

    def _values(self, stored: np.ndarray) -> np.ndarray:
        """Stored values in the unit of the modality: HU for CT."""
        if self._tags.get("ModalityLUTSequence"):
            return _Table(self._tags.ModalityLUTSequence[0], self._signed).look_up(stored).astype(np.float64)
        slope, intercept = _first(self._rescale, "RescaleSlope"), _first(self._rescale, "RescaleIntercept")
        wide = stored.astype(np.float64)
        return wide if slope is None or intercept is None else wide * slope + intercept

    def _window(self, choice: Choice) -> tuple[Window | None, Function, WindowFrom]:
        """The window asked for, else the file's first; None and ``range`` where there is neither.

        A window asked for by name is meant in HU.  Where the file explains its windows and one bears that name, the
        file's own is taken: it was set for this patient.
        """
        tags = self._voi
        function = str(tags.get("VOILUTFunction") or "LINEAR").upper()
        known: Function = "SIGMOID" if function == "SIGMOID" else "LINEAR"
        known = "LINEAR_EXACT" if function == "LINEAR_EXACT" else known
        own = _windows(tags, 1.0 if known == "LINEAR" else 1e-9)
        if choice.window is not None and not choice.preset:
            return choice.window, "LINEAR", "asked"
        if choice.window is not None and (self._tags.get("Modality", "CT") == "CT" or _unit(self._rescale) == "HU"):
            named = [window for name, window in own if name is not None and _same(name, choice.preset)]
            return (named[0], known, "named") if named else (choice.window, "LINEAR", "asked")
        return (own[0][1], known, "file") if own else (None, known, "range")

    def _unpadded(self, stored: np.ndarray) -> np.ndarray:
        """The values that are no padding, flat; all values where all are."""
        padding, limit = _first(self._tags, "PixelPaddingValue"), _first(self._tags, "PixelPaddingRangeLimit")
        if padding is None:
            return stored.ravel()
        ends = sorted((padding, padding if limit is None else limit))
        kept = stored[(stored < ends[0]) | (stored > ends[1])]
        return kept if kept.size else stored.ravel()


def colour(stored: np.ndarray, tags: Any) -> np.ndarray:
    """A frame in colour as RGB.

    Args:
        stored: ``(H, W, 3)`` RGB, or ``(H, W)`` of places in the palette.
        tags: the header.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ScanError: the frame has another number of colours.
    """
    bits = int(tags.get("BitsStored", 8))
    if tags.PhotometricInterpretation == "PALETTE COLOR":
        stored = need("pydicom.pixels", "DICOM").apply_color_lut(stored, tags)[..., :3]
        bits = 8 * stored.dtype.itemsize
    if stored.ndim != 3 or stored.shape[2] != 3 or stored.dtype.kind != "u":
        raise ScanError("corrupt_image", "the DICOM file holds pixels that are neither grey nor RGB")
    return (stored >> (bits - 8)).astype(np.uint8) if bits > 8 else stored.astype(np.uint8)


class _Table:
    """A lookup table of the modality or VOI LUT sequence, PS3.3 C.11.1.1 and C.11.2.1.1."""

    def __init__(self, item: Any, signed: bool) -> None:
        count, first, bits = (int(part) for part in item.LUTDescriptor)
        data = item.LUTData
        if isinstance(data, bytes):
            data = np.frombuffer(data, "<u1" if len(data) == (count or 65536) else "<u2")
        self._data = np.atleast_1d(np.asarray(data)).astype(np.int64)[: count or 65536]
        self._first = first - 65536 if signed and first > 32767 else first
        self._top = 2 ** min(max(bits, 1), 16) - 1

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Entries of the table; values before and after it give its first and last."""
        places = np.rint(values).astype(np.int64) - self._first
        return self._data[np.clip(places, 0, len(self._data) - 1)]

    def to_grey(self, values: np.ndarray) -> np.ndarray:
        """As ``look_up``, the table's depth as 8 bits."""
        return np.rint(np.clip(self.look_up(values) * (255.0 / self._top), 0, 255)).astype(np.uint8)


def _group(tags: Any, index: int, name: str) -> Any:
    """The item of a functional group that holds for a frame, else the header."""
    frames = tags.get("PerFrameFunctionalGroupsSequence") or ()
    for groups in (frames[index : index + 1], tags.get("SharedFunctionalGroupsSequence") or ()):
        if groups and groups[0].get(name):
            return groups[0].get(name)[0]
    return tags


def _first(tags: Any, name: str) -> float | None:
    values = _numbers(tags, name)
    return values[0] if values else None


def _numbers(tags: Any, name: str) -> list[float]:
    given = tags.get(name)
    if given is None or isinstance(given, bytes | str):
        return []
    numbers = [float(part) for part in (given if hasattr(given, "__iter__") else [given])]
    return numbers if all(np.isfinite(numbers)) else []


def _windows(tags: Any, narrowest: float) -> list[tuple[str | None, Window]]:
    """The windows of the file that are wide enough to be meant, with what they are called."""
    pairs = zip(_numbers(tags, "WindowCenter"), _numbers(tags, "WindowWidth"), strict=False)
    given = tags.get("WindowCenterWidthExplanation") or ()
    names = [given] if isinstance(given, str) else list(given)
    found = [(names[place] if place < len(names) else None, pair) for place, pair in enumerate(pairs)]
    return [(name, window) for name, window in found if window[1] >= narrowest]


def _same(explanation: str, preset: str) -> bool:
    """Whether the file's word for a window (``LUNG``, ``Soft Tissue``) is the name of a window of ours."""
    try:
        return window_of(str(explanation)) == window_of(preset) and "," not in str(explanation)
    except ConfigError:
        return False


def _unit(tags: Any) -> str:
    return str(tags.get("RescaleType", "")).strip().upper()


def _present(values: np.ndarray) -> np.ndarray:
    """Each value once where that is quick: 16-bit images hold few values and many pixels."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2 or not values.size:
        return values
    low = int(values.min())
    return np.flatnonzero(np.bincount((values.astype(np.int64) - low).ravel())) + low
