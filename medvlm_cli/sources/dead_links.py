"""Published lists of figures whose addresses died with the archives of PubMed Central in August 2026.

``llava_med_image_urls.jsonl`` of LLaVA-Med and the ``dlinks`` files of ROCO name an archive
``oa_package/xx/yy/PMCn.tar.gz`` and a file in it.  The archives are gone, but article and file name are still what the
new distribution goes by: the addresses are taken apart here, and never asked for.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.sources.elements import bounded_lines
from medvlm_cli.sources.places import Names
from medvlm_cli.sources.text import clean

REASONS = {
    "bad_row": "not a row of the published list, or one of its values is missing",
    "bad_address": "not the address of an archive of PubMed Central",
    "unsafe_path": "the file's name leads elsewhere, or holds what no file name holds",
    "wrong_article": "the file is not one of the archive's article",
    "duplicate_id": "an earlier row has the same id",
}
"""Every reason for which a row asks for no figure."""

_MOST_BYTES = 16384
"""Longest line that is read; the published ones have 200 bytes."""
_MOST_CHARACTERS = 255
"""Longest name of a file, and longest id."""
_ADDRESS = re.compile(
    r"(?:https?|ftp)://(?:ftp|www)\.ncbi\.nlm\.nih\.gov/pub/pmc/(?:deprecated/)?oa_package/"
    r"[0-9a-f]{2}/[0-9a-f]{2}/(?P<pmcid>PMC[1-9][0-9]{0,9})\.tar\.gz"
)
_DLINK = re.compile(r"(?P<id>[^\t]+)\twget -r (?P<address>\S+) -P [^\t]*\t(?P<file>[^\t]+)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure that a list asks for."""

    line: int
    """Of the list, from 1."""
    figure_id: str
    pmcid: str
    """``PMC123``."""
    file: str
    """The file's name in the dead archive, without folders: ``pone.0001.g001.jpg``."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a line asks for no figure."""

    line: int
    id: str
    """The row's own, else ``<file>:<line>``."""
    reason: str
    """A code of ``REASONS``."""
    message: str
    raw: str | None
    """The line; none of one that is too long to be read."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several files of the article fit a dead name equally well."""

    names: tuple[str, ...]


class _UnusableError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_Fields = tuple[str, str, str]
"""Id, address of the archive, path of the file."""


def wanted(path: Path) -> Iterator[Wanted | Trouble]:
    """Every line of ``llava_med_image_urls.jsonl``, in order; blank lines are none.

    Source: {"pair_id", "pmc_tar_url", "image_file_path"}, as github.com/microsoft/LLaVA-Med reads it in
    llava/data/download_images.py.

    Raises:
        DataError: the file is not there, or compressed and not whole.
    """
    return _read(path, _json_fields)


def wanted_by_roco(path: Path) -> Iterator[Wanted | Trouble]:
    """Every line of a ``dlinks`` file of ROCO, as ``wanted``.

    Source: ``ROCO_00001<tab>wget -r ftp://... -P /path/to/Dir<tab>cro-0008-0385-g01.jpg`` in
    data/test/radiology/dlinks_tp_test_revised.txt of github.com/razorx89/roco-dataset.

    Raises:
        DataError: the file is not there, or compressed and not whole.
    """
    return _read(path, _dlink_fields)


def match(file: str, media: Iterable[str]) -> str | Ambiguous | None:
    """Which of an article's media a dead file name means.

    Args:
        file: name in the dead archive.
        media: names of the files that the article has now, without folders.

    Returns:
        The name among ``media``; None where none fits.
    """
    found = Names(media).choose(file)
    if len(found) > 1:
        return Ambiguous(tuple(found))
    return found[0] if found else None


def _read(path: Path, fields: Callable[[str], _Fields]) -> Iterator[Wanted | Trouble]:
    seen: set[str] = set()
    for number, line in bounded_lines(path, _MOST_BYTES):
        if line is not None and not line.strip():
            continue
        text = "" if line is None else line.decode("utf-8", "replace").removeprefix("\ufeff")
        name = f"{path.name}:{number}"
        try:
            if line is None:
                raise _UnusableError("bad_row", f"longer than {_MOST_BYTES} bytes")
            id_, address, file = fields(text)
            name = clean(id_)[:_MOST_CHARACTERS] or name
            found = _wanted(number, id_, address, file)
            if id_ in seen:
                raise _UnusableError("duplicate_id", f"'{id_}' is the id of an earlier line")
            seen.add(id_)
        except _UnusableError as error:
            message = clean(f"{path.name}, line {number}: {error}")
            yield Trouble(number, name, error.reason, message, None if line is None else text)
        else:
            yield found


def _json_fields(text: str) -> _Fields:
    try:
        row: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _UnusableError("bad_row", f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _UnusableError("bad_row", "not a JSON object")
    found = [row.get(name) for name in ("pair_id", "pmc_tar_url", "image_file_path")]
    id_, address, file = found
    if not (isinstance(id_, str) and isinstance(address, str) and isinstance(file, str)):
        raise _UnusableError("bad_row", "'pair_id', 'pmc_tar_url' and 'image_file_path' must be there, and text")
    return id_, address, file


def _dlink_fields(text: str) -> _Fields:
    found = _DLINK.fullmatch(text)
    if found is None:
        raise _UnusableError("bad_row", "not an id, a call of wget and the name of a file with tabs between them")
    return found["id"], found["address"], found["file"]


def _wanted(line: int, id_: str, address: str, path: str) -> Wanted:
    """What a line asks for; the words of a stranger come out of it checked, or not at all.

    Raises:
        _UnusableError: one of them is not what it must be.
    """
    if not _is_name(id_) or id_ != clean(id_):
        raise _UnusableError("bad_row", f"'{id_[:80]}' is no id")
    archive = _ADDRESS.fullmatch(address)
    if archive is None:
        raise _UnusableError("bad_address", f"'{address[:200]}' is no archive of an article in PubMed Central")
    parts = path.split("/")
    if not all(_is_name(part) for part in parts):
        raise _UnusableError("unsafe_path", f"'{path[:200]}' is no path inside an archive")
    if len(parts) > 1 and parts[0] != archive["pmcid"]:
        raise _UnusableError("wrong_article", f"'{path[:200]}' is not in the archive of {archive['pmcid']}")
    return Wanted(line, id_, archive["pmcid"], parts[-1])


def _is_name(part: str) -> bool:
    """Whether this can be the name of one file: printable, of one folder, and no way to another."""
    return (
        bool(part.strip(". "))
        and part.isprintable()
        and not re.search(r"[\\/:]", part)
        and len(part) <= _MOST_CHARACTERS
    )
