"""Compressed frames of DICOM, decoded by libraries that bear damaged data; and what a frame claims to measure.

GDCM ends the process at the first bad marker of a lossless JPEG, CharLS and the Rust decoder of RLE never end or panic:
mutilated files are what archives hold, so JPEG goes to libjpeg-turbo and JPEG 2000 to OpenJPEG (both in imagecodecs),
RLE to pydicom itself, and JPEG-LS to nobody.  No decoder is asked before the frame claims the size it must have.

``decode_frame``, ``is_available`` and ``DECODER_DEPENDENCIES`` are what pydicom asks of a plugin.
"""

import importlib.util
from typing import Any

import numpy as np

from medvlm_cli.sources.scans import need

_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
RLE = "1.2.840.10008.1.2.5"
DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_JPEG_2000), ("imagecodecs",))
"""Transfer syntaxes that ``decode_frame`` reads, with what it needs."""


def is_available(syntax: str) -> bool:
    """Whether frames of a transfer syntax can be decoded here."""
    return syntax in DECODER_DEPENDENCIES and importlib.util.find_spec("imagecodecs") is not None


def decode_frame(data: bytes, runner: Any) -> bytes:
    """One frame, as pydicom wants it: samples of a pixel together, in the colours of the code stream.

    Args:
        data: the frame's code stream.
        runner: pydicom's ``DecodeRunner``, which is told what came out.

    Raises:
        ValueError: the frame is not of the size or the number of colours that the header says.
        imagecodecs.DelayedImportError: a codec is not built in.
    """
    shape = (runner.rows, runner.columns) + ((runner.samples_per_pixel,) if runner.samples_per_pixel > 1 else ())
    if stated_size(data) != (runner.columns, runner.rows):
        raise ValueError("the frame is of another size than the header says")
    imagecodecs = need("imagecodecs", "a compressed DICOM file")
    if runner.transfer_syntax in _JPEG_2000:
        pixels = imagecodecs.jpeg2k_decode(data)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # which OpenJPEG has undone
            runner.set_option("photometric_interpretation", "RGB")
    else:
        colour = "GRAYSCALE" if runner.samples_per_pixel == 1 else "YCBCR"  # or RGB: as it is in the file
        # the same in and out changes nothing: pydicom does that, as the header says
        pixels = imagecodecs.jpeg_decode(data, colorspace=colour, outcolorspace=colour)
    if pixels.shape != shape or pixels.dtype.kind not in "iu":
        raise ValueError("the frame is not what the header says")
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    return np.ascontiguousarray(pixels).tobytes()


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG or JPEG 2000 code stream claims; None where it is neither.

    A decoder makes room for what is claimed, and 30 bytes can claim 4 gigapixels.
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0 and data[:2] != b"\xff\xd8":
        sides = [int.from_bytes(data[start + place : start + place + 4], "big") for place in (8, 12, 16, 20)]
        return sides[0] - sides[2], sides[1] - sides[3]
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[place + 7 : place + 9], "big"), int.from_bytes(
                data[place + 5 : place + 7], "big"
            )
        if marker == 0xFF:
            place += 1  # fill
        elif 0xD0 <= marker <= 0xD7 or marker == 0x01:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
