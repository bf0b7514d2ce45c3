"""``eval --predictions``: answers made elsewhere, scored under every protocol; no model is loaded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.benchmarks.choices import named_choices
from medvlm_cli.core.browser import Shown, entries_of, write_answers_page
from medvlm_cli.core.commit import make_folder, write_text
from medvlm_cli.core.config import EvalConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.scoring import llama3med
from medvlm_cli.core.scoring.baselines import ALWAYS_NO, baselines
from medvlm_cli.core.scoring.cells import percent, span
from medvlm_cli.core.scoring.files import (
    Predictions,
    References,
    image_reader,
    read_candidates,
    read_predictions,
    read_references,
    refuse_mismatch,
)
from medvlm_cli.core.scoring.sheet import PROTOCOLS, legend, scores_document, sheet, tables
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.second_opinion import second_opinion

ALL = "all"
"""Every protocol, side by side."""
SCORES, PAGE = "scores.json", "report.html"
"""What is written where a folder is given."""

_OPEN = ("exact_match", "f1", "precision", "recall", "open_accuracy")


def score(
    predictions: Path,
    references: Path,
    config: EvalConfig,
    *,
    candidates: Path | None = None,
    out: Path | None = None,
    tell: Tell,
    protocol: str = ALL,
) -> dict[str, Any]:
    """Score a file of answers against a file of questions.

    Args:
        predictions: JSON lines of ``question_id`` and ``text``, or an answers/1 dataset.
        references: JSON list of ``id``, ``conversations`` and ``answer_type``, or a questions/1 dataset.
        config: settings; ``split`` of a dataset, ``draws`` and ``seed`` of the intervals.
        candidates: JSON list of texts, for the published open accuracy.
        out: folder for ``scores.json`` and ``report.html``; None writes nothing.
        tell: told what is read and scored.
        protocol: name of one, or ``all``.

    Returns:
        ``questions``, ``images``, ``numbers`` (what they are, in a sentence) and what follows.  Of one published
        protocol its id as ``protocol``, its metrics in percent, unrounded, each None where no question has it:
        ``exact_match, f1, precision, recall, open_accuracy, yes_no_accuracy, bleu``; ``num_open``, ``num_closed``,
        ``skipped``, ``printed`` (the metrics to six digits, as the script prints them) and ``interval_95``.  Of
        ``strict`` its own metrics likewise.  Of ``all`` the tables of ``core.scoring.sheet.tables``.  With ``out`` also
        ``scores`` and ``report``, the paths of the files.

    Raises:
        ConfigError: no such protocol, or ``out`` is a file; or a judge without ``out``.
        MedVLMError: as ``teachers.second_opinion.judge_answers``.
        DataError: a file is not what it must be, or the ids of the two do not agree.
    """
    if protocol not in (ALL, *PROTOCOLS):
        raise ConfigError(f"protocol is {protocol!r}", f"give one of {', '.join((*PROTOCOLS, ALL))}")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", "give a folder with -o")
    if config.judge and out is None:
        raise ConfigError("a judge's verdicts are kept, and no folder is given", "give one with -o")
    known = _Known(predictions, references, candidates, config, tell)
    others = known.others if protocol == ALL or out is not None else {}
    sheets = {}
    for done, (name, answers) in enumerate({"model": known.answers, **others}.items()):
        tell("score", done, 1 + len(others))
        sheets[name] = sheet(known.items, answers, candidates=known.candidates, draws=config.draws, seed=config.seed)
    if config.judge and out is not None:
        known.facts["judge"] = second_opinion(known.items, known.answers, config, out, tell)
    document = scores_document(sheets, known.facts)
    summary = _summary(known, document, protocol)
    if out is not None:
        make_folder(out)
        write_text(out / SCORES, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
        tell("report", 0, None)
        write_answers_page(out / PAGE, entries_of(known.items, known.answers, known.shown(references)), document)
        summary |= {"scores": str(out / SCORES), "report": str(out / PAGE)}
    return summary


def _summary(known: "_Known", document: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """What the verb prints of a protocol, or of all of them."""
    one = document["sheets"]["model"]
    summary = {"verb": "eval", "questions": one["counts"]["rows"], "images": one["counts"]["images"]}
    summary["numbers"] = legend(document["interval"])
    if protocol == ALL:
        summary |= {"protocols": ", ".join(PROTOCOLS.values()), "skipped": one["skipped"]}
        guessers: Mapping[str, str] = known.facts["baselines"]
        summary |= {name: source for name, source in guessers.items() if name != ALWAYS_NO} | tables(document)
    elif protocol == "strict":
        summary |= _strict(one)
    else:
        summary |= _published(known, one, protocol)
    if "judge" in known.facts:
        summary["judge"] = known.facts["judge"]["line"]
    return summary


def printed(
    predictions: Path, references: Path, config: EvalConfig, *, candidates: Path | None = None, tell: Tell
) -> str:
    """The published script's own table of the same files, digit for digit, its swapped labels included.

    Raises:
        DataError: as ``score``.
    """
    known = _Known(predictions, references, candidates, config, tell)
    return known.published(gate=True).printed()


class _Known:
    """What was read, fitted together."""

    def __init__(
        self, predictions: Path, references: Path, candidates: Path | None, config: EvalConfig, tell: Tell
    ) -> None:
        tell("read answers", 0, None)
        asked: References = read_references(references, config.split, named_choices)
        made: Predictions = read_predictions(predictions)
        refuse_mismatch(asked.items, made.answers, str(predictions))
        self.items, self.answers, self.prompts = asked.items, made.answers, made.prompts
        self.candidates: Sequence[str] | None = None
        self.facts: dict[str, Any] = {
            "benchmark": asked.benchmark,
            "predictions": {"name": predictions.name, "sha256": made.sha256, "models": list(made.models)},
            "references": {"name": asked.name, "sha256": asked.sha256},
            "prompts": {"different": len(set(made.prompts.values())), "first": next(iter(made.prompts.values()), None)},
        }
        guesses = baselines(asked.items, asked.train, asked.train_split)
        self.others = {name: guess.answers for name, guess in guesses.items()}
        self.facts["baselines"] = {name: guess.source for name, guess in guesses.items()}
        if candidates is not None:
            self.candidates, sha256 = read_candidates(candidates)
            listed = {"name": candidates.name, "sha256": sha256, "count": len(self.candidates)}
            self.facts["candidates"] = listed

    def shown(self, references: Path) -> Shown:
        """What the page of the answers shows beside their scores."""
        benchmark = self.facts["benchmark"] or Path(self.facts["references"]["name"]).stem
        return Shown(
            benchmark=benchmark, prompts=self.prompts, image=image_reader(references), candidates=self.candidates
        )

    def published(self, *, gate: bool) -> llama3med.Published:
        return llama3med.published(self.items, self.answers, self.candidates, gate=gate)


def _published(known: _Known, one: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """The numbers of a published protocol, as its script counts them."""
    scored = known.published(gate=protocol == "llama3med")
    means = scored.means()
    values = {name: means[name] for name in _OPEN} | {"yes_no_accuracy": means["accuracy"], "bleu": means["bleu"]}
    if protocol != "llama3med":
        values["recall_closed"] = means["recall_closed"]
    cells = {name: one[protocol].get("accuracy" if name == "yes_no_accuracy" else name) for name in values}
    return {
        "protocol": scored.protocol,
        **values,
        "num_open": scored.open,
        "num_closed": scored.closed,
        "skipped": len(scored.skipped),
        "printed": {name: f"{value:g}" for name, value in values.items() if value is not None},
        "interval_95": {name: span(cell) for name, cell in cells.items() if cell},
    }


def _strict(one: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the strict protocol: in percent, but for ``words``."""
    cells = one["strict"]
    shown = {name: percent(cell) for name, cell in cells.items() if name != "words"}
    if cells.get("words"):
        shown["words"] = round(cells["words"]["value"], 2)
    return {
        "protocol": PROTOCOLS["strict"],
        **shown,
        "num_open": one["counts"]["open"],
        "num_closed": one["counts"]["closed"],
        "interval_95": {name: span(cell) for name, cell in cells.items() if cell and name != "words"},
    }
