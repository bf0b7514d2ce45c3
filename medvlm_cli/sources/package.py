"""Packages of the retired distribution, ``PMC123.tar.gz``: read member by member into memory, never extracted.

The standard library's extraction filters have been got round again and again (CVE-2025-4517 and its kin), and nothing
here needs a tree of files: only regular members count, by the last part of their name.
"""

import functools
import gzip
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import MAX_BYTES as MAX_IMAGE_BYTES
from medvlm_cli.core.images import ImageTooBigError, find_inside
from medvlm_cli.sources.markup import MAX_BYTES as MAX_XML_BYTES
from medvlm_cli.sources.places import SUFFIXES, ending, names_of, split

MAX_MEMBERS = 10_000
MAX_BYTES = 2_000_000_000
"""Of a package, as it is and as it becomes, whether read or skipped."""
MAX_RATIO = 200
"""Most bytes that one byte of a package may become, once past ``_SMALL``; zeros reach 1029."""
_SMALL = 32 << 20
_HEADERS = 1 << 20
"""Most bytes of headers between two members."""

_NAME = re.compile(r"(.+)\.(?:tar\.gz|tgz)", re.I)
_ARTICLE = re.compile(r"PMC\d+")


def forget() -> None:
    """Forget the package read last: it may have changed."""
    _members.cache_clear()


def is_package(name: str) -> bool:
    """Whether a file is a package, by its name."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class PackagePlace:
    """An article in a package; see ``places.Place``."""

    root: Path
    path: Path
    retracted: bool = False
    """A later version of the article says so."""

    @property
    def article_id(self) -> str | None:
        """``PMC123``, where the file is named so."""
        match = _NAME.fullmatch(self.path.name)
        return match[1] if match and _ARTICLE.fullmatch(match[1]) else None

    @property
    def name(self) -> str:
        """``oa_package/00/01/PMC123.tar.gz``."""
        return f"{self.root.name}/{self.path.relative_to(self.root).as_posix()}"

    @property
    def version(self) -> int | None:
        """Packages have none."""
        return None

    def xml(self) -> bytes:
        """The ``.nxml`` of the package, else its only ``.xml``."""
        members = _members(self.root, self.path, self.name)
        for suffix in (".nxml", ".xml"):
            found = [name for name in members if ending(name) == suffix]
            if len(found) == 1:
                return members[found[0]]
        raise DataError(f"{self.name}: holds no article, or several")

    def metadata(self) -> dict[str, Any]:
        """Packages have none: the article's own words count."""
        return {"is_retracted": True} if self.retracted else {}

    def find(self, address: str) -> str:
        """The name of a member."""
        parts = split(address, self.name)
        members = _members(self.root, self.path, self.name)
        return names_of(tuple(members)).find(parts[-1], self.name, self.path.name)

    def read(self, file: str) -> bytes:
        """A member."""
        data = _members(self.root, self.path, self.name)[file]
        if not data:
            raise DataError(f"{self.where(file)}: empty")
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageTooBigError(f"{self.where(file)}: over the limit of {MAX_IMAGE_BYTES:,} bytes")
        return data

    def where(self, file: str) -> str:
        """``oa_package/00/01/PMC123.tar.gz, fig1.jpg``."""
        return f"{self.name}, {file}"

    def key(self, file: str) -> str:
        """The name of the member."""
        return file


@functools.lru_cache(maxsize=1)
def _members(root: Path, path: Path, where: str) -> dict[str, bytes]:
    """Articles and images of a package by the last part of their name; the first of a name counts."""
    members: dict[str, bytes] = {}
    limits = {".xml": MAX_XML_BYTES, ".nxml": MAX_XML_BYTES} | dict.fromkeys(SUFFIXES, MAX_IMAGE_BYTES)
    real = find_inside(root, path, MAX_BYTES)
    try:
        with gzip.open(real) as inflated:
            stream = _Metered(inflated, max(_SMALL, min(MAX_BYTES, MAX_RATIO * real.stat().st_size)), where)
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
                for number, member in enumerate(archive, 1):
                    if member.size < 0:  # iterating on would never end (CVE-2025-8194)
                        raise DataError(f"{where}: a member of negative size")
                    if number > MAX_MEMBERS:
                        raise DataError(f"{where}: more than {MAX_MEMBERS:,} members")
                    stream.expect(member.size)
                    name = member.name.rpartition("/")[2]
                    limit = limits.get(ending(name))
                    if not member.isreg() or member.issparse() or limit is None or name in members:
                        continue
                    content = archive.extractfile(member)
                    members[name] = content.read(min(member.size, limit + 1)) if content is not None else b""
            stream.drain()
    except (OSError, EOFError, ValueError, IndexError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{where}: not a readable package ({error})", "fetch the package again") from error
    return members


class _Metered:
    """What comes out of a package, counted: in all, and between members, where ``tarfile`` reads headers of any size.

    Args:
        file: what is read.
        allowed: most bytes of all.
        where: how an error names the package.
    """

    def __init__(self, file: gzip.GzipFile, allowed: int, where: str) -> None:
        self._file = file
        self._allowed = allowed
        self._where = where
        self._given = 0
        self._until = 0
        self.expect(0)

    def expect(self, size: int) -> None:
        """A member of a size is next, and behind it some headers."""
        self._until = min(self._allowed, self._given + size + _HEADERS)

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            DataError: more than is allowed have been read.
        """
        data = self._file.read(size)
        self._given += len(data)
        if self._given > self._until:
            what = f"more than {self._until:,} bytes come out of it"
            raise DataError(f"{self._where}: {what}, which is a bomb or no package of an article")
        return data

    def drain(self) -> None:
        """Read to the end, where the checksum of the whole package stands."""
        self._until = self._allowed
        while self.read(1 << 16):
            pass
