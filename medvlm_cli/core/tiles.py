"""The picture of what a model was given and where it found most: every scale with its tiles, and the norm of features.

Legend: K scales, T tokens of an image, S side of their grid (``T = S * S``), C channels of the tower.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medvlm_cli.core.images import Fit, decode, to_rgb_square

PANEL = 576
"""Pixels of a square of the picture; a multiple of the tiny tower's 32, 64 and 96."""
_MARGIN, _HEAD, _TITLE, _BAR, _FOOT = 28, 64, 34, 16, 80
_GAP = 14
_INK, _PALE = "#111827", "#4b5563"
_GRID = (255, 214, 0)
_STOPS = np.array([(10, 12, 46), (76, 25, 112), (168, 44, 96), (232, 108, 52), (250, 190, 70), (253, 250, 205)])
"""RGB of the colour scale from little to much; each step is lighter than the one before, so it reads in grey too."""
_SHOWN = (2, 98)
"""Percentiles of a field between which colours differ."""
_COVER = 0.6
"""Share of the colour where it lies over the image."""


def norms(features: np.ndarray, scales: int) -> np.ndarray:
    """How long the feature of each place is, scale by scale.

    The features of the scales are joined along the channels, the coarsest first.  Where a norm is large the tower
    answered strongly; that is not the attention of the language model.

    Args:
        features: ``(T, K * C)`` of one image, as the connector takes them.
        scales: K.

    Returns:
        ``(K, S, S)`` float32, from the top left along the rows.

    Raises:
        ValueError: the tokens make no square, or the channels do not divide by the scales.
    """
    tokens, channels = features.shape
    side = math.isqrt(tokens)
    if side * side != tokens or channels % scales:
        raise ValueError(f"features of {tokens} x {channels} are not those of {scales} scales of a square")
    blocks = features.astype(np.float32).reshape(side, side, scales, channels // scales)
    return np.linalg.norm(blocks, axis=-1).transpose(2, 0, 1)


def tiles_picture(
    data: bytes, where: str, scales: Sequence[int], fit: Fit, lengths: np.ndarray | None = None
) -> Image.Image:
    """The square that was prepared of an image at each scale, with the tiles it is cut into; below, the norms over it.

    Args:
        data: contents of an image file.
        where: how to name the image in an error.
        scales: side of the square in pixels at each scale, each a multiple of the first.
        fit: how the image became a square.
        lengths: of ``norms``; None leaves the lower row out.

    Raises:
        DataError: the image cannot be decoded.
    """
    square = Image.fromarray(to_rgb_square(decode(data, where), max(scales), fit))
    rows = _TITLE + PANEL + (0 if lengths is None else _GAP + _TITLE + PANEL)
    wide = len(scales) * (PANEL + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (wide, _HEAD + rows + (_MARGIN if lengths is None else _FOOT)), "white")
    pen = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (26, 20))
    pen.text((_MARGIN, 18), "What the model sees: the image at each scale, cut into tiles", _INK, large)
    for number, side in enumerate(scales):
        left, top = _MARGIN + number * (PANEL + _MARGIN), _HEAD + _TITLE
        across = side // scales[0]
        count = "1 tile" if across == 1 else f"{across * across} tiles"
        pen.text((left, _HEAD), f"{side} pixels, {count} of {scales[0]}", _PALE, small)
        seen = _seen(square, side)
        sheet.paste(seen, (left, top))
        _draw_grid(pen, (left, top), across)
        if lengths is None:
            continue
        top += PANEL + _GAP + _TITLE
        cells = f"{lengths.shape[1]} x {lengths.shape[2]}"
        pen.text((left, top - _TITLE), f"feature norm, {cells} places", _PALE, small)
        sheet.paste(heat(seen, lengths[number]), (left, top))
        _draw_scale(sheet, pen, (left, top + PANEL + 14), lengths[number])
    return sheet


def heat(image: Image.Image, field: np.ndarray) -> Image.Image:
    """A field in colour over an image in grey, each of its cells a rectangle: little is dark, much is pale.

    Args:
        image: of any mode.
        field: ``(S, S)`` of any number type.
    """
    low, high = _ends(field)
    scaled = (field - low) / (high - low) if high > low else np.zeros_like(field, dtype=np.float32)
    colours = Image.fromarray(colour_scale(scaled)).resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image.convert("L").convert("RGB"), colours, _COVER)


def _ends(field: np.ndarray) -> tuple[float, float]:
    """Where the colours begin and end: a few tokens of a transformer are far longer than all others."""
    low, high = np.percentile(field, _SHOWN)
    return float(low), float(high)


def colour_scale(values: np.ndarray) -> np.ndarray:
    """RGB of values from 0 to 1, of others that of the nearer end: ``values.shape + (3,)`` uint8."""
    places = np.linspace(0, 1, len(_STOPS))
    parts = [np.interp(values, places, _STOPS[:, band]) for band in range(3)]
    return np.rint(np.stack(parts, axis=-1)).astype(np.uint8)


def _seen(square: Image.Image, side: int) -> Image.Image:
    """The square at the resolution of one scale, shown at the size of a panel; pixels are seen where that is even.

    It is smoothed as it shrinks, also where the tower takes single pixels.
    """
    small = square.resize((side, side), Image.Resampling.BICUBIC)
    even = PANEL % side == 0
    return small.resize((PANEL, PANEL), Image.Resampling.NEAREST if even else Image.Resampling.BICUBIC)


def _draw_grid(pen: ImageDraw.ImageDraw, place: tuple[int, int], across: int) -> None:
    """The borders of the tiles, dark below and bright above, to be seen on any image."""
    left, top = place
    for width, ink in ((5, (0, 0, 0)), (2, _GRID)):
        for number in range(1, across):
            at = number * PANEL // across
            pen.line((left + at, top, left + at, top + PANEL - 1), ink, width)
            pen.line((left, top + at, left + PANEL - 1, top + at), ink, width)
        pen.rectangle((left, top, left + PANEL - 1, top + PANEL - 1), outline=ink, width=width)


def _draw_scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, place: tuple[int, int], field: np.ndarray) -> None:
    """The colours from the smallest to the largest value, and these in figures."""
    ramp = colour_scale(np.linspace(0, 1, PANEL))[None].repeat(_BAR, axis=0)
    sheet.paste(Image.fromarray(ramp), place)
    font = ImageFont.load_default(20)
    left, below = place[0], place[1] + _BAR + 6
    low, high = _ends(field)
    pen.text((left, below), f"{low:.3g} and less", _PALE, font)
    pen.text((left + PANEL, below), f"{high:.3g} and more", _PALE, font, anchor="ra")
