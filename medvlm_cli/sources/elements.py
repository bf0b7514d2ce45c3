"""The elements of a JSON file that is too large to load: one array, or values one behind another (JSON Lines).

The file is read once from front to back through a window that holds a little more than one element, and where each
element lies is told in bytes, so that any process can read a few of them again without the rest.  A file compressed
with gzip is read the same way; its bytes count uncompressed.
"""

import codecs
import functools
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from medvlm_cli.core.errors import DataError

MOST_BYTES = 16 << 20
"""Largest element that is read; a published conversation has about 1,000 bytes."""
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"

_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r,]*")
_DECODER = json.JSONDecoder()


class Element(NamedTuple):
    """One value of the file, and where its text lies in bytes."""

    value: Any
    start: int
    end: int


def elements(path: Path) -> Iterator[Element]:
    """Every element of the file in order; of the file no more than a window is in memory.

    Raises:
        DataError: the file is not there, not UTF-8, not whole, not JSON, or an element is larger than ``MOST_BYTES``;
            names the line and the byte.
    """
    with open_plain(path) as file:
        window = _Window(file, path.name)
        first = window.peek()
        if first not in ("[", "{"):
            raise window.error(window.at, "neither an array of rows nor JSON Lines" if first else "the file is empty")
        if first == "{":
            while window.peek():
                yield window.take()
            return
        window.skip()
        following = window.peek()
        while following != "]":
            yield window.take()
            following = window.peek()
            if following == ",":
                window.skip()
                if window.peek() == "]":
                    raise window.error(window.at, "a comma behind the last row")
            elif following != "]":
                raise window.error(window.at, "',' or ']' must follow a row" if following else "the array does not end")
        window.skip()
        if window.peek():
            raise window.error(window.at, "something follows the array")


def parse(text: str) -> Iterator[tuple[Any, str]]:
    """The elements of a stretch of a file that ``elements`` went through: each value, and its text."""
    at = _past(_BETWEEN, text, 0)
    while at < len(text):
        value, end = _DECODER.raw_decode(text, at)
        yield value, text[at:end]
        at = _past(_BETWEEN, text, end)


def read_at(path: Path, start: int, end: int) -> bytes:
    """The bytes of the file from ``start`` to ``end``, uncompressed.

    A compressed file cannot be entered in the middle.  It stays open between calls, so that asking in the order of the
    file costs no more than reading it once.
    """
    if _is_compressed(path):
        file = _kept_open(path)
        file.seek(start)
        return file.read(end - start)
    with path.open("rb") as plain:
        plain.seek(start)
        return plain.read(end - start)


def bounded_lines(path: Path, most: int) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of every line of a file, without its end; None for a line of more than ``most`` bytes.

    Raises:
        DataError: the file is not there, or compressed and not whole.
    """
    with open_plain(path) as file:
        number = 0
        try:
            while line := file.readline(most + 2):
                number += 1
                whole = len(line.rstrip(b"\r\n")) <= most
                while not line.endswith(b"\n") and (rest := file.readline(_CHUNK)):
                    whole, line = False, rest
                yield number, line.rstrip(b"\r\n") if whole else None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _refused(f"{path.name}: the compressed file is cut off or damaged") from error


@functools.lru_cache(maxsize=4)
def _kept_open(path: Path) -> BinaryIO:
    return open_plain(path)


def forget() -> None:
    """Close what ``read_at`` keeps open: the files may have changed."""
    _kept_open.cache_clear()


def open_plain(path: Path) -> BinaryIO:
    """The file for reading, uncompressed if it is a gzip; the first bytes tell, not the name.

    Raises:
        DataError: it is not there, or cannot be opened.
    """
    if not path.is_file():
        raise DataError(f"{path} is not there", "give the published file")
    try:
        return gzip.open(path) if _is_compressed(path) else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


class _Window:
    """The part of the file that is looked at."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._read = 0
        """Bytes taken from the file."""
        self._ended = False
        self._text = ""
        self._line = 1
        """Line of the first character of ``_text``."""
        self._byte = 0
        """Place in the file of the first character that is not consumed."""
        self.at = 0
        """Place in ``_text`` of the same character."""

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            self._move(_past(_SPACE, self._text, self.at))
            if self.at < len(self._text):
                return self._text[self.at]
            if self._ended:
                return ""
            self._more()

    def skip(self) -> None:
        """Consume one character."""
        self._move(self.at + 1)

    def take(self) -> Element:
        """Consume the element that begins here.

        An element that the window cuts looks like one that is broken, so the window grows before that is said.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self.at)
                whole = self._ended or end + 2 < len(self._text)  # the next chunk may make "12e+5" of "12e+"
                trouble: json.JSONDecodeError | None = None
            except json.JSONDecodeError as error:
                whole, trouble = False, error
            except RecursionError as error:
                raise self.error(self.at, "nested too deeply") from error
            except ValueError as error:  # a number of thousands of digits
                raise self.error(self.at, f"not JSON ({error})") from error
            if whole:
                start = self._byte
                self._move(end)
                if self._byte - start > MOST_BYTES:
                    raise self.error(end, f"a row of more than {MOST_BYTES >> 20} MiB")
                return Element(value, start, self._byte)
            if self._ended and trouble is not None:
                raise self.error(trouble.pos, f"not JSON ({trouble.msg})") from trouble
            if len(self._text) - self.at > MOST_BYTES:
                what = f"a row of more than {MOST_BYTES >> 20} MiB"
                place, what = (trouble.pos, f"not JSON ({trouble.msg}), or {what}") if trouble else (self.at, what)
                raise self.error(place, what) from trouble
            self._more()

    def error(self, place: int, what: str) -> DataError:
        """An error that names the file, line and byte of a place in the window."""
        line = self._line + self._text.count("\n", 0, place)
        byte = self._byte + _size(self._text[self.at : place])
        return _refused(f"{self._name}, line {line}, byte {byte}: {what}")

    def _move(self, to: int) -> None:
        self._byte += to - self.at if self._text.isascii() else _size(self._text[self.at : to])
        self.at = to

    def _more(self) -> None:
        """Forget what is consumed and read on: at least as much as is held, so that a long row is not parsed often."""
        self._line += self._text.count("\n", 0, self.at)
        held = self._text[self.at :]
        pending = len(self._decode.getstate()[0])
        try:
            chunk = self._file.read(max(_CHUNK, len(held)))
            if not self._read and chunk.startswith(codecs.BOM_UTF8):
                self._read = self._byte = len(codecs.BOM_UTF8)
                chunk = chunk[len(codecs.BOM_UTF8) :]
            self._ended = not chunk
            self._text, self.at = held + self._decode.decode(chunk, self._ended), 0
        except UnicodeDecodeError as error:
            place = self._read - pending + error.start
            raise _refused(f"{self._name}, byte {place}: not UTF-8 ({error.reason})") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _refused(f"{self._name}: the compressed file is cut off or damaged") from error
        self._read += len(chunk)


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where that which the pattern matches at ``at`` ends; the patterns here match nothing, too."""
    match = pattern.match(text, at)
    return match.end() if match else at


def _refused(what: str) -> DataError:
    return DataError(what, "compare its size with that of the published file, and download it again")


def _size(text: str) -> int:
    """Bytes of a text that was decoded from UTF-8."""
    return len(text.encode())
