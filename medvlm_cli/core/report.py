"""``report.html``: a page that shows what a dataset of figures holds.

No script, no font, no address that is loaded: the filters are style sheets.  What keeps strangers' text from acting in
the page is in ``page``.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from medvlm_cli.core import commit
from medvlm_cli.core.arrow import Dataset
from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.page import SENTENCE, bars, cut, filters, link, made, rendered, spread, thumbnail, word
from medvlm_cli.core.record import RUN, read_json
from medvlm_cli.core.summary import UNKNOWN, shortened, tables

NAME = "report.html"

FIGURES_SHOWN = 300
"""With thumbnails of about 10 kB each, a page that can still be mailed."""
REJECTS_SHOWN = 50

_CAPTION, _CAPTION_START = 5000, 200
_MENTIONS = 8
"""Most characters of a caption and of its start; most sentences."""
_BARS = 20
"""Most values that a table tells apart; the others are one."""

_COLUMNS = (
    *("figure_id", "image", "width", "height", "caption", "label", "mentions", "modality", "modality_source"),
    *("n_panels", "n_panels_caption", "n_panels_image", "license", "commercial_ok", "retracted", "third_party"),
    *("title", "authors", "journal", "year", "url", "burned_in"),
)
"""What is read of a figure on the page; ``source_file`` is not, a hospital's file names may name patients."""


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
    entries = ((row["modality"], row["figure_id"]) for row in dataset.rows(["figure_id", "modality"]))
    chosen = spread(entries, FIGURES_SHOWN)
    cards = [_card(dataset.row_at(position, columns)) for position in chosen]
    counted = tables(dataset)
    first = dataset.parts[0] if dataset.parts else dataset
    run = read_json(first.folder / RUN) or {}
    page = rendered(
        "medvlm_cli.core",
        NAME,
        name=word(dataset.folder.resolve().name),
        rows=len(dataset),
        rejected=sum(counted["rejects"].values()),
        made=made(run),
        tables=[_table(title, counted[title], meanings or {}) for title in counted],
        filters=filters(cards),
        cards=cards,
        rejects=[_reject(reject) for reject in islice(dataset.rejects(), REJECTS_SHOWN)],
    )
    path = dataset.folder / NAME
    commit.write_text(path, page)
    return path


def _card(row: Mapping[str, Any]) -> dict[str, Any]:
    """A figure as the template shows it; ``kinds`` holds its value for each filter."""
    caption = row["caption"]
    mentions = [mention["text"] for mention in row["mentions"]]
    license_ = word(row["license"] or UNKNOWN)
    panels = row.get("n_panels")
    compound = UNKNOWN if panels is None or panels < 1 else "single" if panels == 1 else "compound"
    url, host = link(row.get("url"))
    return {
        "id": word(row["figure_id"]),
        "label": word(row.get("label")),
        "thumbnail": thumbnail(row["image"]["bytes"], row["figure_id"]),
        "size": f"{row['width']:,} × {row['height']:,}",
        "caption": cut(caption, _CAPTION),
        "start": clean(caption[:_CAPTION_START]) + "…" if len(caption) > _CAPTION_START else "",
        "mentions": [cut(text, SENTENCE) for text in mentions[:_MENTIONS]],
        "all_mentions": len(mentions),
        "modality": word(row["modality"] or UNKNOWN),
        "modality_source": word(row.get("modality_source")),
        "license": license_,
        "panels": _panels(row),
        "article": word(row.get("title")),
        "credit": ", ".join(part for part in (word(row.get(name)) for name in ("authors", "journal", "year")) if part),
        "url": url,
        "host": host,
        "warnings": _warnings(row),
        "kinds": {
            "Modality": word(row["modality"] or UNKNOWN),
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
    return {"title": _TITLES[title], "bars": bars(lines, meanings if title == "rejects" else {})}


def _reject(reject: Mapping[str, str]) -> dict[str, str]:
    return {"id": word(reject["id"]), "reason": word(reject["reason"]), "message": cut(reject["message"], SENTENCE)}
