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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from medvlm_cli.core.errors import DataError

if TYPE_CHECKING:
    import torch

Fit = Literal["squash", "pad", "crop"]
"""How an image becomes a square; see ``to_rgb_square``."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of each RGB channel, from 0 to 1, that CLIP towers were trained with (openai/CLIP, clip.py)."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation to ``MEAN``."""

MAX_PIXELS = 50_000_000
"""Largest image that is decoded; 150 MB as RGB."""
_BAND_PIXELS = 1 << 20
MAX_BYTES = 256 * 1024 * 1024
"""Largest image file that is read."""
_MANY_TIMES = 1.75
"""An image that shrinks this much in both directions needs no pass of Pillow; see ``_resampled``."""
_FINE = 30
"""Most that the mean step of the finer quantisation table may be: 29 at quality 75, 58 at 50 (IJG's scale)."""
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""What turns pixels of each EXIF orientation upright; without a copy."""
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


def prepare(data: bytes, where: str, size: int, mode: Fit) -> np.ndarray:
    """An image file as the square of pixels that the tower takes: ``to_rgb_square(decode(...))``, but faster for JPEGs.

    Of a JPEG every value is within one grey level of that, with one exception: of an image of quality 75 or more that
    shrinks by 1.75 times or more in both directions, about one value in ten million is two levels off (3 in 92 million
    of photographic texture, 8 in 17 million of an even ramp).  All other formats, and every JPEG that a strict decoder
    refuses, are exactly that: ``decode`` is the authority on what is an image.

    Args:
        data: contents of an image file in one of ``FORMATS``.
        where: how to name the image in an error: file and row.
        size: side of the square in pixels.
        mode: as of ``to_rgb_square``.

    Returns:
        ``(size, size, 3)`` uint8, contiguous.

    Raises:
        ImageTooBigError: more than ``MAX_PIXELS``, found out before decoding.
        DataError: not an image of these formats, corrupt, or truncated.
    """
    jpeg = _sound_jpeg(data)
    if jpeg is None:
        return to_rgb_square(decode(data, where), size, mode)
    pixels, fine = jpeg
    (left, top, right, bottom), inner = _plan(pixels.shape[1], pixels.shape[0], size, mode)
    return _on_page(_resampled(np.ascontiguousarray(pixels[top:bottom, left:right]), *inner, fine), size)


def _sound_jpeg(data: bytes) -> tuple[np.ndarray, bool] | None:
    """A JPEG without the slightest fault, decoded and upright, and whether it is finely quantised; else None."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    import simplejpeg

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:  # reads the header only
            width, height = image.size
            if not isinstance(image, JpegImageFile) or image.format != "JPEG":  # MPO is a kind of JpegImageFile
                return None
            if image.mode not in ("RGB", "L") or width * height > MAX_PIXELS:
                return None
            turn = _turn(image)
            fine = min(sum(steps) / len(steps) for steps in image.quantization.values()) <= _FINE
        pixels = simplejpeg.decode_jpeg(data, strict=True)  # a warning, such as of a missing end, is an error
    except Exception:  # whatever it is, ``decode`` meets it again and says it
        return None
    return (turn(pixels), fine) if pixels.shape == (height, width, 3) else None


def _turn(image: Image.Image) -> Callable[[np.ndarray], np.ndarray]:
    """What ``upright`` does, for pixels."""
    with contextlib.suppress(Exception):
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1), np.asarray)
    return np.asarray


def _resampled(pixels: np.ndarray, width: int, height: int, fine: bool) -> np.ndarray:
    """Pixels of another size, each value within one grey level of Pillow's bicubic; see ``prepare``.

    Both resample in two passes and round and clip between them, so the order of the passes is Pillow's too: with the
    other one, values differ by 30.  PyTorch's weights have 16 bits, which moves one value in 300 over the edge of a
    rounding: one level after the second pass.  What the first pass moves can add another level in the second, unless
    that averages over many values that differ; those in blocks of few frequencies do not.  So the first pass is
    Pillow's, eight times as slow, unless the image gets much smaller and was finely quantised.

    Args:
        pixels: ``(H, W, 3)`` uint8, contiguous.
        width: the new W.
        height: the new H.
        fine: False for blocks of few frequencies.
    """
    import torch

    old_height, old_width, _ = pixels.shape
    rows_first = old_height > height and old_height - height > 2 * (old_width - width)  # Pillow 13, Resample.c
    between = (old_width, height) if rows_first else (width, old_height)
    if not fine or min(old_width / width, old_height / height) < _MANY_TIMES:
        pixels = np.array(Image.fromarray(pixels).resize(between, Image.Resampling.BICUBIC))
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    return _bicubic(_bicubic(planes, *between), width, height)[0].permute(1, 2, 0).numpy()


def _bicubic(planes: "torch.Tensor", width: int, height: int) -> "torch.Tensor":
    import torch.nn.functional as F

    if planes.shape[2:] == (height, width):
        return planes
    return F.interpolate(planes, (height, width), mode="bicubic", antialias=True)


def to_rgb_square(image: Image.Image, size: int, mode: Fit) -> np.ndarray:
    """An RGB image as a square of pixels, resampled bicubically with antialiasing.

    Args:
        image: as ``decode`` gives it.
        size: side of the square in pixels.
        mode: ``squash`` stretches both sides to ``size``; ``pad`` keeps the aspect ratio and fills up with the mean
            colour of CLIP, image in the middle; ``crop`` keeps the aspect ratio and cuts the middle out.

    Returns:
        ``(size, size, 3)`` uint8.
    """
    cut, inner = _plan(*image.size, size, mode)
    if cut != (0, 0, *image.size):
        image = image.crop(cut)
    return _on_page(np.asarray(image.resize(inner, Image.Resampling.BICUBIC)), size)


def _plan(width: int, height: int, size: int, mode: Fit) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """What is cut out of an image, as left, top, right and bottom, and the width and height it is resampled to."""
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return (left, top, left + side, top + side), (size, size)  # a strip of 50,000 x 10 stays small
    if mode == "squash":
        return (0, 0, width, height), (size, size)
    longest = max(width, height)
    return (0, 0, width, height), (max(1, round(width * size / longest)), max(1, round(height * size / longest)))


def _on_page(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pixels in the middle of a square of CLIP's mean colour, contiguous."""
    height, width, _ = pixels.shape
    if height == width == size:
        return np.ascontiguousarray(pixels)
    page = np.empty((size, size, 3), dtype=np.uint8)
    page[:] = [int(mean * 255) for mean in MEAN]
    left, top = (size - width) // 2, (size - height) // 2
    page[top : top + height, left : left + width] = pixels
    return page
