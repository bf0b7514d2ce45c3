"""Where one article lies: a folder, a package, or what was fetched from the bucket; all look the same to ``pmc``.

A place hands out the article's XML, its metadata and its images by name.  Names come out of strangers' files: what
could lead elsewhere is refused before anything is looked up.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from medvlm_cli.core.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")
"""Endings of image files, the one to prefer first; a package holds a GIF thumbnail beside each JPEG."""
_SOURCES_OF_IMAGES = (*SUFFIXES, ".eps", ".ai", ".svg", ".pdf", ".ps", ".wmf", ".emf")
"""Endings that an address may have and its file may not."""

VERSION = re.compile(r"(PMC\d+)\.(\d{1,4})")
"""An article with its version, as the bucket names folders: ``PMC7096066.2``."""


class MissError(DataError):
    """Something of an article is not to be had; ``reason`` is a code of ``pmc.REASONS``."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class Place(Protocol):
    """One article with its images."""

    @property
    def name(self) -> str:
        """The article's file as an error names it: ``articles/PMC1.1/PMC1.1.xml``."""

    @property
    def version(self) -> int | None:
        """The version of the bucket, where it is known."""

    def xml(self) -> bytes:
        """The article; raises ``DataError`` where it cannot be had."""

    def metadata(self) -> dict[str, Any]:
        """What the bucket's JSON says of it; empty without one; raises ``DataError`` where it is broken."""

    def find(self, address: str) -> str:
        """The file that the address of a ``graphic`` means, as ``read`` takes it; raises ``MissError``."""

    def read(self, file: str) -> bytes:
        """The bytes of a file that ``find`` gave; raises ``DataError``."""

    def where(self, file: str) -> str:
        """How an error names the file: ``articles/PMC1.1/fig2.jpg``."""

    def key(self, file: str) -> str:
        """How a row names the file: ``PMC7096066.2/fig2.jpg``, without a version ``fig2.jpg``."""


class Names:
    """File names of one folder, to be found by what an article calls them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.lower: dict[str, list[str]] = {}
        """Names by their lower case."""
        self._stems: dict[str, list[str]] = {}
        for name in sorted(names):
            lower = name.lower()
            self.lower.setdefault(lower, []).append(name)
            if (suffix := ending(lower)) in SUFFIXES:
                self._stems.setdefault(lower.removesuffix(suffix), []).append(name)

    def choose(self, name: str) -> list[str]:
        """The files that a name may mean, all equally well; none, one, or several.

        In this order: the exact name; the same name in other case; the same stem with another ending or none, of
        several the first of ``SUFFIXES``.  A GIF gives way to a full image of the same stem, which makes it the
        thumbnail.
        """
        same = [name] if name in self.lower.get(name.lower(), ()) else self.lower.get(name.lower(), [])
        suffix = ending(name)
        if same and suffix in SUFFIXES and suffix != ".gif":
            return same
        fitting = list(self._stems.get(name.lower(), ()))  # "pone.01.g001" has no ending, ".g001" is part of the stem
        if suffix in _SOURCES_OF_IMAGES:
            fitting += self._stems.get(name.lower().removesuffix(suffix), ())
        fitting = fitting or same
        best = min(map(_preference, fitting), default=0)
        fitting = [file for file in fitting if _preference(file) == best]
        return [name] if name in fitting else fitting

    def find(self, name: str, where: str, folder: str) -> str:
        """The one file that a name means.

        Args:
            name: the last part of an address.
            where: how an error names the article.
            folder: how it names the folder.

        Raises:
            MissError: there is none, or several fit equally well.
        """
        files = self.choose(name)
        if not files:
            raise MissError("missing_image", f"{where}: no file '{name}' in {folder}/")
        if len(files) > 1:
            raise MissError("missing_image", f"{where}: '{name}' may be any of {', '.join(files)}")
        return files[0]


@functools.lru_cache(maxsize=4)
def names_of(files: tuple[str, ...]) -> Names:
    """The names of an article's files; cached, because each of its figures asks."""
    return Names(files)


def split(address: str, where: str) -> list[str]:
    """The parts of an address below the article's folder; of one on the web (SciELO), the last part alone.

    Raises:
        MissError: ``unsafe_path``: it leads elsewhere; ``missing_image``: it names no file.
    """
    unsafe = MissError("unsafe_path", f"{where}: the address '{address}' leads out of the article's folder")
    if "://" in address or address.lower().startswith(("file:", "data:")):
        try:
            url = urlsplit(address)
        except ValueError:  # brackets or letters that no host has
            raise unsafe from None
        if url.scheme.lower() not in ("http", "https", "ftp"):
            raise unsafe
        parts = [unquote(url.path).rpartition("/")[2]]
    else:
        parts = unquote(address).split("/")
        if parts[0] == "" and len(parts) > 1:
            raise unsafe
    if re.match(r"[A-Za-z]:", parts[0]) or any(
        part == ".." or "\\" in part or not part.isprintable() for part in parts
    ):
        raise unsafe
    if not parts[-1]:
        raise MissError("missing_image", f"{where}: the address '{address}' names no file")
    return parts


def ending(name: str) -> str:
    """``.jpg`` of ``Fig1.JPG``."""
    return Path(name).suffix.lower()


def _preference(file: str) -> int:
    suffix = ending(file)
    return SUFFIXES.index({".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)) if suffix in SUFFIXES else 99


def flag(metadata: Mapping[str, Any], name: str) -> bool:
    """A yes or no of the bucket's metadata, in whatever way JSON writes it; absent is no."""
    return str(metadata.get(name)).lower() in ("true", "yes", "1")


def as_metadata(body: bytes, where: str) -> dict[str, Any]:
    """The bucket's JSON on one article.

    Raises:
        DataError: it is not a JSON object.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{where}: not a JSON object")
    return content
