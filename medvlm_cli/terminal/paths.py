"""Paths that a user types, pastes or drops: which words of a line are files."""

import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dcm", ".dicom", ".nii", ".nii.gz", ".svs",
    ".ndpi", ".mrxs", ".scn", ".bif", ".vms",
)  # fmt: skip
"""Ends of the names of images: a line that is such a name alone is no question."""
_BEFORE, _BEHIND = "\"'`([<", "\"'`)]>.,;:?!"


def places(text: str) -> list[str]:
    """The files and addresses of a command's argument: the whole of it where there is such a file, else word by word.

    ``~`` is the home folder; quotes and backslashes are read as a shell reads them, because terminals write a dropped
    file that way.
    """
    text = text.strip()
    if not text or _exists(text):
        return [_place(text)] if text else []
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe in a name
        words = [text]
    return [_place(word) for word in words]


def dropped(line: str) -> list[str]:
    """The files, where a line holds nothing but existing files."""
    found = places(line)
    return found if found and all(_is_file(place) for place in found) else []


def missing(line: str) -> str:
    """The name of a file that is not there, where a line is one word that can only be meant as an image's name."""
    found = places(line)
    alone = len(found) == 1 and not re.search(r"\s", found[0]) and "://" not in found[0]
    return found[0] if alone and _named_as_image(found[0]) and not _is_file(found[0]) else ""


def mentioned(line: str) -> list[str]:
    """Existing image files that are named among the words of a question."""
    words = [word.lstrip(_BEFORE).rstrip(_BEHIND) for word in line.split()]
    return list(dict.fromkeys(_place(word) for word in words if _named_as_image(word) and _is_file(_place(word))))


def _place(word: str) -> str:
    """A word as a path, or as an address if it is one."""
    if word.startswith("file://"):
        word = unquote(urlsplit(word).path)
    if "://" in word:
        return word
    try:
        return str(Path(word).expanduser())
    except RuntimeError:  # there is no such user
        return word


def _named_as_image(word: str) -> bool:
    return any(word.lower().endswith(suffix) and len(word) > len(suffix) for suffix in SUFFIXES)


def _exists(text: str) -> bool:
    return "://" not in text and _is_file(_place(text))


def _is_file(place: str) -> bool:
    try:
        return Path(place).is_file()
    except (OSError, ValueError):  # longer than a name may be; a NUL
        return False
