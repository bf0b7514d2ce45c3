"""How many panels a figure has, by the white or black gutters between them.

Recursive XY-cut (Nagy and Seth 1984) that would rather see one panel than too many: a gutter counts only between parts
that are dense, of many tones, straight-edged and of comparable size, as photographs are and charts are not.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from PIL import Image

from medvlm_cli.sources.pixels import sampled

MOST_PANELS = 12
_SIDE = 400
"""Pixels of the longer side that are looked at."""
_SMALLEST = 128
"""Pixels of a panel in the image as it is."""
_WHITE, _BLACK = 244, 12
"""Grey levels from which, or up to which, a pixel may belong to a gutter."""
_BLANK = 0.985
"""Share of a line's pixels that have the colour of the gutter; the rest is noise of the JPEG, or a thin arrow."""
_EDGE = 0.6
"""Share of the line beside a gutter that has another colour: panels end in a straight line, curves do not."""
_DENSITY, _TONES = 0.4, 6
"""Share of a part that is neither gutter nor paper, and grey levels (of 32) in it; bars of a chart have one."""
_RATIO = 3.0
"""Largest part of a cut over the smallest."""

Box = tuple[int, int, int, int]
"""Top, bottom, left and right, in pixels of the small copy; bottom and right are outside."""


def n_panels_image(image: Image.Image) -> int:
    """Panels that gutters tell apart, 1 to ``MOST_PANELS``; a chart, a drawing or a single photograph is 1.

    Takes under 2 ms for an image of 600 x 455 pixels.

    Args:
        image: decoded, of any mode and size.
    """
    if max(image.size) < 2 * _SMALLEST:
        return 1
    grey = np.asarray(sampled(image, _SIDE, "L"))
    scale = max(image.size) / max(grey.shape)
    least = max(max(grey.shape) / 8, _SMALLEST / scale)
    height, width = grey.shape
    waiting: list[Box] = [(0, height, 0, width)]
    panels = 0
    while waiting and panels + len(waiting) < MOST_PANELS:
        box = waiting.pop()
        parts = _cut(grey, box, least)
        if len(parts) > 1:
            waiting += parts
        else:
            panels += 1
    return min(panels + len(waiting), MOST_PANELS)


def _cut(grey: np.ndarray, box: Box, least: float) -> list[Box]:
    """The parts of a box along the first axis and colour that have a gutter; the box alone where there is none."""
    top, bottom, left, right = box
    region = grey[top:bottom, left:right]
    for gutter in (region >= _WHITE, region <= _BLACK):
        for axis in (0, 1):
            if gutter.shape[axis] < 2 * least:
                continue
            filled = 1 - gutter.mean(axis=1 - axis)
            spans = [span for span in _runs(filled > 1 - _BLANK) if span[1] - span[0] >= least]
            if len(spans) > 1 and _are_panels(region, gutter, filled, spans, axis):
                if axis == 0:
                    return [(top + start, top + end, left, right) for start, end in spans]
                return [(top, bottom, left + start, left + end) for start, end in spans]
    return [box]


def _runs(kept: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of every run of True."""
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _are_panels(
    region: np.ndarray, gutter: np.ndarray, filled: np.ndarray, spans: list[tuple[int, int]], axis: int
) -> bool:
    """Whether all parts of a cut look like panels.

    Args:
        region: grey levels.
        gutter: where the pixels have the colour of the gutter, as ``region``.
        filled: share of every line along ``axis`` that has another colour.
        spans: start and end of every part.
        axis: that is cut.
    """
    lengths = [end - start for start, end in spans]
    if max(lengths) > _RATIO * min(lengths):
        return False
    across = np.flatnonzero(gutter.mean(axis=axis) < _BLANK)  # the lines that are not margin of all parts
    if not across.size:
        return False
    low, high = int(across[0]), int(across[-1]) + 1
    whole = gutter.shape[1 - axis] / (high - low)  # shares are meant of what lies between the margins
    inner = [edge for one, other in itertools.pairwise(spans) for edge in (one[1] - 2, other[0] + 1)]
    if min(filled[edge] for edge in inner) * whole < _EDGE:
        return False
    for start, end in spans:
        inside = np.s_[start:end, low:high] if axis == 0 else np.s_[low:high, start:end]
        part = region[inside]
        tones = np.bincount(part.ravel() >> 3, minlength=32)
        inked = np.count_nonzero((part < _WHITE) & ~gutter[inside])  # a chart in a black frame is white, not filled
        if inked < _DENSITY * part.size or np.count_nonzero(tones > part.size // 200) < _TONES:
            return False
    return True
