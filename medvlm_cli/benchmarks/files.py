"""The files of a published benchmark, found by name wherever in a folder, or in a zip archive of it, they lie.

People unpack archives into folders of any name, rename upper case to lower, and leave large archives packed.  So a file
is known by the end of its path in any case.  Nothing is ever extracted; what lies outside the folder is not read.
"""

import functools
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import MAX_BYTES, ImageTooBigError, find_inside, read_inside

DEPTH = 6
"""Folders below the given one in which files are sought: a checkout holds PathVQA's questions four deep."""

ARCHIVE_BYTES = 1 << 36
"""Largest archive that is opened; only its members are read, each under a limit of its own."""

_NOT_DATA = ("__MACOSX", ".")
"""Names that begin so hold what an operating system or a download tool keeps for itself."""


@dataclass(frozen=True)
class Place:
    """Where a file lies: in a folder, or as a member of a zip archive there."""

    root: Path
    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}, {self.member}" if self.member else str(self.path)


class Files:
    """Index of what some folders hold, made once.

    Args:
        roots: the folders.

    Raises:
        DataError: an archive is none, or lies outside its folder.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._named: dict[str, list[tuple[str, Place]]] = {}
        for root in roots:
            packed = []
            for path in _walk(root):
                self._add(path.relative_to(root).as_posix(), Place(root, path))
                packed += [path] if path.suffix.lower() == ".zip" else []
            for path in packed:  # after all loose files: of two copies, the loose one is read
                for member in self._open(root, path).namelist():
                    if not member.endswith("/") and not _is_not_data(member.split("/")):
                        self._add(member, Place(root, path, member))

    def _add(self, name: str, place: Place) -> None:
        name = name.replace("\\", "/").lower()  # some programs write a backslash into archives
        self._named.setdefault(name.rpartition("/")[2], []).append((f"/{name}", place))

    def _open(self, root: Path, path: Path) -> zipfile.ZipFile:
        if path not in self._archives:
            try:
                self._archives[path] = zipfile.ZipFile(find_inside(root, path, ARCHIVE_BYTES))
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise DataError(f"{path} is not a whole zip archive ({error})", "download it again") from error
        return self._archives[path]

    def find(self, name: str) -> list[Place]:
        """Places whose path ends in ``name`` (``xmlab1/source.jpg``), in any case; the least deep loose file first."""
        name = "/" + name.lower()
        return [place for path, place in self._named.get(name.rpartition("/")[2], []) if path.endswith(name)]

    def ending(self, suffix: str) -> list[Place]:
        """Places whose name ends in ``suffix``, a folder's in order of their names."""
        return [place for name, places in self._named.items() if name.endswith(suffix) for _, place in places]

    def read(self, place: Place, limit: int = MAX_BYTES) -> bytes:
        """The bytes of a file.

        Raises:
            UnsafePathError: it lies outside its folder.
            ImageTooBigError: it has more than ``limit`` bytes.
            DataError: it is empty or cannot be read.
        """
        if not place.member:
            return read_inside(place.root, place.path, limit)
        try:
            archive = self._open(place.root, place.path)
            size = archive.getinfo(place.member).file_size
            if size > limit:  # as announced; zipfile reads no more than that, whatever the packed data hold
                raise ImageTooBigError(f"{place} has {size:,} bytes, over the limit of {limit:,}")
            data = archive.read(place.member)
        except (MemoryError, DataError):
            raise
        except Exception as error:  # zipfile raises whatever its decompressors raise, RuntimeError for a password
            raise DataError(f"{place} cannot be read ({error})", "download the archive again") from error
        if not data:
            raise DataError(f"{place} is empty")
        return data


@functools.lru_cache(maxsize=4)
def index(roots: tuple[Path, ...]) -> Files:
    """The ``Files`` of some folders; kept, because every key of a benchmark asks for it.  See ``forget``."""
    return Files(roots)


def forget() -> None:
    """Make the next ``index`` look again: the folders may have changed."""
    index.cache_clear()


def _walk(root: Path) -> Iterator[Path]:
    """Files from the top down, each folder's in order; links to folders are not followed."""
    level = [root]
    for _ in range(DEPTH + 1):
        below = []
        for folder in level:
            for entry in sorted(_scan(folder), key=lambda entry: entry.name):
                if _is_not_data([entry.name]):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(folder / entry.name)
                else:
                    yield folder / entry.name
        level = below


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # a folder that may not be read holds nothing for us; what is missed is told file by file
        return []


def _is_not_data(parts: Sequence[str]) -> bool:
    return any(part.startswith(_NOT_DATA) for part in parts)
