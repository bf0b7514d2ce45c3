"""Articles and their images in local folders and packages, whatever layout they were fetched in.

Known layouts: ``PMC123.1/PMC123.1.xml`` of the bucket, with ``PMC123.1.json`` beside it or in ``metadata/``; packages
``PMC123.tar.gz``, or unpacked ``PMC123/*.nxml``; folders as publishers send them; everything flat.  Images lie beside
their XML, or where the address in the XML says.
"""

import contextlib
import dataclasses
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.images import read_inside
from medvlm_cli.sources import package
from medvlm_cli.sources.markup import MAX_BYTES
from medvlm_cli.sources.package import PackagePlace, is_package
from medvlm_cli.sources.places import SUFFIXES, VERSION, Names, Place, as_metadata, ending, flag, split

_HEAD_BYTES = 65536
_PMC_ID = re.compile(rb"""<article-id[^>]*pub-id-type=["'](?:pmcid|pmc)["'][^>]*>\s*(?:PMC)?(\d+)\s*<""")
_DOI = re.compile(rb"""<article-id[^>]*pub-id-type=["']doi["'][^>]*>\s*([^<\s]+)\s*<""")
_HEAD_END = re.compile(rb"<(?:abstract|body|sub-article|ref-list|related-article)\b")


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """An article in a folder; see ``places.Place``."""

    root: Path
    """The mirror folder, which nothing may lead out of."""
    path: Path
    """The XML file."""
    retracted: bool = False
    """A later version of the article says so."""

    @property
    def name(self) -> str:
        """``articles/PMC1.1/PMC1.1.xml``."""
        return f"{self.root.name}/{self.path.relative_to(self.root).as_posix()}"

    @property
    def version(self) -> int | None:
        """The version, from the file's name."""
        match = VERSION.fullmatch(self.path.stem)
        return int(match[2]) if match else None

    def xml(self) -> bytes:
        """The XML file."""
        return read_inside(self.root, self.path, limit=MAX_BYTES)

    def metadata(self) -> dict[str, Any]:
        """The JSON beside the XML, or in ``metadata/`` at the top."""
        beside = self.path.with_suffix(".json")
        stated: dict[str, Any] = {}
        for path in (beside, self.root / "metadata" / beside.name):
            if path.is_file():
                stated = as_metadata(read_inside(self.root, path), f"{self.root.name}/{path.relative_to(self.root)}")
                break
        return stated | {"is_retracted": True} if self.retracted else stated

    def find(self, address: str) -> str:
        """A path below the root."""
        parts = split(address, self.name)
        folder = self.path.parent.joinpath(*parts[:-1])
        if len(parts) > 1 and parts[-1].lower() not in _names(folder).lower:
            folder = self.path.parent  # packages flatten the folders of the address
        file = _names(folder).find(parts[-1], self.name, folder.name)
        return (folder / file).relative_to(self.root).as_posix()

    def read(self, file: str) -> bytes:
        """The bytes of a file that lies in the root once every link is followed."""
        return read_inside(self.root, self.root / file)

    def where(self, file: str) -> str:
        """``articles/PMC1.1/fig2.jpg``."""
        return f"{self.root.name}/{file}"

    def key(self, file: str) -> str:
        """The name, with the folder of the bucket's layout."""
        path = Path(file)
        return f"{path.parent.name}/{path.name}" if VERSION.fullmatch(path.parent.name) else path.name


_Local = FolderPlace | PackagePlace


def articles(given: tuple[str, ...]) -> dict[str, Place]:
    """Every article of the mirrors by its id: PMC id, else DOI, else mirror and path without the ending.

    Of several copies or versions the highest version that has images with it and is no author manuscript counts, else
    the highest, else the first.

    Args:
        given: folders of articles or packages, or single packages.

    Raises:
        ConfigError: none is given.
        DataError: one is missing or holds no article.
    """
    if not given:
        raise ConfigError("no local folder is given", "give the folder that holds the articles with --from")
    copies: dict[str, list[_Local]] = {}
    for number, folder in enumerate(given):
        root = Path(folder).resolve()
        twin = any(Path(other).resolve().name == root.name for other in given[:number])
        for place in _places(root, folder):
            copies.setdefault(_id(place, f"~{number + 1}" * twin), []).append(place)
    return {key: _chosen(places) if len(places) > 1 else places[0] for key, places in copies.items()}


def _places(root: Path, given: str) -> list[_Local]:
    if is_package(root.name) and root.is_file():
        return [PackagePlace(root.parent, root)]
    if not root.is_dir():
        raise DataError(f"{given} is neither a folder nor a package", "give the folder that holds the articles")
    found: list[_Local] = [
        PackagePlace(root, path) if is_package(path.name) else FolderPlace(root, path) for path in _files(root)
    ]
    if not found:
        fix = "give a folder with .xml or .nxml files of JATS articles, or with PMC*.tar.gz packages"
        raise DataError(f"{given} holds no article", fix)
    return found


def _files(root: Path) -> list[Path]:
    """Articles of a folder, sorted; in a ``PMC1.1/`` only its own XML, because supplements end in .xml too."""
    found = []
    for folder, folders, names in os.walk(root):  # does not follow links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        own = Path(folder).name
        for name in sorted(names):
            is_article = (ending(name) in (".xml", ".nxml") or is_package(name)) and not name.startswith(".")
            if is_article and (Path(name).stem == own or not VERSION.fullmatch(own)):
                found.append(Path(folder, name))
    return found


def _id(place: _Local, suffix: str) -> str:
    if isinstance(place, PackagePlace):
        return place.article_id or _by_path(place, place.path, suffix)
    version = VERSION.fullmatch(place.path.stem)
    if version:
        return version[1]
    head = b""  # where it cannot be read, harvest will say so and name the file
    if place.path.is_file() and not place.path.is_symlink():
        with contextlib.suppress(OSError), place.path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    end = _HEAD_END.search(head)
    head = head[: end.start()] if end else head
    if match := _PMC_ID.search(head):
        return f"PMC{match[1].decode()}"
    if match := _DOI.search(head):
        return match[1].decode("utf-8", "replace")
    return _by_path(place, place.path.with_suffix(""), suffix)


def _by_path(place: _Local, path: Path, suffix: str) -> str:
    return f"{place.root.name}{suffix}/{path.relative_to(place.root).as_posix()}".encode("utf-8", "replace").decode()


def _chosen(copies: list[_Local]) -> _Local:
    """Of several copies the one that counts, by the bucket's rule: what a later version calls retracted stays so."""
    best = max(copies, key=_rank)
    later = [place for place in copies if (place.version or 0) > (best.version or 0)]
    retracted = any(flag(_stated(place), "is_retracted") for place in later)
    return dataclasses.replace(best, retracted=True) if retracted else best


def _rank(place: _Local) -> tuple[bool, int]:
    """The highest version that has images and is no author manuscript, else the highest."""
    has_images = isinstance(place, PackagePlace) or any(
        name.endswith(SUFFIXES) for name in _names(place.path.parent).lower
    )
    return has_images and not flag(_stated(place), "is_manuscript"), place.version or 0


def _stated(place: _Local) -> dict[str, Any]:
    try:
        return place.metadata()
    except DataError:  # whoever reads the article will say so
        return {}


@functools.lru_cache(maxsize=256)
def _names(folder: Path) -> Names:
    """Files of a folder; cached, because a flat mirror is one folder for every article."""
    try:
        return Names(path.name for path in folder.iterdir())
    except OSError:
        return Names(())


def forget() -> None:
    """Forget what was cached of folders and packages: they may have changed."""
    _names.cache_clear()
    package.forget()
