"""What the readers of scans share: what is asked of a file, what it gave, and why it gave nothing.

A message of a ``ScanError`` never quotes a file or its name: both may hold words about a patient.
"""

import contextlib
import importlib
import logging
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from medvlm_cli.core.config import AXES, FRAMES, FetchConfig, window_of
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.images import find_inside
from medvlm_cli.core.table import word

MAX_SCAN_BYTES = 4 << 30
"""Largest DICOM or NIfTI file that is opened."""
MAX_SLIDE_BYTES = 64 << 30
"""Largest whole-slide image that is opened; it is never read whole."""
MAX_FRAMES = 1000
"""Most frames of one file that become rows."""

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
NIFTI_ENDINGS = (".nii", ".nii.gz")
SLIDE_ENDINGS = (".svs", ".ndpi", ".scn")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Region = tuple[int, int, int, int]
Kind = Literal["dicom", "nifti", "slide", "tiff", "picture"]
WindowFrom = Literal["asked", "named", "file", "table", "preset", "range"]
"""Whose window a picture shows: the one asked for, the file's own of the name asked for, the file's first, its VOI LUT,
one of ours for what looks like CT, or none: the range of the values."""


class ScanError(DataError):
    """A file gives no picture; ``reason`` is the code of the reject."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@contextlib.contextmanager
def own_words(library: str, kind: str) -> Iterator[None]:
    """Whatever a library says of a file stays unsaid: it quotes values, and a value may be a name.  Ours stand in.

    Args:
        library: whose log is silenced.
        kind: what the file is meant to be, ``slide``.

    Raises:
        ScanError: instead of anything else.
    """
    logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ScanError:
        raise
    except MemoryError:
        raise ScanError("image_too_big", f"not enough memory for the {kind}") from None
    except Exception:  # the libraries and their decoders raise whatever their arithmetic raises
        raise ScanError("corrupt_image", f"the {kind} is damaged, or not one that can be read") from None


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture out of a file, with what ``SCAN_FIGURES`` records of it."""

    png: bytes
    """8-bit PNG; the contents of the file itself where ``is_file``."""
    width: int
    height: int
    frame: int | None = None
    """Frame or slice, from 0."""
    window: tuple[float, float] | None = None
    """Centre and width, in the unit of the rescaled values."""
    window_from: WindowFrom | None = None
    """None where nothing was windowed."""
    frames: int = 1
    """How many frames or slices the file has."""
    region: Region | None = None
    """Left, top, width and height in pixels of the largest level."""
    burned_in: bool | None = None
    modality: str | None = None
    """What the file itself says it is, by a name of ours."""
    pixels: str = ""
    """SHA-256 of the values the picture was made of, in hex: a name that says nothing about a patient."""
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What is wanted of a file: the settings of ``fetch``, and what the row of the table says instead."""

    window: tuple[float, float] | None
    """Centre and width; None: the file's own."""
    preset: str
    """The window's name, where it was asked for by name: such a window is meant for CT alone."""
    frame: str
    axis: str
    volume: int
    thumbnail: int
    region: Region | None = None
    level: int | None = None

    def frames(self, count: int) -> list[int]:
        """The frames to take of ``count``.

        Raises:
            ScanError: there is no such frame, or too many would be taken.
        """
        if self.frame == "all":
            if count > MAX_FRAMES:
                raise ScanError("image_too_big", f"{count:,} frames, over the limit of {MAX_FRAMES:,}: name one")
            return list(range(count))
        places = {"middle": count // 2, "first": 0, "last": count - 1}
        index = places[self.frame] if self.frame in places else int(self.frame)
        if index >= count:
            raise ScanError("bad_row", f"frame {index} was asked for, the file has 0 to {count - 1}")
        return [index]


_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "dicom": ("window", "frame", "region", "level"),
    "nifti": ("window", "frame", "axis", "volume"),
    "slide": ("region", "level"),
    "picture": ("window",),
}
"""Columns that say something about a file of this kind; in the row of another they may mean anything."""


def choice_of(row: dict[str, Any], kind: Kind, config: FetchConfig) -> Choice:
    """What is wanted of one row's file; columns of the table win over settings.

    Args:
        row: the row; of the columns ``window``, ``frame``, ``axis``, ``volume``, ``region`` and ``level`` those are
            read that a file of this kind has a use for.
        kind: the kind of file.
        config: the settings.

    Raises:
        ScanError: a column holds something else than it may.
    """
    values = {name: row.get(name) for name in _COLUMNS[kind]}
    frame = word(values.get("frame")) or config.frame
    axis = word(values.get("axis")).lower() or config.axis
    if frame not in FRAMES and not _is_number(frame):
        raise ScanError("bad_row", f"column 'frame' must be one of {', '.join(FRAMES)}, or a number from 0")
    if axis not in AXES:
        raise ScanError("bad_row", f"column 'axis' must be one of {', '.join(AXES)}")
    text = word(values.get("window")) or config.window
    try:
        window = window_of(text) if text else None
    except ConfigError as error:
        raise ScanError("bad_row", f"column 'window': {error.fix}") from None
    volume = _number(values, "volume")
    return Choice(
        window=window,
        preset="" if "," in text else text,
        frame=frame,
        axis=axis,
        volume=config.volume if volume is None else volume,
        thumbnail=config.thumbnail,
        region=region_of(values.get("region")),
        level=_number(values, "level"),
    )


def region_of(given: Any) -> Region | None:
    """Left, top, width and height: ``"0,0,512,512"``, or a list in JSONL; None where there is no number at all.

    Raises:
        ScanError: there are numbers, but not these four.
    """
    parts = given if isinstance(given, list) else word(given).strip("[]() ").replace(";", ",").split(",")
    numbers = [word(part) for part in parts]
    if not any(character.isdigit() for number in numbers for character in number):
        return None  # a column of that name may hold "left lung"
    if len(numbers) != 4 or not all(_is_number(number) for number in numbers):
        raise ScanError("bad_row", "column 'region' must be left,top,width,height in pixels of the largest level")
    left, top, width, height = (int(number) for number in numbers)
    if not width or not height:
        raise ScanError("bad_row", "column 'region' has a width or a height of 0")
    return left, top, width, height


def _number(values: dict[str, Any], name: str) -> int | None:
    text = word(values.get(name))
    if text and not _is_number(text):
        raise ScanError("bad_row", f"column '{name}' must be a number from 0")
    return int(text) if text else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def need(module: str, what: str) -> ModuleType:
    """A library of the extra ``medical``, loaded when the first file asks for it.

    Raises:
        ScanError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        line = "pip install 'medvlm[medical]'"
        raise ScanError("missing_extra", f"{what} needs {package}, which is not installed: {line}") from None


def kind_of(root: Path, path: Path) -> Kind:
    """What a file is, by its first bytes or else by its ending; one that cannot be read, by its ending.

    Args:
        root: folder that holds the file; nothing out of it is opened.
        path: the file.
    """
    name = path.name.lower()
    head = _head(root, path)
    if head[128:132] == b"DICM" or name.endswith(DICOM_ENDINGS):
        return "dicom"
    if name.endswith(NIFTI_ENDINGS):
        return "nifti"
    if name.endswith(SLIDE_ENDINGS):
        return "slide"
    return "tiff" if head[:4] in _TIFF else "picture"


def may_name_a_patient(path: Path, kind: Kind) -> bool:
    """Whether the file's name stays unsaid: DICOM archives name files after patients, often without an ending."""
    return kind == "dicom" or not path.suffix or path.suffix[1:].isdigit()  # 1.2.840.113619.2.5 is a name too


def _head(root: Path, path: Path) -> bytes:
    try:
        real = find_inside(root, path, MAX_SLIDE_BYTES)
        with real.open("rb") as file:
            return file.read(132)
    except (DataError, OSError):
        return b""


def is_file(path: Path) -> bool:
    """Whether ``path`` is a regular file, and not a pipe that would wait for ever."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
