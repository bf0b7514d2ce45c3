"""A user's own images, with a CSV or JSONL file that describes them, one row an image.

Columns: ``image`` (or ``file``, ``filename``, ``path``; relative to the folder) and ``caption``; optional ``label``,
``modality``, ``license``, ``mentions`` (a list in JSONL, separated by ``|`` in CSV) and ``id``.  A row without a
caption is a reject: a figure that nothing is said about teaches nothing.  Rows count as a spreadsheet counts them: the
header of a CSV is row 1.
"""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import ImageTooBigError, UnsafePathError, decode, read_inside
from medvlm_cli.core.table import find_table, image_folder, read_table, word
from medvlm_cli.sources.licenses import commercial_ok, kept, spdx
from medvlm_cli.sources.modality import UNKNOWN, modality, n_panels
from medvlm_cli.sources.text import clean

REASONS = {
    "missing_image": "the row names no image, or one that is not there",
    "missing_caption": "the row has no caption",
    "corrupt_image": "truncated, broken, empty, or of a format that is not read",
    "image_too_big": "more pixels or bytes than are decoded",
    "unsafe_path": "the path leads out of the folder",
    "dicom": "DICOM is not read yet",
    "bad_row": "not a JSON object, or more values than columns",
    "duplicate_id": "an earlier row has the same id",
    "license_excluded": "the licence does not allow the use asked for",
    "not_listed": "an image in the folder that no row names",
}
"""Every reason for which a row, or an image, is no figure."""

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".dcm", ".dicom")
_DICOM = (".dcm", ".dicom")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the table, or an image that no row names."""

    where: str
    """How an error names it: ``captions.csv, row 3``."""
    figure_id: str
    values: dict[str, Any]
    trouble: tuple[str, str] | None = None
    """(reason, message), found out while reading the table."""


def keys(config: FetchConfig) -> list[str]:
    """One key a row of the captions file, in order, then one an image that no row names.

    Raises:
        ConfigError: no folder is given.
        DataError: the folder or its captions file is missing, not UTF-8, malformed, or lacks a column.
    """
    _entries.cache_clear()
    return list(_entries(config.images, config.captions))


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The figure of one row, or why there is none.

    Args:
        key: one of ``keys(config)``.
        config: folder, captions file and the licence asked for.
    """
    entry = _entries(config.images, config.captions)[key]
    made = _figure(entry, Path(config.images), config.license)
    return Harvest(1, [], [made]) if isinstance(made, Reject) else Harvest(1, [made], [])


@functools.lru_cache(maxsize=2)
def _entries(images: str, captions: str) -> dict[str, _Entry]:
    root = image_folder(images, "folder")
    table = find_table(root, captions)
    entries: dict[str, _Entry] = {}
    named: set[str] = set()
    taken: set[str] = set()
    for number, values, trouble in read_table(table, ("image", "caption")):
        image = word(values.get("image")).replace("\\", "/")
        named.add(os.path.normpath(root.absolute() / image))
        where = f"{table.name}, row {number}"
        figure_id = clean(word(values.get("id")))
        if figure_id and figure_id in taken and trouble is None:
            trouble = "duplicate_id", f"id '{figure_id}' is that of an earlier row"
        derived = figure_id or clean(os.path.splitext(image)[0].lstrip("./")) or f"row {number}"  # noqa: PTH122 (a/b.c)
        unique = derived if derived not in taken else f"{derived}~{number}"
        taken.add(unique)
        entries[f"{table.name}:{number}"] = _Entry(where, unique, values | {"image": image}, trouble)
    for path in _unlisted(root, named):
        name = path.relative_to(root).as_posix().encode("utf-8", "replace").decode()
        what = "DICOM is not read yet: export it as PNG, and" if path.suffix.lower() in _DICOM else "to use it,"
        trouble = "not_listed", f"no row of {table.name} names it; {what} add a row with its caption"
        entries[f"not listed:{name}"] = _Entry(f"{root.name}/{name}", f"{name} (not listed)", {}, trouble)
    return entries


def _unlisted(root: Path, named: set[str]) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    images = [path for path in found if path.suffix.lower() in _ENDINGS]
    return [path for path in images if os.path.normpath(path.absolute()) not in named]


def _figure(entry: _Entry, root: Path, wanted: str) -> dict[str, Any] | Reject:
    """A row of figures/1, or the reject."""
    values = entry.values
    caption = clean(word(values.get("caption")))
    image = values.get("image", "")
    license_ = spdx([word(values.get("license"))])
    trouble = entry.trouble
    if trouble is None and not image:
        trouble = "missing_image", "the row names no image"
    if trouble is None and not caption:
        trouble = "missing_caption", f"no caption for {image}"
    if trouble is None and not kept(wanted, license_, third_party=False):
        trouble = "license_excluded", f"{wanted} use was asked for, the licence is {license_}"
    if trouble is not None:
        return Reject(entry.figure_id, trouble[0], clean(f"{entry.where}: {trouble[1]}"), caption or None)
    try:
        path = root / image
        data = read_inside(root, path)
        pixels = decode(data, image)
    except DataError as error:
        return Reject(entry.figure_id, _reason(error, root / image), clean(f"{entry.where}: {error.what}"), caption)
    mentions = _mentions(values.get("mentions"))
    given = clean(word(values.get("modality"))).lower()
    kind, source = (given, "given") if given else modality(caption, [mention["text"] or "" for mention in mentions])
    return {
        "figure_id": entry.figure_id,
        "source": "folder",
        "image": {"bytes": data, "path": clean(path.name)},
        "image_sha256": hashlib.sha256(data).digest(),
        "width": pixels.width,
        "height": pixels.height,
        "caption": caption,
        "label": clean(word(values.get("label"))) or None,
        "mentions": mentions,
        "modality": kind,
        "modality_source": source if kind != UNKNOWN else None,
        "n_panels": n_panels(caption),
        "license": license_,
        "commercial_ok": commercial_ok(license_),
        "retracted": False,
        "third_party": False,
        "article_id": None,
        "doi": None,
        "title": None,
        "url": None,
    }


def _reason(error: DataError, path: Path) -> str:
    if isinstance(error, UnsafePathError):
        return "unsafe_path"
    if isinstance(error, ImageTooBigError):
        return "image_too_big"
    if not os.path.lexists(path):
        return "missing_image"
    return "dicom" if path.suffix.lower() in _DICOM or "DICOM" in error.what else "corrupt_image"


def _mentions(given: Any) -> list[dict[str, str | None]]:
    """Sentences that cite the figure: ``a|b``, a list of strings, or a list of {text, panel}."""
    listed = given.split("|") if isinstance(given, str) else given if isinstance(given, list) else []
    mentions = []
    for one in listed:
        text, panel = (one.get("text"), one.get("panel")) if isinstance(one, dict) else (one, None)
        if clean(word(text)):
            mentions.append({"text": clean(word(text)), "panel": clean(word(panel)) or None})
    return mentions
