"""What a dataset of figures holds, counted: the tables that ``fetch`` ends with and that ``report.html`` draws."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from medvlm_cli.core.arrow import Dataset

UNKNOWN = "unknown"
"""What a value that nobody stated is counted as."""

_COLUMNS = {"modality": "modality", "license": "license", "year": "year", "panels": "n_panels"}
"""The column that each table counts; a dataset need not have all of them."""


def tables(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Rows by modality, licence, year and panels, and rejects by reason; only these columns are read.

    Returns:
        ``{"modality": {"ct": 12, ...}, "license": ..., "year": ..., "panels": ..., "rejects": ...}``.  Years ascend,
        panels too, the others come commonest first; ``unknown`` is last.  A column that the dataset lacks counts
        nothing.

    Raises:
        DataError: a file of the dataset is not what it was.
    """
    columns = dataset.columns
    there = {title: column for title, column in _COLUMNS.items() if column in columns}
    counted: dict[str, Counter[str]] = {title: Counter() for title in _COLUMNS}
    for row in dataset.rows(list(there.values())) if there else ():
        for title, column in there.items():
            counted[title][_panels(row[column]) if title == "panels" else _text(row[column])] += 1
    rejects = Counter(reject["reason"] for reject in dataset.rejects())
    return {
        "modality": _commonest_first(counted["modality"]),
        "license": _commonest_first(counted["license"]),
        "year": dict(sorted(counted["year"].items())),  # four digits each; "unknown" sorts after digits
        "panels": dict(sorted(counted["panels"].items())),
        "rejects": _commonest_first(rejects),
    }


def shortened(title: str, counts: Mapping[str, int], most: int) -> dict[str, int]:
    """A table of ``tables`` with at most ``most`` lines: of years the latest stay, of all else the commonest.

    The others are summed up in one line, and ``unknown`` is never among them.

    Args:
        title: the table's key, ``year``.
        counts: the table.
        most: 3 or more.
    """
    if len(counts) <= most:
        return dict(counts)
    known = [(value, count) for value, count in counts.items() if value != UNKNOWN]
    unknown = {UNKNOWN: counts[UNKNOWN]} if UNKNOWN in counts else {}
    room = most - 1 - len(unknown)
    if title == "year":
        early, late = known[:-room], known[-room:]
        return {f"before {late[0][0]}": sum(count for _, count in early), **dict(late), **unknown}
    kept, rest = known[:room], known[room:]
    return {**dict(kept), f"{len(rest):,} others": sum(count for _, count in rest), **unknown}


def _panels(count: int | None) -> str:
    """The class of a number of panels: ``1``, ``2-4``, ``5+``, or ``unknown`` for None and what cannot be."""
    if count is None or count < 1:
        return UNKNOWN
    if count == 1:
        return "1"
    return "2-4" if count < 5 else "5+"


def _text(value: Any) -> str:
    return UNKNOWN if value is None or value == "" else str(value)


def _commonest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (item[0] == UNKNOWN, -item[1], item[0])))
