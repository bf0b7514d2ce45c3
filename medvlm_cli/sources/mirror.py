"""Articles and their images in local folders, whatever layout they were fetched in.

Known layouts: ``PMC123.1/PMC123.1.xml`` of the bucket, with ``PMC123.1.json`` beside it or in ``metadata/``; unpacked
packages ``PMC123/*.nxml``; folders as publishers send them; everything flat.  Images lie beside their XML, or where the
address in the XML says.
"""

import contextlib
import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.images import read_inside

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")
"""Endings of image files, the one to prefer first; a package holds a GIF thumbnail beside each JPEG."""
_SOURCES_OF_IMAGES = (*SUFFIXES, ".eps", ".ai", ".svg", ".pdf", ".ps", ".wmf", ".emf")
"""Endings that an address may have and its file in the mirror may not."""

_VERSION = re.compile(r"(PMC\d+)\.(\d+)")
_HEAD_BYTES = 65536
_PMC_ID = re.compile(rb"""<article-id[^>]*pub-id-type=["'](?:pmcid|pmc)["'][^>]*>\s*(?:PMC)?(\d+)\s*<""")
_DOI = re.compile(rb"""<article-id[^>]*pub-id-type=["']doi["'][^>]*>\s*([^<\s]+)\s*<""")
_HEAD_END = re.compile(rb"<(?:abstract|body|sub-article|ref-list|related-article)\b")


class MissError(DataError):
    """An image of an article is not to be had from the mirror; ``reason`` is a code of ``pmc.REASONS``."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """Where one article lies."""

    root: Path
    """The mirror folder, which nothing may lead out of."""
    xml: Path

    def name(self) -> str:
        """The file as an error names it: ``articles/PMC1.1/PMC1.1.xml``."""
        return f"{self.root.name}/{self.xml.relative_to(self.root).as_posix()}"

    def metadata(self) -> dict[str, Any]:
        """What the bucket's JSON says of the article (``license_code``, ``is_retracted`` ...); empty without one.

        Raises:
            DataError: there is one, and it cannot be read.
        """
        beside = self.xml.with_suffix(".json")
        for path in (beside, self.root / "metadata" / beside.name):
            if path.is_file():
                try:
                    content = json.loads(read_inside(self.root, path))
                except ValueError as error:
                    raise DataError(f"{path}: not JSON ({error})") from error
                if not isinstance(content, dict):
                    raise DataError(f"{path}: not a JSON object")
                return content
        return {}


def articles(folders: tuple[str, ...]) -> dict[str, Place]:
    """Every article of the mirrors by its id: PMC id, else DOI, else mirror and path without the ending.

    Of several copies or versions the highest version that has images with it counts, else the highest, else the first.

    Raises:
        ConfigError: no folder is given.
        DataError: a folder is missing or holds no article.
    """
    if not folders:
        raise ConfigError(
            "fetching from PubMed Central over the network is not there yet",
            "give a folder of articles with their images: medvlm fetch pmc --mirror DIR",
        )
    copies: dict[str, list[Place]] = {}
    for number, folder in enumerate(folders):
        root = Path(folder).resolve()
        if not root.is_dir():
            raise DataError(f"mirror {folder} is not a folder", "give the folder that holds the articles")
        twin = any(Path(other).resolve().name == root.name for other in folders[:number])
        found = [Place(root, path) for path in _xml_files(root)]
        if not found:
            raise DataError(
                f"mirror {folder} holds no article", "give a folder with .xml or .nxml files of JATS articles"
            )
        for place in found:
            copies.setdefault(_id(place, f"~{number + 1}" * twin), []).append(place)
    return {key: max(places, key=_rank) if len(places) > 1 else places[0] for key, places in copies.items()}


def _xml_files(root: Path) -> list[Path]:
    """Articles of a folder, sorted; in a ``PMC1.1/`` only its own XML, because supplements end in .xml too."""
    found = []
    for folder, folders, names in os.walk(root):  # does not follow links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        own = Path(folder).name
        for name in sorted(names):
            is_article = _ending(name) in (".xml", ".nxml") and not name.startswith(".")
            if is_article and (Path(name).stem == own or not _VERSION.fullmatch(own)):
                found.append(Path(folder, name))
    return found


def _id(place: Place, suffix: str) -> str:
    version = _VERSION.fullmatch(place.xml.stem)
    if version:
        return version[1]
    head = b""  # where it cannot be read, harvest will say so and name the file
    if place.xml.is_file() and not place.xml.is_symlink():
        with contextlib.suppress(OSError), place.xml.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    end = _HEAD_END.search(head)
    head = head[: end.start()] if end else head
    if match := _PMC_ID.search(head):
        return f"PMC{match[1].decode()}"
    if match := _DOI.search(head):
        return match[1].decode("utf-8", "replace")
    path = place.xml.relative_to(place.root).with_suffix("").as_posix()
    return f"{place.root.name}{suffix}/{path}".encode("utf-8", "replace").decode()


def _rank(place: Place) -> tuple[bool, int]:
    version = _VERSION.fullmatch(place.xml.stem)
    has_images = any(name.endswith(SUFFIXES) for name in listing(place.xml.parent))
    return has_images, int(version[2]) if version else 0


@functools.lru_cache(maxsize=256)
def listing(folder: Path) -> dict[str, list[str]]:
    """Files of a folder by their name in lower case; cached, because a flat mirror is one folder for every article."""
    names: dict[str, list[str]] = {}
    try:
        for name in sorted(path.name for path in folder.iterdir()):
            names.setdefault(name.lower(), []).append(name)
    except OSError:
        return {}
    return names


@functools.lru_cache(maxsize=256)
def _stems(folder: Path) -> dict[str, list[str]]:
    """Image files of a folder by their stem in lower case."""
    stems: dict[str, list[str]] = {}
    for lower, names in listing(folder).items():
        ending = _ending(lower)
        if ending in SUFFIXES:
            stems.setdefault(lower.removesuffix(ending), []).extend(names)
    return stems


def forget() -> None:
    """Forget cached listings: the folders may have changed."""
    listing.cache_clear()
    _stems.cache_clear()


def find_image(place: Place, address: str) -> Path:
    """The file that the address of a ``graphic`` means.

    In this order: the exact name; the same name in other case; the same stem with another ending or none, of several
    the first of ``SUFFIXES``.  A GIF gives way to a full image of the same stem, which makes it the thumbnail.  Of an
    address on the web (SciELO) the last part counts.

    Raises:
        MissError: ``missing_image``; ``ambiguous_image``: several files fit equally well; ``unsafe_path``: the address
            leads out of the folder.
    """
    folder, name = _split(place, address)
    if not name:
        raise MissError("missing_image", f"{place.name()}: the address '{address}' names no file")
    names = listing(folder)
    same = [name] if name in names.get(name.lower(), ()) else names.get(name.lower(), [])
    ending = _ending(name)
    if same and ending in SUFFIXES and ending != ".gif":
        return _only(place, address, folder, same)
    stems = _stems(folder)
    fitting = list(stems.get(name.lower(), ()))  # "pone.0167493.g001" has no ending, ".g001" is part of the stem
    if ending in _SOURCES_OF_IMAGES:
        fitting += stems.get(name.lower().removesuffix(ending), ())
    fitting = fitting or same
    if not fitting:
        raise MissError("missing_image", f"{place.name()}: no file '{name}' in {folder.name}/")
    best = min(_preference(file) for file in fitting)
    return _only(place, address, folder, [file for file in fitting if _preference(file) == best])


def _split(place: Place, address: str) -> tuple[Path, str]:
    """The folder and the name that an address means; everything that could lead elsewhere is refused."""
    unsafe = MissError("unsafe_path", f"{place.name()}: the address '{address}' leads out of the article's folder")
    if "://" in address or address.lower().startswith(("file:", "data:")):
        if urlsplit(address).scheme.lower() not in ("http", "https", "ftp"):
            raise unsafe
        parts = [unquote(urlsplit(address).path).rpartition("/")[2]]
    else:
        parts = unquote(address).split("/")
        if parts[0] == "" or re.match(r"[A-Za-z]:", address):
            raise unsafe
    if any(part == ".." or "\\" in part or not part.isprintable() for part in parts):
        raise unsafe
    folder = place.xml.parent.joinpath(*parts[:-1])
    if len(parts) > 1 and parts[-1].lower() not in listing(folder):
        folder = place.xml.parent  # packages flatten the folders of the address
    return folder, parts[-1]


def _preference(file: str) -> int:
    ending = _ending(file)
    return SUFFIXES.index({".jpeg": ".jpg", ".tiff": ".tif"}.get(ending, ending)) if ending in SUFFIXES else 99


def _only(place: Place, address: str, folder: Path, files: list[str]) -> Path:
    if len(files) > 1:
        raise MissError("ambiguous_image", f"{place.name()}: '{address}' may be any of {', '.join(files)}")
    return folder / files[0]


def _ending(name: str) -> str:
    """``.jpg`` of ``Fig1.JPG``."""
    return Path(name).suffix.lower()
