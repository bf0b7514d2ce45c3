"""The score sheet of one set of answers, what ``scores.json`` holds of several, and the tables that people read.

Every protocol is scored from the same answers, and every number carries an interval from a bootstrap over images.
"""

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from medvlm_cli import __version__
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.cells import Cell, percent, span
from medvlm_cli.core.scoring.intervals import balanced_accuracy, means_with_intervals
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.published_rows import beside

SCHEMA = "scores/1"
"""Name and number of the layout of ``scores.json``."""
DRAWS, SEED = 10_000, 0
"""Bootstrap samples behind every interval, and their seed."""
PROTOCOLS = {
    "llama3med": llama3med.PROTOCOL,
    "llavamed-batch": llama3med.BATCH_PROTOCOL,
    "strict": strict.PROTOCOL,
}
"""Ids of the rules by the short name of each; change a rule, raise the number."""
HEADLINE = {"llama3med": ("recall", "accuracy"), "strict": ("recall", "accuracy")}
"""What tables show of the protocols: of open and of closed questions."""
_BEHAVIOUR = {"balanced accuracy": "balanced_accuracy", "unparsed": "unparsed", "said yes": "said_yes"}

Sheet = dict[str, Any]
"""What ``sheet`` returns."""


def sheet(
    items: Sequence[Item],
    answers: Mapping[str, str],
    *,
    candidates: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Sheet:
    """Score one set of answers under every protocol.

    Args:
        items: the questions.
        answers: by question id, one for each.
        candidates: what ``open_accuracy`` of the published script chooses from.
        draws: bootstrap samples.
        seed: of the draws.

    Returns:
        JSON: ``counts`` (rows, images, open, closed), ``skipped`` (rows that the published script passes over),
        ``interval``, and under each name of ``PROTOCOLS`` its metrics, by name.  A metric is ``{value, low, high,
        rows, images}``, values from 0 to 1 and ``words`` in words an answer, or None where no row has it.  Open
        questions have ``recall``, ``f1``, ``exact_match``, by the published rules ``precision`` and with candidates
        ``open_accuracy`` too; closed ones ``accuracy``, by the strict rules ``unparsed``, ``said_yes`` and
        ``balanced_accuracy`` too.  ``categories`` has, by name, ``rows``, and of the protocols in ``HEADLINE``
        ``recall`` and ``accuracy``.

    Raises:
        DataError: the published rules cannot be applied.
    """
    images = [item.image_id for item in items]
    published = llama3med.published(items, answers, candidates)
    tables = {
        "llama3med": published.rows,
        "llavamed-batch": llama3med.published(items, answers, candidates, gate=False).rows,
        "strict": strict.strict(items, answers).rows,
    }
    columns = _columns(items, tables)
    means = means_with_intervals(columns, images, draws, seed)
    cells = {name: vars(mean) if mean else None for name, mean in means.items()}
    made: Sheet = {
        "counts": _counts(items),
        "skipped": len(published.skipped),
        "interval": {"level": 0.95, "method": "percentile bootstrap over images", "draws": draws, "seed": seed},
    }
    for protocol in PROTOCOLS:
        start = f"{protocol}/"
        made[protocol] = {name.removeprefix(start): cell for name, cell in cells.items() if name.startswith(start)}
    made["strict"]["balanced_accuracy"] = _balanced(items, tables["strict"], draws, seed)
    made["categories"] = {
        category: {"rows": sum(item.category == category for item in items)}
        | {
            protocol: {metric: cells[f"\n{category}\n{protocol}/{metric}"] for metric in metrics}
            for protocol, metrics in HEADLINE.items()
        }
        for category in _categories(items)
    }
    return made


def scores_document(sheets: Mapping[str, Sheet], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``scores.json``.

    Args:
        sheets: by whose answers they are: ``model`` first, and the baselines.
        facts: whatever else is known: ``benchmark``, ``split``, hashes of what was read, ``prompt``, ``baselines``
            (their sources), ``overlap`` ...; its ``versions`` are laid over the document's.

    Returns:
        JSON: ``schema``, ``made`` (ISO 8601), ``protocols`` (ids), ``interval``, ``versions``, the facts, and
        ``sheets``, each as ``sheet`` makes it.
    """
    first = next(iter(sheets.values()))
    versions = {"medvlm": __version__, "python": platform.python_version(), "numpy": version("numpy")}
    return {
        "schema": SCHEMA,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "protocols": dict(PROTOCOLS),
        "interval": first["interval"],
        **facts,
        "versions": versions | dict(facts.get("versions", {})),
        "sheets": dict(sheets),
    }


def legend(interval: Mapping[str, Any]) -> str:
    """What the printed numbers are: their unit, and how the intervals were made, with the seed.

    Args:
        interval: as ``sheet`` describes it.
    """
    how = f"{interval['method']}, {interval['draws']:,} draws, seed {interval['seed']}"
    return f"per cent, but words: of an open answer, on average; 95 % intervals by {how}"


def tables(document: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The tables that people read, in percent.

    Args:
        document: as ``scores_document`` makes it.

    Returns:
        ``headline``: a row for each sheet, both protocols side by side.  ``interval_95``: the same columns of the first
        sheet, as text.  ``categories``: a row for each category and kind, with ``questions``, the first sheet under
        both protocols with the interval of the strict score, and the strict score of each other sheet.
        ``paper``: Table 3 beside the first sheet; it is left out where the questions are not the paper's.
    """
    sheets: Mapping[str, Sheet] = document["sheets"]
    first = next(iter(sheets))
    made: dict[str, dict[str, dict[str, Any]]] = {
        "headline": {name: _headline(one) for name, one in sheets.items()},
        "interval_95": {first: {title: span(cell) for title, cell in _shown(sheets[first])}},
        "categories": _category_rows(sheets),
    }
    rows = beside(sheets[first], document.get("benchmark", ""))
    return made | ({"paper": rows} if rows else {})


def _headline(one: Sheet) -> dict[str, float | None]:
    words = one["strict"].get("words")
    return {title: percent(cell) for title, cell in _shown(one)} | {"words": words and round(words["value"], 2)}


def _shown(one: Sheet) -> list[tuple[str, Cell]]:
    """The headline of a sheet: titles of the columns, and metrics."""
    scores = [
        (f"{protocol} {kind}", one[protocol].get(metric))
        for protocol, metrics in HEADLINE.items()
        for kind, metric in zip(("open", "closed"), metrics, strict=True)
    ]
    return scores + [(title, one["strict"].get(metric)) for title, metric in _BEHAVIOUR.items()]


def _category_rows(sheets: Mapping[str, Sheet]) -> dict[str, dict[str, Any]]:
    first, *others = sheets
    rows: dict[str, dict[str, Any]] = {}
    for category, cells in sheets[first]["categories"].items():
        for kind, metric in (("open", "recall"), ("closed", "accuracy")):
            cell = cells["strict"][metric]
            if cell:
                rows[f"{category or 'other'}, {kind}"] = {
                    "questions": cell["rows"],
                    "llama3med": percent(cells["llama3med"][metric]),
                    "strict": percent(cell),
                    "strict 95 %": span(cell),
                } | {name: percent(sheets[name]["categories"][category]["strict"][metric]) for name in others}
    return rows


def _columns(items: Sequence[Item], tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, np.ndarray]:
    """One column a metric of a protocol, and of a category; NaN where a row has no such score."""
    columns = {}
    for protocol, rows in tables.items():
        scored = [rows.get(item.question_id, {}) for item in items]
        for metric in dict.fromkeys(name for row in scored for name in row):
            columns[f"{protocol}/{metric}"] = np.array([row.get(metric, np.nan) for row in scored])
    of = np.array([item.category for item in items], dtype=object)
    for category in _categories(items):
        for protocol, metrics in HEADLINE.items():
            for metric in metrics:
                column = columns.get(f"{protocol}/{metric}", np.full(len(items), np.nan))
                columns[f"\n{category}\n{protocol}/{metric}"] = np.where(of == category, column, np.nan)
    return columns


def _categories(items: Sequence[Item]) -> list[str]:
    return sorted({item.category for item in items})


def _counts(items: Sequence[Item]) -> dict[str, int]:
    opened = sum(item.kind == "open" for item in items)
    images = len({item.image_id for item in items})
    return {"rows": len(items), "images": images, "open": opened, "closed": len(items) - opened}


def _balanced(
    items: Sequence[Item], rows: Mapping[str, Mapping[str, float]], draws: int, seed: int
) -> dict[str, Any] | None:
    """The mean of the recall of yes and of no, over closed questions whose gold answer is one of them."""
    hits = {said: np.full(len(items), np.nan) for said in ("yes", "no")}
    for at, item in enumerate(items):
        if strict.is_binary(item):
            gold = next(said for said in hits if (said,) in map(strict.words, item.golds))
            hits[gold][at] = rows[item.question_id]["accuracy"]
    mean = balanced_accuracy(hits["yes"], hits["no"], [item.image_id for item in items], draws, seed)
    return vars(mean) if mean else None
