"""A user's own images, with a CSV or JSONL file that describes them, one row an image.

Columns: ``image`` (or ``file``, ``filename``, ``path``; relative to the folder) and ``caption``; optional ``label``,
``modality``, ``license``, ``mentions`` (a list in JSONL, separated by ``|`` in CSV) and ``id``.  A row without a
caption is a reject: a figure that nothing is said about teaches nothing.  Rows count as a spreadsheet counts them: the
header of a CSV is row 1.

Beside pictures a row may name a DICOM file, a NIfTI volume or a whole-slide image (extra ``medical``); the columns
``window``, ``frame``, ``axis``, ``volume``, ``region`` and ``level`` say what of it is wanted, where the settings of
those names do not.  Pictures are stored as they are; what is made of a scan, or of deep greyscale in a window, is PNG.

Nothing that a DICOM file says of a patient passes, and its name, which often is one, is neither stored nor told: the
figure is called after its pixels unless the table gives an ``id``, and rejects call the file by the table's row.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from medvlm_cli.core.arrow import Dataset, Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.decoding import decode_bounded
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import ImageTooBigError, UnsafePathError, find_inside, read_inside
from medvlm_cli.core.schemas import SCAN_FIGURES
from medvlm_cli.core.table import find_table, image_folder, read_table, word
from medvlm_cli.sources.dicom import read_dicom
from medvlm_cli.sources.greyscale import deep_values, shown_deep
from medvlm_cli.sources.licenses import commercial_ok, kept, spdx
from medvlm_cli.sources.modality import UNKNOWN, modality, n_panels
from medvlm_cli.sources.nifti import read_nifti
from medvlm_cli.sources.scans import (
    DICOM_ENDINGS,
    MAX_SCAN_BYTES,
    MAX_SLIDE_BYTES,
    NIFTI_ENDINGS,
    SLIDE_ENDINGS,
    Kind,
    Picture,
    ScanError,
    choice_of,
    is_file,
    kind_of,
    may_name_a_patient,
)
from medvlm_cli.sources.slides import is_slide, read_slide
from medvlm_cli.sources.text import clean

REASONS = {
    "missing_image": "the row names no image, or one that is not there",
    "missing_caption": "the row has no caption",
    "corrupt_image": "truncated, broken, empty, or of a format that is not read",
    "image_too_big": "more pixels, bytes or frames than are decoded",
    "unsafe_path": "the path leads out of the folder",
    "missing_extra": "the extra `medical`, or a decoder of it, is not installed",
    "no_picture": "a DICOM file without an image, or with the label of a slide",
    "bad_row": "not a JSON object, more values than columns, or a frame, region ... that is not in the file",
    "duplicate_id": "an earlier row has the same id",
    "license_excluded": "the licence does not allow the use asked for",
    "modality_excluded": "not one of the modalities asked for",
    "not_listed": "an image in the folder that no row names",
}
"""Every reason for which a row, or an image, is no figure."""

_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", *DICOM_ENDINGS, *NIFTI_ENDINGS, *SLIDE_ENDINGS
)  # fmt: skip
_WITHOUT_NAMES = {
    "unsafe_path": "its file leads out of the folder",
    "image_too_big": "its file has more pixels or bytes than are decoded",
    "missing_image": "its file cannot be read: it is not there",
    "corrupt_image": "its file cannot be read: it is empty, damaged, or no image",
}
_UNSAFE = re.compile(r"[^\w.-]+")
_SELDOM_BURNED = ("ct", "mri", "pet", "xray", "chest_xray", "histology")
"""Modalities of DICOM whose machines write nothing about the patient into the pixels."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the table, or an image that no row names."""

    where: str
    """How an error names it: ``captions.csv, row 3``."""
    figure_id: str
    values: dict[str, Any]
    trouble: tuple[str, str] | None = None
    """(reason, message), found out while reading the table."""
    number: int = 0
    """Row of the table."""
    id_given: bool = False
    """The table gives the id, so that it is no file name."""


def keys(config: FetchConfig) -> list[str]:
    """One key a row of the captions file, in order, then one an image that no row names.

    Raises:
        ConfigError: no folder is given.
        DataError: the folder or its captions file is missing, not UTF-8, malformed, or lacks a column.
    """
    _entries.cache_clear()
    return list(_entries(config.images, config.captions))


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The figures of one row, or why there are none: one figure, but for a scan of which all frames are wanted.

    Args:
        key: one of ``keys(config)``.
        config: folder, captions file, the licence asked for, and what is wanted of scans.
    """
    entries = _entries(config.images, config.captions)
    made = _figures(entries[key], Path(config.images), config)
    if isinstance(made, Reject):
        return Harvest(1, [], [made])
    rows, rejects = [], []
    names = _ids(config.images, config.captions) if len(made) > 1 else frozenset()
    for row in made:
        where, name, caption = entries[key].where, row["figure_id"], row["caption"]
        if name in names:
            rejects.append(Reject(f"{name}~", "duplicate_id", f"{where}: id '{name}' is that of another row", caption))
        elif config.modality and row["modality"] not in config.modality:
            words = f"{where}: modality {row['modality']} is not among those asked for"
            rejects.append(Reject(name, "modality_excluded", clean(words), caption))
        else:
            rows.append(row)
    return Harvest(len(made), rows, rejects)


def schema(config: FetchConfig) -> pa.Schema:
    """Figures with how a scan became a picture."""
    return SCAN_FIGURES


def mendable(config: FetchConfig) -> frozenset[str]:
    """Reasons that the user can cure, in the folder or by an installation."""
    return frozenset({"corrupt_image", "missing_image", "missing_caption", "image_too_big", "missing_extra"})


def counted(dataset: Dataset, config: FetchConfig) -> dict[str, str]:
    """The ``warning`` about words in the pixels, for the summary; nothing where there is none."""
    words = warning(dataset.rows(["source_file", "modality", "modality_source", "burned_in"]))
    return {"warning": words} if words else {}


def warning(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """One line about figures whose pixels may hold words about a patient; None where there are none.

    Args:
        rows: with columns ``source_file``, ``modality``, ``modality_source`` and ``burned_in``.
    """
    burned, unsaid = _burned_in(rows)
    if not burned + unsaid:
        return None
    return (
        f"{burned} DICOM figures say that words are burned into their pixels, {unsaid} of a kind that often has such"
        " words say nothing: look at them (column burned_in) before you pass them on"
    )


def _burned_in(rows: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """How many DICOM figures say that words are burned in, and how many of a suspicious kind do not say."""
    burned = unsaid = 0
    for row in rows:
        if row["source_file"] is None:  # DICOM
            seldom = row["modality_source"] in ("dicom", "given") and row["modality"] in _SELDOM_BURNED
            burned += row["burned_in"] is True
            unsaid += row["burned_in"] is None and not seldom
    return burned, unsaid


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
        given = bool(figure_id)
        entries[f"{table.name}:{number}"] = _Entry(where, unique, values | {"image": image}, trouble, number, given)
    return entries | _not_listed(root, table, named)


@functools.lru_cache(maxsize=2)
def _ids(images: str, captions: str) -> frozenset[str]:
    return frozenset(entry.figure_id for entry in _entries(images, captions).values())


def _not_listed(root: Path, table: Path, named: set[str]) -> dict[str, _Entry]:
    """The images of the folder that no row names; one whose name may be a patient's is counted instead."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"]
    entries: dict[str, _Entry] = {}
    unnamed = 0
    for path in found:
        if os.path.normpath(path.absolute()) in named or not is_file(path):
            continue
        kind = kind_of(root, path)
        if kind != "dicom" and not path.name.lower().endswith(_ENDINGS):
            continue
        name = path.relative_to(root).as_posix().encode("utf-8", "replace").decode()
        if may_name_a_patient(path, kind):
            unnamed += 1
            name = f"DICOM file {unnamed}"
        trouble = "not_listed", f"no row of {table.name} names it; to use it, add a row with its caption"
        entries[f"not listed:{name}"] = _Entry(f"{root.name}/{name}", f"{name} (not listed)", {}, trouble)
    return entries


def _figures(entry: _Entry, root: Path, config: FetchConfig) -> list[dict[str, Any]] | Reject:
    """Rows of figures/1 with ``SCAN_FIGURES``'s columns, or the reject."""
    values = entry.values
    caption = clean(word(values.get("caption")))
    image = values.get("image", "")
    kind: Kind = kind_of(root, root / image) if image else "picture"
    private = bool(image) and may_name_a_patient(Path(image), kind)
    shown = "its file" if private else image
    license_ = spdx([word(values.get("license"))])
    wanted = config.license or "all"
    trouble = entry.trouble
    if trouble is None and not image:
        trouble = "missing_image", "the row names no image"
    if trouble is None and not caption:
        trouble = "missing_caption", f"no caption for {shown}"
    if trouble is None and not kept(wanted, license_, third_party=False):
        trouble = "license_excluded", f"{wanted} use was asked for, the licence is {license_}"
    name = f"row {entry.number}" if private and not entry.id_given else entry.figure_id
    if trouble is not None:
        return Reject(name, trouble[0], clean(f"{entry.where}: {trouble[1]}"), caption or None)
    try:
        pictures = _pictures(root, root / image, kind, values, config)
    except DataError as error:
        reason = _reason(error, root / image)
        told = error.what if isinstance(error, ScanError) or not private else _WITHOUT_NAMES[reason]
        return Reject(name, reason, clean(f"{entry.where}: {told}"), caption)
    said = _said(entry, caption, license_)
    said["source_file"] = None if kind == "dicom" else clean(os.path.relpath(root / image, root).replace(os.sep, "/"))
    return [said | _seen(picture, entry, said, kind, len(pictures) > 1) for picture in pictures]


def _pictures(root: Path, path: Path, kind: Kind, values: dict[str, Any], config: FetchConfig) -> list[Picture]:
    """What a file shows.

    Raises:
        DataError: it is not there, or shows nothing that may be used.
    """
    if kind == "dicom":
        return read_dicom(find_inside(root, path, MAX_SCAN_BYTES), choice_of(values, kind, config))
    if kind == "nifti":
        return read_nifti(find_inside(root, path, MAX_SCAN_BYTES), choice_of(values, kind, config))
    if kind == "slide" or (kind == "tiff" and _is_slide(root, path, values, config)):
        return read_slide(find_inside(root, path, MAX_SLIDE_BYTES), choice_of(values, "slide", config))
    data = read_inside(root, path)
    pixels = decode_bounded(data, values["image"], config.decode_seconds)
    picture = Picture(data, pixels.width, pixels.height, is_file=True)
    deep = deep_values(data)
    if deep is None:
        return [picture]
    png, window = shown_deep(deep, choice_of(values, "picture", config))
    return [replace(picture, png=png or data, is_file=not png, window=window)]


def _is_slide(root: Path, path: Path, values: dict[str, Any], config: FetchConfig) -> bool:
    try:
        choice = choice_of(values, "slide", config)
    except ScanError:  # columns of a table whose TIFF files are plain pictures may mean something else
        choice = choice_of({}, "slide", config)
    return is_slide(find_inside(root, path, MAX_SLIDE_BYTES), choice)


def _said(entry: _Entry, caption: str, license_: str) -> dict[str, Any]:
    """What the table says of a figure."""
    mentions = _mentions(entry.values.get("mentions"))
    given = clean(word(entry.values.get("modality"))).lower()
    kind, source = (given, "given") if given else modality(caption, [mention["text"] or "" for mention in mentions])
    return {
        "figure_id": entry.figure_id,
        "source": "folder",
        "caption": caption,
        "label": clean(word(entry.values.get("label"))) or None,
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


def _seen(picture: Picture, entry: _Entry, said: dict[str, Any], kind: Kind, is_one_of_many: bool) -> dict[str, Any]:
    """What the picture says of itself."""
    name = entry.figure_id
    if kind == "dicom" and not entry.id_given:  # the row makes it unique: blank frames are all alike
        name = f"dicom-{picture.pixels[:12]}-{entry.number}"
    if is_one_of_many:
        name = f"{name}/frame-{picture.frame}"
    image = entry.values["image"]
    path = Path(image).name if picture.is_file else f"{_UNSAFE.sub('_', name)}.png"
    seen: dict[str, Any] = {}
    if picture.modality is not None and said["modality_source"] != "given":
        is_vague = picture.modality == "xray" and said["modality"] == "chest_xray"  # the body part need not be said
        seen = {} if is_vague else {"modality": picture.modality, "modality_source": "dicom"}
    center, width = picture.window or (None, None)
    return seen | {
        "figure_id": name,
        "image": {"bytes": picture.png, "path": clean(path)},
        "image_sha256": hashlib.sha256(picture.png).digest(),
        "width": picture.width,
        "height": picture.height,
        "frame": picture.frame,
        "window_center": center,
        "window_width": width,
        "region": None if picture.region is None else list(picture.region),
        "burned_in": picture.burned_in,
    }


def _reason(error: DataError, path: Path) -> str:
    if isinstance(error, ScanError):
        return error.reason
    if isinstance(error, UnsafePathError):
        return "unsafe_path"
    if isinstance(error, ImageTooBigError):
        return "image_too_big"
    return "corrupt_image" if os.path.lexists(path) else "missing_image"


def _mentions(given: Any) -> list[dict[str, str | None]]:
    """Sentences that cite the figure: ``a|b``, a list of strings, or a list of {text, panel}."""
    listed = given.split("|") if isinstance(given, str) else given if isinstance(given, list) else []
    mentions = []
    for one in listed:
        text, panel = (one.get("text"), one.get("panel")) if isinstance(one, dict) else (one, None)
        if clean(word(text)):
            mentions.append({"text": clean(word(text)), "panel": clean(word(panel)) or None})
    return mentions
