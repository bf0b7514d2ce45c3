"""One image of the user's, opened to be talked about: a picture, a frame, a slice or a piece of a slide.

Everything that ``fetch folder`` reads is read here, by the same code.  Nothing that a file says of a patient passes:
scans are called after their pixels, and pictures lose what cameras and programs wrote beside the pixels.  The libraries
of the extra ``medical`` are loaded for a file that needs them, PyTorch never.
"""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image, ImageStat, UnidentifiedImageError

from medvlm_cli.core.clean import clean
from medvlm_cli.core.config import AXES, FetchConfig, window_of
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.images import FORMATS, MAX_BYTES, ImageTooBigError, decode, find_inside
from medvlm_cli.sources.dicom import read_dicom
from medvlm_cli.sources.greyscale import deep_values, shown_deep
from medvlm_cli.sources.metadata import bare_jpeg, bare_png
from medvlm_cli.sources.nifti import read_nifti
from medvlm_cli.sources.scans import (
    MAX_SCAN_BYTES,
    MAX_SLIDE_BYTES,
    Choice,
    Picture,
    Region,
    ScanError,
    WindowFrom,
    kind_of,
    may_name_a_patient,
    region_of,
)
from medvlm_cli.sources.slides import is_slide, read_slide

FRAMES = ("middle", "first", "last")
SMALL = 64
"""Pixels; an image with a shorter side has little to tell."""
BLANK = 2.0
"""Grey levels; below this deviation an image is as good as blank."""
LONG = 4.0
"""How many times as long as wide an image may be: the model looks at squares."""

_SOURCES: dict[WindowFrom | None, str] = {
    None: "",
    "asked": "as asked",
    "named": "the file's own of this name",
    "file": "as the file says",
    "table": "by the file's own table",
    "preset": "soft-tissue, because it looks like CT and no window is given",
    "range": "no window is given: the range of its values",
}


@dataclass(frozen=True, kw_only=True)
class View:
    """What is wanted of a file, as text that a user typed."""

    window: str = ""
    """A name of ``core.config.WINDOWS``, or ``center,width``; empty: the file's own."""
    frame: str = "middle"
    """Frame or slice: ``middle``, ``first``, ``last``, or a number from 0."""
    axis: str = "axial"
    """Plane in which a volume is cut."""
    region: str = ""
    """``left,top,width,height`` in pixels of a slide's largest level; empty: all of it."""


AS_IT_IS = View()


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An image that was read and decoded once, so that it is known to be good."""

    name: str
    """What may be shown, stored and logged: the file's name, or for scans the kind and a hash of the pixels."""
    path: str = field(repr=False)
    """Path or address as the user typed it, to open it again; never stored, because it may name a patient."""
    view: View
    """What was asked for."""
    data: bytes = field(repr=False)
    """An image file that ``core.images.decode`` reads, without metadata."""
    sha256: str
    """Of ``data``, in hex."""
    width: int
    """Pixels, as a viewer shows it."""
    height: int
    mode: str
    """Colours of the file as Pillow calls them, ``RGB``, ``L``, ``I;16``."""
    window: tuple[float, float] | None = None
    """Centre and width; None where values are shown as they are, or by a table of the file."""
    window_source: str = ""
    """Whose window it is, in a few words for people; empty where there is no window."""
    frame: int | None = None
    """Frame or slice, from 0; None for a picture and a slide."""
    frames: int = 1
    region: Region | None = None
    """Of a slide, in pixels of its largest level."""
    modality: str | None = None
    """What a DICOM file says it is, by a name of ours."""
    burned_in: bool | None = None
    """Whether a DICOM file says that words are in its pixels."""
    warnings: tuple[str, ...] = ()
    """What a user should know before asking, a line each."""


def open_image(path: Path, view: View = AS_IT_IS) -> Opened:
    """Read and decode what a user wants to see of a file.

    Args:
        path: the user's own; a symbolic link may lead anywhere.
        view: window, frame and the like.

    Raises:
        ConfigError: ``view`` holds something else than it may.
        DataError: the file is missing, damaged, too large, of a format that is not read, or lacks what is asked for;
            the message names the path, and nothing that is in the file.
    """
    choice = _choice(view)
    root = Path(os.path.realpath(path)).parent
    file = find_inside(root, path, MAX_SLIDE_BYTES)
    kind = kind_of(root, path)
    with _told_of(str(path)):
        if kind == "dicom":
            return _of_scan(read_dicom(find_inside(root, path, MAX_SCAN_BYTES), choice)[0], "dicom", str(path), view)
        if kind == "nifti":
            return _of_scan(read_nifti(find_inside(root, path, MAX_SCAN_BYTES), choice)[0], "nifti", str(path), view)
        if kind == "slide" or (kind == "tiff" and is_slide(file, choice)):
            return _of_scan(read_slide(file, choice)[0], "slide", str(path), view)
        data = find_inside(root, path, MAX_BYTES).read_bytes()
    return open_picture(data, str(path), "" if may_name_a_patient(path, kind) else path.name, view)


def open_place(place: str, view: View = AS_IT_IS, *, allow_url: bool = False) -> Opened:
    """As ``open_image``, or from the network where ``place`` is an address and the user allows it.

    Args:
        place: path, or address that begins with ``https://``.
        view: as of ``open_image``.
        allow_url: an address may be fetched.

    Raises:
        ConfigError: an address is given and not allowed, or leads where it may not.
        DataError: as of ``open_image``.
        RemoteError: nothing comes from the address.
    """
    if "://" not in place:
        return open_image(Path(place), view)
    from medvlm_cli.sources.remote_image import named, open_url  # aiohttp loads here

    if not allow_url:
        raise ConfigError(f"{named(place)} is an address, not a file", "allow it with --allow-url, or download it")
    return open_url(place, view)


def open_picture(data: bytes, place: str, name: str = "", view: View = AS_IT_IS) -> Opened:
    """A picture that is no scan: upright, without its metadata.

    Of a JPEG and a PNG the bytes of the pixels are kept; other formats become PNG of the very pixels that
    ``core.images.decode`` gives.

    Args:
        data: contents of an image file.
        place: path or address, for errors and for opening it again.
        name: what it may be called; empty: after its contents.
        view: a window for greyscale of more than 8 bits.

    Raises:
        ConfigError: ``view`` holds something else than it may.
        DataError: as of ``open_image``.
    """
    choice = _choice(view)
    with _told_of(place):
        kept, pixels, mode, window, source, several = _decoded(data, place, choice)
    digest = _hash(kept)
    warnings = [*_unused(view, "picture", window is not None, False), *_looks(pixels)]
    if window is not None and choice.preset and source != "asked":
        warnings.append(f"the window {view.window} is for CT, which this does not look like: it is not applied")
    if several:
        warnings.append("the file has several frames or pages: the first is shown")
    return Opened(
        name=clean(name) or f"picture-{digest[:12]}",
        path=place,
        view=view,
        data=kept,
        sha256=digest,
        width=pixels.width,
        height=pixels.height,
        mode=mode,
        window=window,
        window_source=_SOURCES[source],
        warnings=tuple(warnings),
    )


_Decoded = tuple[bytes, Image.Image, str, tuple[float, float] | None, WindowFrom | None, bool]
"""Bytes to keep, RGB pixels, mode of the file, window and whose it is, whether the file has more than one frame."""


def _decoded(data: bytes, place: str, choice: Choice) -> _Decoded:
    """Decode a picture once, as the model will.

    Raises:
        DataError: it cannot be decoded.
    """
    pixels = decode(data, place)  # first: it judges the size before anything is read
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        kind, mode, turned = image.format, image.mode, _orientation(image)
        several = bool(getattr(image, "is_animated", False))
    deep = deep_values(data) if mode[0] in "IF" else None
    window: tuple[float, float] | None = None
    source: WindowFrom | None = None
    if deep is not None:
        shown, window = shown_deep(deep, choice)
        source = "asked" if shown else "range"
        if shown:
            return shown, decode(shown, place), mode, window, source, several
    kept = None
    if kind in ("JPEG", "MPO"):
        kept = bare_jpeg(data, turned)
    elif kind == "PNG" and turned == 1:
        kept = bare_png(data)
    return kept or _png(pixels), pixels, mode, window, source, several


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # as ``core.images.upright``: a broken EXIF block says nothing
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1
    return 1


def _png(pixels: Image.Image) -> bytes:
    """The quickest PNG of RGB pixels; grey where they all are."""
    red, green, blue = pixels.split()
    grey = red.tobytes() == green.tobytes() == blue.tobytes()
    out = io.BytesIO()
    bare = red if grey else pixels
    bare.info.clear()  # Pillow would write a colour profile and EXIF along
    bare.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _of_scan(picture: Picture, kind: str, place: str, view: View) -> Opened:
    with Image.open(io.BytesIO(picture.png), formats=("PNG",)) as image:
        mode, pixels = image.mode, image.convert("RGB")
    warnings = [*_unused(view, kind, picture.window_from is not None, picture.region is not None), *_looks(pixels)]
    if kind == "dicom" and picture.burned_in is not False:
        says = "says that words are" if picture.burned_in else "does not say that no words are"
        warnings.append(f"the file {says} burned into its pixels: they may name the patient")
    named = bool(view.window) and "," not in view.window
    if named and picture.window_from not in ("asked", "named", None):
        warnings.append(f"the window {view.window} is for CT, which this is not: it is not applied")
    return Opened(
        name=f"{kind}-{(picture.pixels or _hash(picture.png))[:12]}",
        path=place,
        view=view,
        data=picture.png,
        sha256=_hash(picture.png),
        width=picture.width,
        height=picture.height,
        mode=mode,
        window=picture.window,
        window_source=_SOURCES[picture.window_from],
        frame=picture.frame,
        frames=picture.frames,
        region=picture.region,
        modality=picture.modality,
        burned_in=picture.burned_in,
        warnings=tuple(warnings),
    )


def _choice(view: View) -> Choice:
    """What the readers of ``sources`` are asked for.

    Raises:
        ConfigError: a part of ``view`` is something else than it may be.
    """
    window = window_of(view.window) if view.window else None
    if view.frame not in FRAMES and not (view.frame.isascii() and view.frame.isdigit() and len(view.frame) < 10):
        raise ConfigError(f"frame is {view.frame!r}", f"give {', '.join(FRAMES)}, or a number from 0")
    if view.axis not in AXES:
        raise ConfigError(f"axis is {view.axis!r}", f"give one of {', '.join(AXES)}")
    try:
        region = region_of(view.region)
    except ScanError:
        region = None
    if view.region and region is None:
        raise ConfigError(f"region is {view.region!r}", "give left,top,width,height in pixels of the largest level")
    preset = "" if "," in view.window else view.window
    return Choice(window, preset, view.frame, view.axis, volume=0, thumbnail=FetchConfig.thumbnail, region=region)


def _unused(view: View, kind: str, windowed: bool, cut: bool) -> Iterator[str]:
    """What was asked for and has no meaning for this file."""
    if view.window and not windowed:
        yield "a window is for scans and for greyscale of more than 8 bits: it is not applied"
    if view.frame != "middle" and kind in ("picture", "slide"):
        yield "a slice is for scans: it is not applied"
    if view.axis != "axial" and kind != "nifti":
        yield "an axis is for NIfTI volumes: it is not applied"
    if view.region and not cut:
        yield "a region is for whole-slide images: all of the image is shown"


def _looks(pixels: Image.Image) -> Iterator[str]:
    """What makes an image hard or useless to talk about."""
    width, height = pixels.size
    if min(width, height) < SMALL:
        yield f"{width} x {height} pixels are few: there is little to see"
    if max(width, height) > LONG * min(width, height):
        yield f"{width} x {height} pixels are a long strip: the model looks at a square"
    if all(low == high for low, high in pixels.getextrema()):  # type: ignore[misc]  # of three bands: three pairs
        yield "the image has one colour only: there is nothing to see"
    elif max(ImageStat.Stat(pixels).stddev) < BLANK:
        yield "the image is almost blank"


@contextlib.contextmanager
def _told_of(place: str) -> Iterator[None]:
    """Errors name what the user typed and quote nothing that is in the file; nor does Pillow, which logs tags.

    Raises:
        DataError: instead of whatever a reader says.
    """
    log = logging.getLogger("PIL")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except ScanError as error:
        raise DataError(f"{place}: {error.what}", error.fix) from None
    except ImageTooBigError:
        raise
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, UnidentifiedImageError):
            fix = f"give {', '.join(FORMATS)}, DICOM (named .dcm), NIfTI (.nii, .nii.gz) or a whole-slide image"
            raise DataError(f"{place}: not a readable image (unknown format)", fix) from None
        cut = "cut short" if isinstance(cause, OSError) and "truncated" in str(cause) else "damaged"
        raise DataError(f"{place}: not a readable image ({cut})", "give an undamaged copy") from None
    except MemoryError:
        raise ImageTooBigError(f"{place}: not enough memory to decode it", "reduce or cut the image") from None
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror or 'damaged'})") from None
    finally:
        log.setLevel(level)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
