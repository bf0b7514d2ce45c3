"""Whole-slide images by their tiles: a thumbnail, or a region, from the level of the pyramid that suits it best.

A slide has 10^10 pixels; it is never read whole.  What is held is the picture that comes out and one tile.

What comes out: without column ``level``, the whole slide or the region, its longest side at most ``thumbnail`` pixels,
never enlarged.  With ``level`` (0 is the largest), the pixels of that level as they are.  A region is always given in
pixels of level 0.  The label and the overview of the glass, which name the patient, are never read.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medvlm_cli.core.images import MAX_PIXELS
from medvlm_cli.sources.codestreams import stated_size
from medvlm_cli.sources.greyscale import png
from medvlm_cli.sources.scans import Choice, Picture, Region, ScanError, need, own_words

MAX_TILE_PIXELS = 16 << 20
"""Largest tile, or strip, that is decoded."""
MAX_READ_PIXELS = 2_000_000_000
"""Most pixels of a level that are decoded for one picture; about a minute."""
_MAX_DIRECTORIES = 500
_OF_GLASS = re.compile(r"^\s*(label|macro)\b", re.IGNORECASE | re.MULTILINE).search
"""In a page's description, as Aperio and Philips write it, says that the page shows the glass and not the tissue."""
_BLANK = 255  # glass where nothing lies, which scanners leave out


@dataclass(frozen=True, slots=True)
class Level:
    """One size of a slide."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    tiles: Callable[[list[tuple[int, int]]], Iterable[np.ndarray | None]]
    """Tiles by (column, row), in that order: ``(h, w)`` or ``(h, w, 3)`` uint8, None where the slide has no tile."""


def read_slide(path: Path, choice: Choice) -> list[Picture]:
    """The picture of a pyramidal TIFF, whoever's scanner wrote it.

    Args:
        path: a file that may be opened.
        choice: region, level and longest side.

    Raises:
        ScanError: not a slide that can be read, damaged, or without the region asked for.
    """
    with own_words("tifffile", "slide"):
        tifffile = need("tifffile", "a whole-slide image")
        need("imagecodecs", "a whole-slide image")
        with tifffile.TiffFile(path) as file:
            levels = [_level(page) for page in _pages(file)]
            if not levels:
                raise ScanError("corrupt_image", "no slide in tiles of 8-bit RGB or grey is in the file")
            pixels, region = shown(levels, choice)
    return [Picture(png(pixels), pixels.shape[1], pixels.shape[0], region=region)]


def is_slide(path: Path, choice: Choice) -> bool:
    """Whether a TIFF file is read as a slide: a pyramid, tiles too many for one picture, or a region is asked for.

    False for what cannot be read, and where the extra ``medical`` is not installed: then it is tried as a picture.
    """
    try:
        with own_words("tifffile", "slide"), need("tifffile", "a TIFF file").TiffFile(path) as file:
            pages = _pages(file)
            large = bool(pages) and pages[0].imagewidth * pages[0].imagelength > MAX_PIXELS
            tiled = bool(pages) and pages[0].is_tiled
            asked = choice.region is not None or choice.level is not None
            return bool(pages) and (asked or (tiled and (large or len(pages) > 1)))
    except ScanError:
        return False


def shown(levels: Sequence[Level], choice: Choice) -> tuple[np.ndarray, Region]:
    """The pixels that are wanted of a slide.

    Args:
        levels: of the same picture, the largest first.
        choice: region, level and longest side.

    Returns:
        ``(H, W)`` or ``(H, W, 3)`` uint8, and the region in pixels of the first level.

    Raises:
        ScanError: the region or the level is not in the slide, or too large to be read.
    """
    base = levels[0]
    region = choice.region or (0, 0, base.width, base.height)
    left, top, width, height = region
    if left + width > base.width or top + height > base.height:
        raise ScanError("bad_row", f"the region leaves the slide, which has {base.width} x {base.height} pixels")
    if choice.level is not None and choice.level >= len(levels):
        raise ScanError("bad_row", f"level {choice.level} was asked for, the slide has 0 to {len(levels) - 1}")
    boxes = [_scaled(region, base, level) for level in levels]
    if choice.level is not None:
        number, step = choice.level, 1
    else:
        enough = [place for place, box in enumerate(boxes) if max(box[2:]) >= choice.thumbnail]
        number = enough[-1] if enough else 0
        step = max(1, max(boxes[number][2:]) // choice.thumbnail)
    _, _, width, height = boxes[number]
    if width * height > (MAX_PIXELS if step == 1 else MAX_READ_PIXELS):
        raise ScanError("image_too_big", f"{width} x {height} pixels would have to be read: cut a smaller region")
    pixels = _reduced(levels[number], boxes[number], step)
    return (pixels if choice.level is not None else _fitted(pixels, choice.thumbnail)), region


def _scaled(region: Region, base: Level, level: Level) -> Region:
    """A region of level 0 in pixels of another level; at least one, and inside."""
    across, down = level.width / base.width, level.height / base.height
    left, top = min(int(region[0] * across), level.width - 1), min(int(region[1] * down), level.height - 1)
    width = max(1, min(round(region[2] * across), level.width - left))
    return left, top, width, max(1, min(round(region[3] * down), level.height - top))


def _reduced(level: Level, box: Region, step: int) -> np.ndarray:
    """The means of squares of ``step`` pixels over a box, made tile by tile.

    Args:
        level: what to read.
        box: left, top, width and height in pixels of the level.
        step: side of a square; squares at the right and at the bottom may be cut.
    """
    left, top, width, height = box
    wanted = [
        (column, row)
        for row in range(top // level.tile_height, (top + height - 1) // level.tile_height + 1)
        for column in range(left // level.tile_width, (left + width - 1) // level.tile_width + 1)
    ]
    out = np.zeros((-(-height // step), -(-width // step), 3), np.uint8 if step == 1 else np.uint32)
    grey = True
    for (column, row), tile in zip(wanted, level.tiles(wanted), strict=True):
        x, y = column * level.tile_width, row * level.tile_height
        rows = slice(max(y, top), min(y + level.tile_height, top + height))
        columns = slice(max(x, left), min(x + level.tile_width, left + width))
        if tile is None:
            part = np.full((rows.stop - rows.start, columns.stop - columns.start, 3), _BLANK, np.uint8)
        else:
            grey = grey and tile.ndim == 2
            cut = tile[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            part = cut if cut.ndim == 3 else np.repeat(cut[..., None], 3, axis=2)
        _add(out, part, (rows.start - top, columns.start - left), step)
    if step > 1:
        out = _means(out, (height, width), step)
    return out[..., 0] if grey else out


def _add(out: np.ndarray, part: np.ndarray, place: tuple[int, int], step: int) -> None:
    """Add a piece of a level to the squares it lies in; ``place`` is its top and left in the box."""
    if step == 1:
        out[place[0] : place[0] + part.shape[0], place[1] : place[1] + part.shape[1]] = part
        return
    sums = part.astype(np.uint32)
    slices = []
    for axis in (0, 1):
        squares = (place[axis] + np.arange(part.shape[axis])) // step
        sums = np.add.reduceat(sums, np.flatnonzero(np.diff(squares, prepend=-1)), axis=axis)
        slices.append(slice(squares[0], squares[-1] + 1))
    out[slices[0], slices[1]] += sums


def _means(sums: np.ndarray, size: tuple[int, int], step: int) -> np.ndarray:
    counts = [
        np.minimum(step, full - step * np.arange(squares)) for full, squares in zip(size, sums.shape, strict=False)
    ]
    return np.rint(sums / np.outer(counts[0], counts[1])[..., None]).astype(np.uint8)


def _fitted(pixels: np.ndarray, longest: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _pages(file: Any) -> list[Any]:
    """The levels of the slide itself, the largest first; none where the file holds no slide that can be read.

    Of several pictures in the file the largest in tiles counts.  Label and overview are told by their name or their
    description, and where they have none by their shape: a level has the shape of the first one.

    Raises:
        ScanError: the directories of the file do not end.
    """
    _check_directories(file)
    named = [each for each in file.series if each.name not in ("Label", "Macro", "Thumbnail", "Map")]
    series = [[level.pages[0] for level in each.levels] for each in named]
    pages = [[page for page in levels if page is not None and not _OF_GLASS(page.description)] for levels in series]
    found = max(pages, key=_rank, default=[])
    if not found or not _readable(found[0]):
        return []
    first = found[0]
    shape = first.imagewidth / first.imagelength
    alike = [page for page in found if abs(page.imagewidth / page.imagelength / shape - 1) < 0.05 and _readable(page)]
    return sorted(alike, key=lambda page: -page.imagewidth)


def _check_directories(file: Any) -> None:
    """Refuse what tifffile would follow for minutes: one flipped byte makes two sub-directories a million."""
    for number in range(_MAX_DIRECTORIES):
        try:
            page = file.pages[number]
        except IndexError:
            return
        children = page.tags.get("SubIFDs")
        if children is not None and children.count > _MAX_DIRECTORIES:
            break
    raise ScanError("corrupt_image", f"the slide has more than {_MAX_DIRECTORIES} directories")


def _rank(pages: list[Any]) -> tuple[bool, int]:
    """Tiles before strips, which labels are in, then the number of pixels."""
    return (pages[0].is_tiled, pages[0].imagewidth * pages[0].imagelength) if pages else (False, 0)


def _readable(page: Any) -> bool:
    eight = page.dtype == np.uint8 and page.bitspersample == 8
    flat = page.imagedepth == 1 and page.imagewidth > 0 and page.imagelength > 0
    return bool(eight and flat and page.samplesperpixel in (1, 3, 4) and page.photometric in (1, 2, 6))


def _level(page: Any) -> Level:
    """A level of a TIFF.

    Raises:
        ScanError: its tiles are too large to be decoded one at a time.
    """
    wide, high = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    high = min(high, page.imagelength) if not page.is_tiled else high
    if wide * high > MAX_TILE_PIXELS or wide < 1 or high < 1:
        raise ScanError("image_too_big", f"tiles of {wide} x {high} pixels, over the limit of {MAX_TILE_PIXELS:,}")
    across, down = -(-page.imagewidth // wide), -(-page.imagelength // high)
    planes = 1 if page.planarconfig == 1 else page.samplesperpixel

    def tiles(wanted: list[tuple[int, int]]) -> Iterator[np.ndarray | None]:
        for column, row in wanted:
            place = row * across + column
            parts = [_segment(page, plane * across * down + place) for plane in range(planes)]
            found = [part for part in parts if part is not None]
            pixels = np.concatenate(found, axis=2)[..., :3] if len(found) == planes else None
            yield pixels[..., 0] if pixels is not None and pixels.shape[2] < 3 else pixels

    return Level(page.imagewidth, page.imagelength, wide, high, tiles)


def _segment(page: Any, index: int) -> np.ndarray | None:
    """One tile or strip, ``(h, w, samples)``, cut to the image; None where the file holds none.

    Raises:
        ScanError: it has more bytes than its pixels could need.
    """
    offset, size = page.dataoffsets[index], page.databytecounts[index]
    if not offset or not size:
        return None
    wide, high = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    if size > 2 * wide * high * page.samplesperpixel + (1 << 16):
        raise ScanError("image_too_big", "a tile has more bytes than its pixels could need")
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in (6, 7) else {}
    decode = page.decode
    handle = page.parent.filehandle
    handle.seek(offset)  # only now: the tables, and the choice of a decoder, are read from the file too
    stored = handle.read(size)
    claimed = stated_size(stored)
    if claimed is not None and (claimed[0] > wide or claimed[1] > high):
        raise ScanError("image_too_big", "a tile claims more pixels than a tile of this slide has")
    data, _, _ = decode(stored, index, **tables)
    return None if data is None else np.asarray(data).reshape(data.shape[-3:])
