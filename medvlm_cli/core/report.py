"""``report.html``: a page that shows what a dataset of figures holds.

One file that opens offline and runs nothing: no script, no font, no address that is loaded; the filters are style
sheets.  Everything on it comes from strangers, so text is cleaned, cut and escaped by the template engine, class names
and ids are made here and never of data, and an address becomes a link only if it is plain https.
"""

import base64
import hashlib
import heapq
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from medvlm_cli.core import commit
from medvlm_cli.core.arrow import Dataset
from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import decode
from medvlm_cli.core.record import RUN, read_json
from medvlm_cli.core.summary import UNKNOWN, shortened, tables

NAME = "report.html"

FIGURES_SHOWN = 300
"""With thumbnails of about 10 kB each, a page that can still be mailed."""
REJECTS_SHOWN = 50
SIDE = 220
"""Longest side of a thumbnail in pixels."""

_CAPTION, _CAPTION_START = 5000, 200
_SENTENCE, _MENTIONS = 600, 8
_WORD = 200
"""Most characters of a caption, of its start, of a sentence; most sentences; most characters of anything else."""
_BARS, _OPTIONS = 20, 12
"""Most values that a table, and that a filter, tells apart; the others are one."""

_COLUMNS = (
    *("figure_id", "image", "width", "height", "caption", "label", "mentions", "modality", "modality_source"),
    *("n_panels", "n_panels_caption", "n_panels_image", "license", "commercial_ok", "retracted", "third_party"),
    *("title", "authors", "journal", "year", "url", "burned_in"),
)
"""What is read of a figure on the page; ``source_file`` is not, a hospital's file names may name patients."""

_HTTPS = re.compile(
    r"https://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::\d{1,5})?(?:[/?#][a-z0-9._~:/?#@!$&'()*+,;=%\[\]-]*)?",
    re.IGNORECASE | re.ASCII,
)
"""An address without a user's name in it, of the characters that RFC 3986 allows."""
_FOLDERS = re.compile(r"(^|[=,])(?:~|/)\S*/([^/\s]+)/?$")


@dataclass(frozen=True)
class _Filter:
    """One group of buttons on the page; ``options`` are (class name, text, figures on the page)."""

    title: str
    name: str
    options: list[tuple[str, str, int]]


def write_report(dataset: Dataset, meanings: Mapping[str, str] | None = None) -> Path:
    """Write ``report.html`` into the folder of a dataset, replacing an earlier one.

    The same dataset gives the same bytes.  Text is read in two scans; images, at most ``FIGURES_SHOWN``, chosen by the
    hashes of their ids and as evenly over the modalities as these allow.  A shard that holds one of them is read once
    to compare its hash.

    Args:
        dataset: figures/1, with or without the columns that articles and scans add.
        meanings: what each reason of a reject means, where the source says so.

    Returns:
        The path of the page.

    Raises:
        DataError: the dataset is a single file, or a file of it is not what it was.
        ResourceError: the disk refuses.
    """
    if not dataset.folder.is_dir():
        raise DataError(f"{dataset.folder} is a single file", "give a dataset's folder")
    present = dataset.columns
    columns = [name for name in _COLUMNS if name in present]
    cards = [_card(dataset.row_at(position, columns)) for position in _chosen(dataset, FIGURES_SHOWN)]
    counted = tables(dataset)
    first = dataset.parts[0] if dataset.parts else dataset
    run = read_json(first.folder / RUN) or {}
    page = _template().render(
        name=_word(dataset.folder.resolve().name),
        rows=len(dataset),
        rejected=sum(counted["rejects"].values()),
        made=_made(run),
        tables=[_table(title, counted[title], meanings or {}) for title in counted],
        filters=_filters(cards),
        cards=cards,
        rejects=[_reject(reject) for reject in islice(dataset.rejects(), REJECTS_SHOWN)],
    )
    path = dataset.folder / NAME
    commit.write_text(path, page)
    return path


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = files("medvlm_cli.core").joinpath(NAME).read_text(encoding="utf-8")
    return environment.from_string(text)


def _chosen(dataset: Dataset, most: int) -> list[int]:
    """Positions of at most ``most`` figures; of each modality those whose ids have the smallest hashes."""
    strata: dict[str, list[tuple[int, int]]] = {}  # heaps whose first entry is the largest hash kept
    for position, row in enumerate(dataset.rows(["figure_id", "modality"])):
        heap = strata.setdefault(row["modality"], [])
        digest = hashlib.sha256(row["figure_id"].encode()).digest()
        entry = (-int.from_bytes(digest[:8]), position)
        if len(heap) < most:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    chosen: list[int] = []
    rarest_first = sorted(strata.items(), key=lambda stratum: (len(stratum[1]), stratum[0]))
    for number, (_, heap) in enumerate(rarest_first):  # what a rare modality leaves goes to the commoner ones
        share = (most - len(chosen)) // (len(strata) - number)
        chosen += [position for _, position in sorted(heap, reverse=True)[:share]]
    return sorted(chosen)


def _card(row: Mapping[str, Any]) -> dict[str, Any]:
    """A figure as the template shows it; ``kinds`` holds its value for each filter."""
    caption = row["caption"]
    mentions = [mention["text"] for mention in row["mentions"]]
    license_ = _word(row["license"] or UNKNOWN)
    panels = row.get("n_panels")
    compound = UNKNOWN if panels is None or panels < 1 else "single" if panels == 1 else "compound"
    url, host = _link(row.get("url"))
    return {
        "id": _word(row["figure_id"]),
        "label": _word(row.get("label")),
        "thumbnail": _thumbnail(row["image"]["bytes"], row["figure_id"]),
        "size": f"{row['width']:,} × {row['height']:,}",
        "caption": _cut(caption, _CAPTION),
        "start": clean(caption[:_CAPTION_START]) + "…" if len(caption) > _CAPTION_START else "",
        "mentions": [_cut(text, _SENTENCE) for text in mentions[:_MENTIONS]],
        "all_mentions": len(mentions),
        "modality": _word(row["modality"] or UNKNOWN),
        "modality_source": _word(row.get("modality_source")),
        "license": license_,
        "panels": _panels(row),
        "article": _word(row.get("title")),
        "credit": ", ".join(part for part in (_word(row.get(name)) for name in ("authors", "journal", "year")) if part),
        "url": url,
        "host": host,
        "warnings": _warnings(row),
        "kinds": {
            "Modality": _word(row["modality"] or UNKNOWN),
            "Licence": license_,
            "Panels": compound,
            "Commercial use": "allowed" if row["commercial_ok"] else "not allowed",
            "Third-party rights": "stated" if row["third_party"] else "none stated",
        },
    }


def _warnings(row: Mapping[str, Any]) -> list[str]:
    told = {
        "retracted": row["retracted"],
        "third-party rights": row["third_party"],
        "no commercial use": not row["commercial_ok"],
        "may show burned-in text": row.get("burned_in"),
    }
    return [warning for warning, holds in told.items() if holds]


def _panels(row: Mapping[str, Any]) -> str:
    """``4 (caption 4, image 2)``; empty where nobody counted."""
    by = {"caption": row.get("n_panels_caption"), "image": row.get("n_panels_image")}
    found = ", ".join(f"{name} {count}" for name, count in by.items() if count is not None)
    total = row.get("n_panels")
    shown = UNKNOWN if total is None else str(total)
    return f"{shown} ({found})" if found else shown


def _thumbnail(data: bytes, name: str) -> dict[str, Any] | None:
    """A small WebP as an address, with its size in pixels; None for what cannot be decoded."""
    try:
        image = decode(data, name)
    except DataError:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=72, method=4)
    address = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return {"address": address, "width": image.width, "height": image.height}


def _filters(cards: Sequence[dict[str, Any]]) -> list[_Filter]:
    """The groups of buttons for these figures; gives each card its ``classes``."""
    filters = []
    for card in cards:
        card["classes"] = []
    for number, title in enumerate(cards[0]["kinds"] if cards else ()):
        counts = Counter(card["kinds"][title] for card in cards)
        known = sorted(counts, key=lambda value: (value == UNKNOWN, -counts[value], value))
        kept = known if len(known) <= _OPTIONS else known[: _OPTIONS - 1]
        class_of = {value: f"f{number}-{place}" for place, value in enumerate(kept)}
        options = [(class_of[value], value, counts[value]) for value in kept]
        if others := known[len(kept) :]:
            class_of |= dict.fromkeys(others, f"f{number}-rest")
            options.append((f"f{number}-rest", f"{len(others)} others", sum(counts[value] for value in others)))
        for card in cards:
            card["classes"].append(class_of[card["kinds"][title]])
        filters.append(_Filter(title, f"f{number}", options))
    return filters


_TITLES = {
    "modality": "Modality",
    "license": "Licence",
    "year": "Year of the article",
    "panels": "Panels of a figure",
    "rejects": "Rejects by reason",
}


def _table(title: str, counts: Mapping[str, int], meanings: Mapping[str, str]) -> dict[str, Any]:
    """A table whose bars are lengths in per cent of the longest."""
    lines = shortened(title, counts, _BARS)
    longest = max(lines.values(), default=1)
    total = sum(counts.values())
    bars = [
        {
            "value": _word(value),
            "meaning": _cut(meanings.get(value, ""), _WORD) if title == "rejects" else "",
            "count": count,
            "length": f"{max(0.5, 100 * count / longest):.1f}",
            "share": f"{100 * count / total:.1f} %",
        }
        for value, count in lines.items()
    ]
    return {"title": _TITLES[title], "bars": bars}


def _reject(reject: Mapping[str, str]) -> dict[str, str]:
    return {"id": _word(reject["id"]), "reason": _word(reject["reason"]), "message": _cut(reject["message"], _SENTENCE)}


def _made(run: Mapping[str, Any]) -> dict[str, str]:
    """Version, command and day of a run; empty what the record does not say.

    Of paths only the last part is shown: whoever is mailed the page need not know where the data lies.
    """
    words = [_FOLDERS.sub(r"\1…/\2", str(word)) for word in run.get("argv", [])[1:]]
    return {
        "version": _word(run.get("medvlm")),
        "command": _cut(" ".join(["medvlm", *words]), _SENTENCE) if words else "",
        "day": _word(str(run.get("finished", ""))[:10]),
    }


def _link(url: str | None) -> tuple[str, str]:
    """An https address in plain ASCII and its host; twice nothing for any other."""
    match = _HTTPS.fullmatch(url) if url and len(url) <= 2000 else None
    return (match[0], match["host"]) if match else ("", "")


def _word(value: Any) -> str:
    return "" if value is None else _cut(str(value), _WORD)


def _cut(text: str, most: int) -> str:
    """The beginning of a text, printable, and how much there is of it where something is left out."""
    return clean(text) if len(text) <= most else f"{clean(text[:most])}… [{len(text):,} characters]"
