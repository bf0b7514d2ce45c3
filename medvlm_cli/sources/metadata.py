"""Picture files without what they say beside their pixels: camera, place, time, names, comments, thumbnails.

Of a JPEG and a PNG the bytes that make the pixels stay as they are, so that every reader sees the same values as
before; a file that carries nothing else comes back byte for byte.
"""

import re
import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""Chunks of PNG that pixels are made of; animation, colour profiles and texts are in others."""
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search
_START, _END, _SCAN, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF


def bare_jpeg(data: bytes, orientation: int = 1) -> bytes | None:
    """A JPEG with its frames, tables and colour space, and nothing else; None for one that is built otherwise.

    Source: ITU-T T.81 annex B; JFIF 1.02; for APP14, Adobe technical note 5116.

    Args:
        data: the file.
        orientation: of its EXIF block, 1 to 8; one that turns the picture is kept, as the only entry of a new block.
    """
    if data[:2] != bytes((0xFF, _START)):
        return None
    parts, turn, place = [data[:2]], [] if orientation == 1 else [_orientation(orientation)], 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1] if place + 1 < len(data) else 0
        if marker == 0xFF:  # fill bytes may stand before any marker
            place += 1
            continue
        if marker == _END:
            return b"".join([*parts, *turn, data[place : place + 2]])
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        if marker in (0, 1, _START) or end < place + 4 or end > len(data):
            return None
        if marker == _SCAN:
            found = _NEXT_MARKER(data, end)
            if found is None:
                return None
            end = found.start()
        segment = _kept(marker, data[place:end])
        if turn and marker != _APP0:  # JFIF wants to be first
            parts.append(turn.pop())
        parts.append(segment)
        place = end
    return None


def _kept(marker: int, segment: bytes) -> bytes:
    """What of a segment makes pixels: of JFIF its density without the thumbnail, of Adobe the colour transform."""
    if marker == _APP0 and segment[4:9] == b"JFIF\0" and len(segment) >= 18:
        return segment[:2] + b"\0\x10" + segment[4:16] + b"\0\0"
    if marker == _APP14 and segment[4:9] == b"Adobe" and len(segment) >= 16:
        return segment[:2] + b"\0\x0e" + segment[4:16]
    return b"" if _APP0 <= marker <= _APP15 or marker == _COMMENT else segment


def _orientation(value: int) -> bytes:
    """A segment APP1 with an EXIF block of one entry."""
    entry = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, value, 0, 0)
    block = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + entry
    return b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block


def bare_png(data: bytes) -> bytes | None:
    """A PNG with the chunks that its pixels are made of, and nothing else; None for one that is built otherwise.

    Source: PNG specification, third edition, 5 and 11.
    """
    if not data.startswith(_PNG):
        return None
    parts, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + size
        if end > len(data):
            return None
        if kind in _PIXELS:
            body = data[place + 4 : end - 4]
            parts += [data[place : place + 4], body, struct.pack(">I", zlib.crc32(body))]
        if kind == b"IEND":
            return b"".join(parts)
        place = end
    return None
