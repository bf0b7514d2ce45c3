"""DICOM files become pictures, and nothing that names a patient comes along.

``TECHNICAL`` is all that is ever read of a file beside its pixels: an allow-list, because private tags, free text and
the hundreds of attributes of PS3.15 annex E cannot be listed the other way round.  Values are compared and computed
with, never quoted: every error of the libraries is replaced by words of ours, their warnings and logs are switched off.

Grey values go the way of PS3.3 C.11: modality LUT or rescale, then the window asked for; else the file's first window;
else its VOI LUT; else the range of its pixels without the padding.  MONOCHROME1 is inverted.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medvlm_cli.core.images import MAX_PIXELS
from medvlm_cli.sources.codestreams import DECODER_DEPENDENCIES, RLE, decode_frame
from medvlm_cli.sources.dicom_grey import Grey, colour
from medvlm_cli.sources.greyscale import png, range_window
from medvlm_cli.sources.scans import Choice, Picture, ScanError, need, own_words
from medvlm_cli.sources.slides import Level, shown

TECHNICAL = (
    "SOPClassUID", "ImageType", "Modality", "BodyPartExamined", "BurnedInAnnotation", "SpecimenLabelInImage",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "TotalPixelMatrixColumns", "TotalPixelMatrixRows", "DimensionOrganizationType",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""Keywords of the attributes that are read; of the two sequences of functional groups, only windows and rescale."""

_MODALITIES = {
    "CT": "ct", "MR": "mri", "PT": "pet", "US": "ultrasound", "IVUS": "ultrasound", "XA": "angiography", "CR": "xray",
    "DX": "xray", "MG": "xray", "IO": "xray", "PX": "xray", "RG": "xray", "SM": "histology", "ES": "endoscopy",
    "OP": "fundus", "OPT": "fundus",
}  # fmt: skip
_CHEST = ("CHEST", "THORAX", "LUNG")
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_PLUGIN = "medvlm"
_MAX_FRAMES_HELD = 10_000_000
_MAX_READS = 500_000
"""Most pieces that a file is read in.  An element is one or two, and gigabytes of zeros are millions of elements."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """An open file and what was read of its header."""

    file: BinaryIO
    tags: Any
    """Dataset of ``TECHNICAL``."""
    syntax: Any
    """Transfer syntax, a UID of pydicom."""
    plugin: str
    """The decoder that pydicom shall use; empty where nothing is compressed."""
    frames: int

    def pixels(self, indices: list[int]) -> Iterator[np.ndarray]:
        """The frames as stored values ``(H, W)``, or ``(H, W, 3)`` RGB, one at a time."""
        options = {"transfer_syntax_uid": self.syntax, "decoding_plugin": self.plugin}
        yield from need("pydicom.pixels", "DICOM").iter_pixels(self.file, indices=indices, **options)


class _File(io.BufferedReader):
    """A file that is not read for ever, whatever its elements say."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file.

        Raises:
            ScanError: it was read more often than any real file needs.
        """
        self._reads += 1
        if self._reads > _MAX_READS:
            raise ScanError("corrupt_image", "the DICOM file has no end of elements: it is damaged, or none")
        return super().read(size)


def read_dicom(path: Path, choice: Choice) -> list[Picture]:
    """The pictures of one file: the frames chosen, or a thumbnail or region of a tiled slide.

    Args:
        path: a file that may be opened.
        choice: frames, window; for a slide the region and the longest side.

    Raises:
        ScanError: there is no picture, none that may be used, or not the one asked for.
    """
    need("pydicom", "DICOM")
    with own_words("pydicom", "DICOM file"), _File(path) as file:
        scan = _opened(file, path)
        if "TotalPixelMatrixColumns" in scan.tags:
            return [_of_slide(scan, choice)]
        indices = choice.frames(scan.frames)
        if len(indices) * scan.tags.Rows * scan.tags.Columns > 8 * MAX_PIXELS:
            raise ScanError("image_too_big", f"{len(indices)} frames are too many pixels to take at once: name one")
        pairs = zip(indices, scan.pixels(indices), strict=True)
        return [_of_frame(scan, index, stored, choice) for index, stored in pairs]


def _opened(file: BinaryIO, path: Path) -> _Scan:
    """Read and judge the header before a pixel is decoded.

    Raises:
        ScanError: no picture, not one that may be used, too large, or of a syntax that cannot be read.
    """
    pydicom = need("pydicom", "DICOM")
    has_meta = file.read(132)[128:] == b"DICM"
    syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") if has_meta else None
    if syntax == _DEFLATED:  # pydicom would inflate it without a limit
        raise ScanError("corrupt_image", "a deflated DICOM file, which is not read: store it uncompressed")
    file.seek(0)
    tags = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TECHNICAL), force=True)
    if "Rows" not in tags or "Columns" not in tags or "PhotometricInterpretation" not in tags:
        raise ScanError("no_picture", "the DICOM file holds no image")
    syntax = pydicom.uid.UID(syntax or (_IMPLICIT if tags.original_encoding[0] else _EXPLICIT))
    kinds = [str(part).upper() for part in tags.get("ImageType") or ()]
    if {"LABEL", "OVERVIEW"} & set(kinds[2:3]) or tags.get("SpecimenLabelInImage") == "YES":
        raise ScanError("no_picture", "the DICOM file shows the label of a slide, which may name a patient")
    frames = int(tags.get("NumberOfFrames") or 1)
    if tags.Rows < 1 or tags.Columns < 1 or not 1 <= frames <= _MAX_FRAMES_HELD:
        raise ScanError("corrupt_image", "the DICOM file says that it has no pixels")
    if tags.Rows * tags.Columns > MAX_PIXELS:
        raise ScanError("image_too_big", f"{tags.Columns} x {tags.Rows} pixels, over the limit of {MAX_PIXELS:,}")
    return _Scan(file, tags, syntax, _plugin(syntax), frames)


def _plugin(syntax: Any) -> str:
    """The name under which pydicom knows a decoder that bears damaged data; empty where none is needed.

    Raises:
        ScanError: there is none, or the extra is not installed.
    """
    if syntax in (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN):
        return ""
    if syntax == RLE:
        return "pydicom"
    if syntax not in DECODER_DEPENDENCIES:
        known = syntax.name if not syntax.is_private and syntax.is_transfer_syntax else "an unknown transfer syntax"
        raise ScanError("corrupt_image", f"the pixels are in {known}, which is not read")
    need("imagecodecs", syntax.name)
    decoder = need("pydicom.pixels", "DICOM").get_decoder(syntax)
    if _PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(_PLUGIN, (decode_frame.__module__, decode_frame.__name__))
    return _PLUGIN


def _of_frame(scan: _Scan, index: int, stored: np.ndarray, choice: Choice) -> Picture:
    if _in_colour(scan, stored):
        return _picture(colour(stored, scan.tags), stored, scan, frame=index, frames=scan.frames)
    pixels, window, source = Grey(scan.tags, index).render(stored, choice)
    return _picture(pixels, stored, scan, frame=index, frames=scan.frames, window=window, window_from=source)


def _in_colour(scan: _Scan, stored: np.ndarray) -> bool:
    return stored.ndim == 3 or scan.tags.PhotometricInterpretation == "PALETTE COLOR"


def _picture(pixels: np.ndarray, stored: np.ndarray, scan: _Scan, **columns: Any) -> Picture:
    digest = hashlib.sha256(np.ascontiguousarray(stored).tobytes()).hexdigest()
    said = {"YES": True, "NO": False}.get(str(scan.tags.get("BurnedInAnnotation", "")).strip().upper())
    height, width = pixels.shape[:2]
    kind = _modality(scan.tags)
    return Picture(png(pixels), width, height, burned_in=said, modality=kind, pixels=digest, **columns)


def _modality(tags: Any) -> str | None:
    """Our name of the modality; None where the file does not say, or only what department a screenshot is from."""
    if str(tags.get("SOPClassUID", "")).startswith(_SECONDARY):
        return None
    kind = _MODALITIES.get(str(tags.get("Modality", "")).strip().upper())
    part = str(tags.get("BodyPartExamined", "")).strip().upper()
    is_chest = str(tags.get("Modality", "")).strip().upper() in ("CR", "DX", "RG") and part in _CHEST
    return "chest_xray" if is_chest else kind


def _of_slide(scan: _Scan, choice: Choice) -> Picture:
    """A thumbnail or region of a slide whose frames are tiles in rows, PS3.3 C.7.6.17.3 (TILED_FULL).

    Raises:
        ScanError: the tiles lie otherwise, or the region is not in the slide.
    """
    tags = scan.tags
    width, height = int(tags.TotalPixelMatrixColumns), int(tags.TotalPixelMatrixRows)
    across, down = -(-width // tags.Columns), -(-height // tags.Rows)
    if tags.get("DimensionOrganizationType", "TILED_FULL") != "TILED_FULL" or scan.frames < across * down:
        raise ScanError("corrupt_image", "the tiles of this DICOM slide are not TILED_FULL, which alone is read")
    if choice.level:
        raise ScanError("bad_row", "column 'level' is for pyramids: a DICOM slide has one file a level")

    top = 2 ** int(tags.get("BitsStored", 8)) - 1  # the range of each tile would make a chessboard of grey slides
    flat = replace(choice, window=choice.window or range_window(0, top), preset="")

    def tiles(wanted: list[tuple[int, int]]) -> Iterator[np.ndarray]:
        for tile in scan.pixels([row * across + column for column, row in wanted]):
            yield colour(tile, tags) if _in_colour(scan, tile) else Grey(tags, 0).render(tile, flat)[0]

    level = Level(width, height, int(tags.Columns), int(tags.Rows), tiles)
    pixels, region = shown([level], choice)
    return _picture(pixels, pixels, scan, region=region)
