"""Scoring as many rows as PathVQA's test split has, and a plain reference that compares every row with every candidate.

``python tests/bench/score_rows.py [ROWS [CANDIDATES [REFERENCE_ROWS]]]``: seconds of all protocols, of the reference on
its first rows with the ratio per row, of 10,000 draws over 36 columns, and the peak memory.  Both must agree.
"""

import random
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medvlm_cli.core.scoring import intervals, llama3med, strict
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.published_words import normalise

IMAGES, VOCABULARY, CATEGORIES = 858, 4000, 8


def phrase(draw: random.Random, least: int, most: int) -> str:
    """Words of which few are common, as in text."""
    return " ".join(f"word{int(VOCABULARY ** draw.random())}" for _ in range(draw.randint(least, most)))


def made(rows: int, candidates: int) -> tuple[list[Item], dict[str, str], list[str]]:
    """Questions, half of them open, answers of 5 to 60 words or the gold one, and distinct candidates of 1 to 6."""
    draw = random.Random(0)
    known: dict[str, None] = {}
    while len(known) < candidates:
        known[phrase(draw, 1, 6)] = None
    texts = list(known)
    items = []
    for row in range(rows):
        kind, gold = ("open", draw.choice(texts)) if row % 2 else ("closed", draw.choice(["yes", "no"]))
        category = f"category {row % CATEGORIES}"
        items.append(Item(f"q{row}", f"image {row % IMAGES}", kind, "?", (gold,), (), category, kind.upper()))
    answers = {}
    for item in items:
        said = phrase(draw, 5, 60) if draw.random() < 0.7 else item.golds[0]
        answers[item.question_id] = f"{draw.choice(['Yes, ', 'No, ', ''])}{said}."
    return items, answers, texts


def nearest_of_all(said: str, candidates: list[str]) -> str:
    """The reference: every candidate normalised and compared, for this row alone."""
    best, share = "", -1.0
    for text in candidates:
        candidate = normalise(normalise(text.lower()))
        words = candidate.split()
        held = sum(word in said.split() for word in words) / max(1, len(words))
        if held > share:
            best, share = candidate, held
    return best


def reference(items: list[Item], answers: dict[str, str], candidates: list[str]) -> dict[str, float]:
    """Open accuracy of each open row."""
    return {
        item.question_id: float(
            nearest_of_all(normalise(normalise(answers[item.question_id].lower())), candidates)
            == normalise(normalise(item.golds[0].lower()))
        )
        for item in items
        if item.kind == "open"
    }


def columns(items: list[Item], tables: dict[str, dict[str, dict[str, float]]]) -> dict[str, np.ndarray]:
    """Recall and accuracy of both protocols, of all rows and of each category."""
    every: dict[str, np.ndarray] = {}
    for protocol, rows in tables.items():
        for metric in ("recall", "accuracy"):
            column = np.array([rows[item.question_id].get(metric, np.nan) for item in items])
            every[f"{protocol} {metric}"] = column
            for number in range(CATEGORIES):
                inside = np.array([item.category == f"category {number}" for item in items])
                every[f"{protocol} {metric} {number}"] = np.where(inside, column, np.nan)
    return every


def main() -> None:
    """Print seconds, ratio and memory."""
    given = [int(one) for one in sys.argv[1:]]
    rows, candidates, compared = (*given, *(6761, 3271, 40)[len(given) :])
    items, answers, texts = made(rows, candidates)
    began = time.perf_counter()
    gated = llama3med.published(items, answers, texts)
    batch = llama3med.published(items, answers, gate=False)
    honest = strict.strict(items, answers)
    seconds = time.perf_counter() - began
    print(f"{rows:,} rows, {candidates:,} candidates, three protocols: {seconds:.2f} s", flush=True)
    print(f"llama3med {gated.means()}\nbatch {batch.means()['accuracy']:g}", flush=True)

    few = items[: 2 * compared]
    began = time.perf_counter()
    wanted = reference(few, answers, texts)
    peer = time.perf_counter() - began
    began = time.perf_counter()
    ours = llama3med.published(few, answers, texts).rows
    fast = time.perf_counter() - began
    right = sum(wanted.values())
    alike = sum(ours[name]["open_accuracy"] == value for name, value in wanted.items())
    per_row = peer / len(wanted) * sum(item.kind == "open" for item in items)
    print(f"reference: {peer:.1f} s for open accuracy of {len(wanted)} rows, ours {fast:.2f} s")
    print(f"{alike} of them alike, {right:.0f} right")
    print(f"for all open rows at that pace {per_row:.0f} s, ratio {per_row / seconds:.0f}", flush=True)

    began = time.perf_counter()
    every = columns(items, {"llama3med": gated.rows, "strict": honest.rows})
    images = [item.image_id for item in items]
    intervals.means_with_intervals(every, images, 10_000, 0)
    drawn = time.perf_counter() - began
    print(f"10,000 draws of {len(set(images))} images, {len(every)} columns: {drawn:.2f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
