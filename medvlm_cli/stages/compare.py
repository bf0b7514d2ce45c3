"""``eval compare``: two sets of answers to the same questions, and whether the difference is more than chance."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvlm_cli.benchmarks.choices import named_choices
from medvlm_cli.core import parts
from medvlm_cli.core.browser import Entry, Shown, entries_of, write_compare_page
from medvlm_cli.core.commit import make_folder, write_text
from medvlm_cli.core.config import EvalConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.record import MANIFEST, RUN, hash_input, read_json
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.files import (
    Predictions,
    References,
    image_reader,
    read_predictions,
    read_references,
    refuse_mismatch,
)
from medvlm_cli.core.scoring.intervals import holm, mcnemar, paired
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.sheet import HEADLINE, scores_document, sheet
from medvlm_cli.core.tell import Tell

SCHEMA = "compare/1"
"""Name and number of the layout of ``compare.json``."""
COMPARE, PAGE = "compare.json", "compare.html"
ONE, OTHER = "A", "B"
"""What the two sets of answers are called in tables."""

_BLANK = "-blank"
"""Folders whose names end so hold the answers to the blank image, not to a benchmark."""
_GIVE = "give the questions with their gold answers: --references FILE"
_TITLES = {"recall": "open recall", "accuracy": "closed accuracy"}


@dataclass
class _Pair:
    """Two sets of answers to one set of questions."""

    name: str
    """Of the benchmark, or of the file."""
    source: Path
    """Where the questions are."""
    asked: References
    one: Predictions
    other: Predictions


def compare(
    one: Path,
    other: Path,
    config: EvalConfig,
    out: Path | None,
    tell: Tell,
    *,
    references: Path | None = None,
    workspace_questions: Sequence[Path] = (),
) -> dict[str, Any]:
    """Compare two sets of answers, ``A`` and ``B``.

    A cell is one kind of question of one benchmark under one protocol.  Its difference, A less B, has a paired interval
    from a bootstrap over images; its p is McNemar's exact one for closed questions and the bootstrap's for open ones;
    ``p_holm`` is adjusted for the number of cells.

    Args:
        one: an answers/1 dataset as ``medvlm eval`` writes it, a folder of several, one a benchmark, or JSON lines of
            ``question_id`` and ``text``.
        other: the same of the other.
        config: settings; ``split`` of ``references``, ``draws`` and ``seed`` of the intervals.
        out: folder for ``compare.json`` and the page; None writes nothing.
        tell: told what is read and compared.
        references: JSON list or questions/1 dataset with the gold answers; None takes the dataset of
            ``workspace_questions`` that the answers' ``run.json`` names by its hash.
        workspace_questions: questions/1 datasets to look among.

    Returns:
        ``questions``, ``images``, ``same`` (equal answers), ``numbers`` (what they are, in a sentence), and in percent
        ``compare``: by cell ``A``, ``B``, ``difference``, ``low``, ``high``, ``p``, ``p_holm``, ``questions``, and for
        closed ones ``A only`` and ``B only``, the questions that one alone has right.

    Raises:
        ConfigError: ``out`` is a file.
        DataError: the two did not answer the same questions, or their gold answers are not known.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", "give a folder with -o")
    pairs = []
    for number, (mine, theirs) in enumerate(_folders(one, other)):
        tell("read answers", number, None)
        pairs.append(_pair(mine, theirs, _golds(mine, theirs, config.split, references, workspace_questions)))
    cells: dict[str, dict[str, Any]] = {}
    for number, pair in enumerate(pairs):
        tell("compare", number, len(pairs))
        cells |= _cells(pair, config, len(pairs) > 1)
    for cell, p in zip(cells.values(), holm([cell["p"] for cell in cells.values()]), strict=True):
        cell["p_holm"] = p
    summary = {"verb": "eval compare", ONE: str(one), OTHER: str(other), **_counts(pairs)}
    summary["numbers"] = (
        f"per cent, A less B with its 95 % interval by paired bootstrap over images, {config.draws:,} draws, seed "
        f"{config.seed}; p of closed questions by McNemar's exact test, of open ones by the bootstrap; p_holm is p "
        f"adjusted for {len(cells)} comparisons"
    )
    summary["compare"] = {name: _shown(cell) for name, cell in cells.items()}
    return summary if out is None else summary | _write(out, pairs, cells, config)


def _counts(pairs: Sequence[_Pair]) -> dict[str, int]:
    """Questions, images, and questions with the same answer, of all benchmarks together."""
    return {
        "questions": sum(len(pair.asked.items) for pair in pairs),
        "images": sum(len({item.image_id for item in pair.asked.items}) for pair in pairs),
        "same": sum(pair.one.answers[id_] == text for pair in pairs for id_, text in pair.other.answers.items()),
    }


def _folders(one: Path, other: Path) -> list[tuple[Path, Path]]:
    """What is compared with what: the two themselves, or what lies under one name in both."""
    mine, theirs = _datasets_in(one), _datasets_in(other)
    if not mine or not theirs:
        return [(one, other)]
    if mine.keys() != theirs.keys():
        only = [f"{folder}: {', '.join(sorted(names))}" for folder, names in
                ((one, mine.keys() - theirs.keys()), (other, theirs.keys() - mine.keys())) if names]  # fmt: skip
        fix = "compare folders of the same benchmarks, or one benchmark at a time"
        raise DataError(f"not the same benchmarks: only in {'; only in '.join(only)}", fix)
    return [(mine[name], theirs[name]) for name in mine]


def _datasets_in(folder: Path) -> dict[str, Path]:
    """The finished datasets of answers right below a folder, by name; none below a dataset or a file."""
    if not folder.is_dir() or _is_dataset(folder):
        return {}
    below = (path for path in sorted(folder.glob("[!.]*")) if path.is_dir() and not path.name.endswith(_BLANK))
    return {path.name: path for path in below if _is_dataset(path)}


def _is_dataset(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or parts.are_finished(folder, MANIFEST)


def _pair(one: Path, other: Path, golds: tuple[Path, str]) -> _Pair:
    source, split = golds
    asked = read_references(source, split, named_choices)
    mine, theirs = read_predictions(one), read_predictions(other)
    refuse_mismatch(asked.items, mine.answers, str(one))
    refuse_mismatch(asked.items, theirs.answers, str(other))
    return _Pair(asked.benchmark or Path(asked.name).stem, source, asked, mine, theirs)


def _golds(one: Path, other: Path, split: str, references: Path | None, known: Sequence[Path]) -> tuple[Path, str]:
    """Where the gold answers are, and of which split."""
    if references is not None:
        return references, split
    told = {path: asked for path in (one, other) if (asked := _asked(path))}
    if not told:
        raise DataError(f"{one}, {other}: nothing says which questions these answer", _GIVE)
    path, wanted = next(iter(told.items()))
    for another, asked in told.items():
        if asked != wanted:
            what = f"{path} answers split {wanted[1]} of questions {wanted[0][:12]}, {another} split {asked[1]} of"
            raise DataError(f"{what} questions {asked[0][:12]}", _GIVE)
    for folder in known:
        if hash_input(folder) == wanted[0]:
            return folder, wanted[1]
    what = f"{path}: the questions it answers (manifest sha256 {wanted[0][:12]}...) are not in the workspace"
    raise DataError(what, _GIVE)


def _asked(answers: Path) -> tuple[str, str] | None:
    """Hash of the manifest of the questions, and their split, as the record of a run of ``eval`` says them."""
    pieces = parts.whole(answers, MANIFEST) if answers.is_dir() and not (answers / MANIFEST).is_file() else []
    run = read_json((pieces[0] if pieces else answers) / RUN) if answers.is_dir() else None
    inputs, config = ((run or {}).get(part) for part in ("inputs", "config"))
    if not isinstance(inputs, dict) or not isinstance(config, dict):
        return None
    sha256, split = inputs.get("questions"), config.get("split")
    return (sha256, split) if isinstance(sha256, str) and isinstance(split, str) else None


def _cells(pair: _Pair, config: EvalConfig, several: bool) -> dict[str, dict[str, Any]]:
    """The cells of one benchmark, from 0 to 1, without ``p_holm``."""
    items, images = pair.asked.items, [item.image_id for item in pair.asked.items]
    scores = {
        "llama3med": [llama3med.published(items, run.answers).rows for run in (pair.one, pair.other)],
        "strict": [strict.strict(items, run.answers).rows for run in (pair.one, pair.other)],
    }
    cells: dict[str, dict[str, Any]] = {}
    for protocol, metrics in HEADLINE.items():
        for metric in metrics:
            one, other = (_column(items, rows, metric) for rows in scores[protocol])
            if not np.isnan(one).all():
                name = f"{protocol} {_TITLES[metric]}"
                cells[f"{pair.name} {name}" if several else name] = _cell(one, other, images, metric, config)
    return cells


def _cell(one: np.ndarray, other: np.ndarray, images: Sequence[str], metric: str, config: EvalConfig) -> dict[str, Any]:
    difference = paired(one, other, images, config.draws, config.seed)
    cell = {"one": float(np.nanmean(one)), "other": float(np.nanmean(other)), **vars(difference)}
    cell |= {"test": "paired bootstrap over images", "rows": int(np.count_nonzero(~np.isnan(one)))}
    if metric == "accuracy":
        only = {"one_only": int(np.count_nonzero(one > other)), "other_only": int(np.count_nonzero(one < other))}
        cell |= {"p_bootstrap": cell["p"], "p": mcnemar(one, other), "test": "McNemar, exact", **only}
    return cell


def _column(items: Sequence[Item], rows: Mapping[str, Mapping[str, float]], metric: str) -> np.ndarray:
    return np.array([rows.get(item.question_id, {}).get(metric, np.nan) for item in items])


def _shown(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table: scores in percent."""
    line = {ONE: cell["one"], OTHER: cell["other"], **{name: cell[name] for name in ("difference", "low", "high")}}
    line = {name: round(100 * value, 2) for name, value in line.items()}
    line |= {name: float(f"{cell[name]:.3g}") for name in ("p", "p_holm")} | {"questions": cell["rows"]}
    if "one_only" in cell:
        line |= {f"{ONE} only": cell["one_only"], f"{OTHER} only": cell["other_only"]}
    return line


def _write(out: Path, pairs: Sequence[_Pair], cells: Mapping[str, Any], config: EvalConfig) -> dict[str, str]:
    """``compare.json``, and a page for each benchmark; their paths."""
    make_folder(out)
    facts: dict[str, Any] = {"benchmarks": {}, "cells": dict(cells)}
    sheets: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        runs = {ONE: pair.one, OTHER: pair.other}
        sheets[pair.name] = {
            name: sheet(pair.asked.items, run.answers, draws=config.draws, seed=config.seed)
            for name, run in runs.items()
        }
        facts["benchmarks"][pair.name] = {
            "questions": {"name": pair.asked.name, "sha256": pair.asked.sha256},
            "answers": {name: {"sha256": run.sha256, "models": list(run.models)} for name, run in runs.items()},
            "sheets": sheets[pair.name],
        }
    document = scores_document(sheets[pairs[0].name], facts) | {"schema": SCHEMA}
    stored = {name: value for name, value in document.items() if name != "sheets"}
    write_text(out / COMPARE, json.dumps(stored, ensure_ascii=False, indent=1) + "\n")
    paths = {"compared": str(out / COMPARE)}
    for pair in pairs:
        page = out / (PAGE if len(pairs) == 1 else f"{pair.name}.html")
        told = {name: value for name, value in document.items() if name != "benchmarks"}
        told |= facts["benchmarks"][pair.name] | {"benchmark": pair.name}
        write_compare_page(page, _entries(pair), told)
        paths[f"page {pair.name}" if len(pairs) > 1 else "page"] = str(page)
    return paths


def _entries(pair: _Pair) -> Iterator[tuple[Entry, Entry]]:
    """Every question as both answered it, with its image where the questions are a dataset."""
    image = image_reader(pair.source)
    one, other = (
        entries_of(pair.asked.items, run.answers, Shown(benchmark=pair.name, prompts=run.prompts, image=image))
        for run in (pair.one, pair.other)
    )
    return zip(one, other, strict=True)
