"""What the paper reports, to stand beside our own numbers: Llama3-Med, Table 3, zero-shot and fine-tuned systems.

The numbers were made with substring rules, so ours stand beside them under ``llama3med/1`` alone, and only where the
questions are those of the paper.  One of its rows can hardly be of the same rule: 86.78 closed on SLAKE is 361 of 416
questions, and the rule gives a short right answer no more than 355 of them.
"""

from collections.abc import Mapping
from typing import Any

from medvlm_cli.core.scoring.cells import Cell, percent, span

OURS = "this model"
"""The row of our own numbers."""

COUNTS = {"vqa-rad": (179, 272), "slake": (645, 416), "pathvqa": (3370, 3391)}
"""Open and closed questions of the test splits: Table 2."""

TABLE3: dict[str, tuple[float, ...]] = {
    "LLaVA 7B": (20.74, 59.19, 26.82, 50.24, 8.74, 45.65, 35.23),
    "LLaVA-Med 7B (CLIP)": (28.23, 61.40, 39.17, 52.16, 12.30, 54.05, 41.22),
    "LLaVA-Med 7B (BioMed CLIP)": (37.84, 60.66, 39.73, 54.33, 11.65, 49.07, 42.21),
    "LLaVA-Med 13B (CLIP)": (31.66, 61.40, 37.71, 49.76, 11.34, 49.63, 40.25),
    "LLaVA-Med 7B (Mistral)": (32.03, 62.87, 41.63, 56.97, 11.80, 55.47, 43.46),
    "Llama3-Med 8B": (31.20, 62.87, 44.34, 61.06, 12.88, 64.97, 46.22),
    "fine-tuned 1 epoch: LLaVA-Med 7B (CLIP)": (28.61, 56.25, 70.58, 54.57, 11.17, 59.19, 46.73),
    "fine-tuned 9 epochs: LLaVA 7B": (50.00, 65.07, 78.18, 63.22, 7.74, 63.20, 54.57),
    "fine-tuned 9 epochs: LLaVA-Med 7B (CLIP)": (66.26, 80.88, 82.30, 84.86, 37.59, 91.54, 73.90),
    "fine-tuned 9 epochs: LLaVA-Med 7B (BioMed CLIP)": (64.75, 83.09, 87.11, 86.78, 39.60, 91.09, 75.40),
    "fine-tuned 9 epochs: LLaVA-Med 13B (CLIP)": (64.58, 77.94, 84.97, 85.58, 38.82, 92.39, 74.05),
}
"""Percent: open recall and closed accuracy of each benchmark of ``COUNTS`` in turn, and the mean of the six."""


def benchmark_of(sheet: Mapping[str, Any], benchmark: str = "") -> str:
    """Which of the paper's test splits a sheet is of, by its counts and, where it is known, by its name; else empty."""
    counts = sheet["counts"]["open"], sheet["counts"]["closed"]
    found = next((name for name, paper in COUNTS.items() if paper == counts), "")
    return found if benchmark in ("", found) else ""


def beside(sheet: Mapping[str, Any], benchmark: str = "") -> dict[str, dict[str, Any]]:
    """The paper's rows of one benchmark and our own, with our interval: a table in percent.

    Args:
        sheet: as ``core.scoring.sheet.sheet`` makes it.
        benchmark: its name, where it is known; empty, the counts tell.

    Returns:
        By system ``open recall`` and ``closed accuracy``, with ``open 95 %`` and ``closed 95 %`` of ours; empty where
        the questions are not the paper's, or the published script would pass over all of a kind.
    """
    name = benchmark_of(sheet, benchmark)
    cells = {"open": _cell(sheet, "recall"), "closed": _cell(sheet, "accuracy")}
    if not name or None in cells.values():
        return {}
    first = 2 * list(COUNTS).index(name)
    rows: dict[str, dict[str, Any]] = {
        system: {"open recall": row[first], "closed accuracy": row[first + 1]} for system, row in TABLE3.items()
    }
    rows[OURS] = {
        "open recall": percent(cells["open"]),
        "closed accuracy": percent(cells["closed"]),
        **{f"{kind} 95 %": span(cell) for kind, cell in cells.items()},
    }
    return rows


def beside_all(sheets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The paper's whole Table 3 with our own row under it, in percent; as ``beside`` for several benchmarks.

    Args:
        sheets: by name of the benchmark.

    Returns:
        By system the cells of the benchmarks that are the paper's; ``mean`` of the six where all three are there.
        Empty where none is.
    """
    known = [name for name in COUNTS if name in sheets and benchmark_of(sheets[name], name)]
    if not known:
        return {}
    rows: dict[str, dict[str, Any]] = {}
    for system, row in TABLE3.items():
        cells = [
            dict(zip((f"{name} open", f"{name} closed"), row[2 * i : 2 * i + 2], strict=True)) for i, name in _at(known)
        ]
        rows[system] = {key: value for cell in cells for key, value in cell.items()} | {"mean": row[-1]}
    ours = {
        f"{name} {kind}": percent(_cell(sheets[name], metric))
        for name in known
        for kind, metric in (("open", "recall"), ("closed", "accuracy"))
    }
    rows[OURS] = ours | {"mean": mean_of_six(sheets)}
    return rows


def mean_of_six(sheets: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The mean over open recall and closed accuracy of all three benchmarks, in percent; None without all six."""
    if any(name not in sheets or not benchmark_of(sheets[name], name) for name in COUNTS):
        return None
    cells = [_cell(sheets[name], metric) for name in COUNTS for metric in ("recall", "accuracy")]
    values = [cell["value"] for cell in cells if cell]
    return round(100 * sum(values) / len(cells), 2) if len(values) == len(cells) else None


def _at(known: list[str]) -> list[tuple[int, str]]:
    return [(index, name) for index, name in enumerate(COUNTS) if name in known]


def _cell(sheet: Mapping[str, Any], metric: str) -> Cell:
    return sheet["llama3med"].get(metric)
