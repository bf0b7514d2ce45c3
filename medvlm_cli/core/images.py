"""Image files from anywhere become RGB pixels, or a ``DataError`` that names the file.

What is done to an odd image, in this order: the first frame of an animation; EXIF orientation applied; greyscale of
more than 8 bits stretched from its own darkest to its own brightest value (12-bit values in a 16-bit file would be
near black by bit depth; windows in physical units are for DICOM); transparency laid over white, as on a page; palette,
CMYK and the rest converted to RGB.  Colour profiles are ignored.
"""

import contextlib
import io
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medvlm_cli.core.errors import DataError

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of each RGB channel, from 0 to 1, that CLIP towers were trained with (openai/CLIP, clip.py)."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation to ``MEAN``."""

MAX_PIXELS = 50_000_000
"""Largest image that is decoded; 150 MB as RGB."""
_BAND_PIXELS = 1 << 20
MAX_BYTES = 256 * 1024 * 1024
"""Largest image file that is read."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""Formats of Pillow that may open a file: its other 37 readers are attack surface."""

# Pillow warns of what it then raises, or of metadata nobody reads; a run over many files would print it for each.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageTooBigError(DataError):
    """An image is over ``MAX_PIXELS`` or ``MAX_BYTES``."""


class UnsafePathError(DataError):
    """A path leads out of the folder it was given in."""


def find_inside(root: Path, path: Path, limit: int) -> Path:
    """The real path of a regular file that lies in ``root`` once every symbolic link is followed.

    Args:
        root: folder that must hold the file.
        path: the file.
        limit: most bytes it may have.

    Raises:
        UnsafePathError: ``path`` leads out of ``root``.
        ImageTooBigError: the file is larger than ``limit``.
        DataError: the file is not there, empty, not a regular file, or its name cannot be a path.
    """
    try:
        real = path.resolve()
        if not real.is_relative_to(root.resolve()):
            raise UnsafePathError(f"{path} leads out of {root}", "copy the file into the folder")
        status = real.stat()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the name; RuntimeError: links in a ring
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise DataError(f"{path} is not a file")
    if status.st_size > limit:
        raise ImageTooBigError(f"{path} has {status.st_size:,} bytes, over the limit of {limit:,}")
    if not status.st_size:
        raise DataError(f"{path} is empty")
    return real


def read_inside(root: Path, path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file that lies in ``root`` once every symbolic link is followed.

    Args:
        root: folder that must hold the file.
        path: the file.
        limit: most bytes to read.

    Raises:
        UnsafePathError: ``path`` leads out of ``root``.
        ImageTooBigError: the file is larger than ``limit``.
        DataError: the file is not there, empty, not a regular file, or cannot be read.
    """
    try:
        return find_inside(root, path, limit).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def decode(data: bytes, where: str) -> Image.Image:
    """The whole image, decoded to the last row, upright and in RGB.

    ``Image.verify`` is not enough: it passes 297 of 300 truncated JPEGs, a full load passes none.

    Args:
        data: contents of an image file in one of ``FORMATS``.
        where: how to name the image in an error: file and row.

    Raises:
        ImageTooBigError: more than ``MAX_PIXELS``, found out before decoding.
        DataError: not an image of these formats, corrupt, or truncated.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageTooBigError(
                    f"{where}: {width} x {height} pixels, over the limit of {MAX_PIXELS:,}", "reduce or cut the image"
                )
            image.load()
            return _rgb(upright(image))
    except (MemoryError, DataError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooBigError(f"{where}: {error}", "reduce or cut the image") from error
    except Exception as error:  # Pillow's readers raise whatever their struct, zlib or index arithmetic raises
        if data[128:132] == b"DICM":
            raise DataError(f"{where}: a DICOM file, for `medvlm fetch folder`", "or export it as PNG") from error
        detail = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        formats = ", ".join(FORMATS)
        raise DataError(f"{where}: not a readable image ({detail})", f"give an undamaged {formats}") from error


def upright(image: Image.Image) -> Image.Image:
    """The same image, turned as its EXIF orientation says, where that can be read."""
    with contextlib.suppress(Exception):  # a broken EXIF block says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # I;16, I;16B, I, F
        return _stretched(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    page = Image.new("RGB", image.size)
    for top, band in _bands(image):
        white = Image.new("RGBA", band.size, "white")
        page.paste(Image.alpha_composite(white, band.convert("RGBA")).convert("RGB"), (0, top))
    return page


def _stretched(image: Image.Image) -> Image.Image:
    """Greyscale of any depth as 8 bits, the smallest value black and the largest white; a constant image is black."""
    ends = [(band.min(), band.max()) for band in (_values(band) for _, band in _bands(image))]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    page = Image.new("L", image.size)
    for top, band in _bands(image) if high > low else ():
        scaled = (_values(band) - low) * (255.0 / (high - low))
        page.paste(Image.fromarray(np.rint(scaled).astype(np.uint8)), (0, top))
    return page


def _values(band: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(band).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in bands of some rows, each with its top: what is made on the way stays small beside the image."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def to_rgb_square(image: Image.Image, size: int, mode: Literal["squash", "pad", "crop"]) -> np.ndarray:
    """An RGB image as a square of pixels, resampled bicubically with antialiasing.

    Args:
        image: as ``decode`` gives it.
        size: side of the square in pixels.
        mode: ``squash`` stretches both sides to ``size``; ``pad`` keeps the aspect ratio and fills up with the mean
            colour of CLIP, image in the middle; ``crop`` keeps the aspect ratio and cuts the middle out.

    Returns:
        ``(size, size, 3)`` uint8.
    """
    width, height = image.size
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))  # before resampling: a 50,000 x 10 strip stays small
    if mode == "pad":
        longest = max(width, height)
        inner = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
        page = Image.new("RGB", (size, size), tuple(int(mean * 255) for mean in MEAN))
        page.paste(image.resize(inner, Image.Resampling.BICUBIC), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return np.asarray(page)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
