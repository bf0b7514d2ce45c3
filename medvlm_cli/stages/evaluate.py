"""``eval``: a benchmark's questions answered by a model with and without sight, scored beside what needs no eyes."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medvlm_cli.core import parts, questioning, side_by_side
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.browser import Entry, Shown, entries_of, write_answers_page
from medvlm_cli.core.commit import Lock, make_folder, write_text
from medvlm_cli.core.config import EvalConfig, as_dict
from medvlm_cli.core.errors import BusyError, LockedError, MedVLMError, ResourceError
from medvlm_cli.core.exam import Exam, Examinee
from medvlm_cli.core.overlap import overlap
from medvlm_cli.core.record import MANIFEST, RUN
from medvlm_cli.core.schemas import ANSWERS
from medvlm_cli.core.scoring.baselines import BEST_CONSTANT, TRAIN_PRIOR, baselines
from medvlm_cli.core.scoring.files import read_candidates, training
from medvlm_cli.core.scoring.published_rows import beside_all
from medvlm_cli.core.scoring.sheet import legend, scores_document, sheet, tables
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.second_opinion import second_opinion

SCORES, PAGE = "scores.json", "report.html"
"""What lies in the folder of the answers beside them."""
MODEL, BLANK = "model", "blank image"
"""Rows of the tables."""

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What an evaluation uses beside questions, model and settings."""

    features: Path | None = None
    """Folder of all caches of features; None: ``features`` beside the folder of the answers."""
    hashes: Path | None = None
    """Folder of the hashes of training images; None: ``hashes`` beside the folder of the answers."""
    training: Sequence[Path] = ()
    """Datasets that the model may have learnt from, and other benchmarks: where overlap is looked for."""
    candidates: Path | None = None
    """JSON list of the answers that open accuracy of the published script chooses from."""
    gpus: int = 1
    """Processes to answer in, each with a GPU of its own where there are any."""


def evaluate(
    questions: Path,
    checkpoint: str | Path | Examinee,
    out: Path,
    config: EvalConfig,
    tell: Tell,
    beside: Beside = Beside(),
) -> dict[str, Any]:
    """Answer every question of a split, with its image and with a blank one, and score both beside what needs no eyes.

    The blank image is uniform grey: what the model still gets right, it got from the words alone.  "Always no" and the
    prior of the training questions need no model at all.

    Args:
        questions: questions/1 dataset.
        checkpoint: folder or hub id of a finished model, or the model itself, when it answers several benchmarks.
        out: folder of the answers/1 dataset to make, with ``scores.json`` and ``report.html`` in it; the answers to the
            blank image go to the folder beside it whose name ends in ``-blank``.
        config: settings; ``split`` chooses the questions.  With ``shard`` only that part is answered, and the call
            that finds all parts finished scores them.
        tell: told the phase, the questions done and their number; with ``cache_features`` also the size of the cache.
        beside: folders and files that are used besides.

    Returns:
        A summary: counts, paths, and in percent the tables of ``core.scoring.sheet.tables``; of a part that is not the
        last one, the paths alone.

    Raises:
        DataError: no finished checkpoint, no question of the split, or a question whose image, kind or gold answer is
            not what it must be; it is named before anything is answered.
        BusyError: an output folder is locked, or holds another run; or another process makes the same cache.
        ConfigError: fewer GPUs than asked for.
        ResourceError: a batch does not fit the memory of the device, or the cache not the disk; or a part was killed.
    """
    features = beside.features or out.parent / "features"
    examinee = checkpoint if isinstance(checkpoint, Examinee) else Examinee(checkpoint, config.precision, tell)
    exam = Exam(questions, examinee, config, features, tell)
    candidates = read_candidates(beside.candidates) if beside.candidates else None
    if config.shard:
        _answer_part(exam, out, config)
        if not all(parts.are_finished(folder, MANIFEST) for folder in _folders(out)):
            return _of_a_part(exam, out, config)
    else:
        _answer_all(exam, out, config, tell, replace(beside, features=features))
    lock = Lock(out)
    try:
        lock.acquire()
    except LockedError:
        if config.shard:  # another part was the last one as well, and scores
            return _of_a_part(exam, out, config)
        raise
    try:
        return _score(exam, out, config, tell, replace(beside, features=features), candidates)
    finally:
        lock.release()


def evaluate_all(
    benchmarks: Mapping[str, Callable[[], Path]],
    checkpoint: str | Path,
    out: Path,
    config: EvalConfig,
    tell: Tell,
    beside: Beside = Beside(),
) -> dict[str, Any]:
    """``evaluate`` on several benchmarks with one loaded model; one that cannot be had does not end the others.

    Args:
        benchmarks: by name, what gives the folder of the questions, and fetches them where they are not there.
        checkpoint: folder or hub id of a finished model.
        out: folder of the folders of answers, one a benchmark; gets ``summary.json``.
        config: as for ``evaluate``, like all that follows.
        tell: told the phase with the benchmark before it.
        beside: folders and files.

    Returns:
        ``headline``, a row of the model's scores for each benchmark; ``paper``, Table 3 with the model's row and the
        mean over its six cells; ``failed``, why a benchmark was left out, by name.

    Raises:
        DataError: no finished checkpoint.
        ResourceError: as ``evaluate``; what others raise stands in ``failed``.
    """
    examinee = Examinee(checkpoint, config.precision, tell)
    beside = replace(beside, features=beside.features or out.parent / "features")
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name, questions in benchmarks.items():
        try:
            done[name] = evaluate(questions(), examinee, out / name, config, _before(name, tell), beside)
        except MedVLMError as error:
            if isinstance(error, ResourceError):  # the next one would meet it as well
                raise
            failed[name] = f"{error.what}; {error.fix}" if error.fix else error.what
    scored = {name: summary for name, summary in done.items() if "headline" in summary}
    sheets = {name: json.loads((out / name / SCORES).read_text(encoding="utf-8"))["sheets"][MODEL] for name in scored}
    summary = {
        "verb": "eval",
        "checkpoint": examinee.checkpoint.name,
        "prompt": config.prompt,
        "answers": {name: told["answers"] for name, told in done.items()},
        "headline": {name: told["headline"][MODEL] for name, told in scored.items()},
        "interval_95": {name: told["interval_95"][MODEL] for name, told in scored.items()},
        "blank_image": {name: told["headline"][BLANK] for name, told in scored.items()},
        "paper": beside_all(sheets),
        "failed": failed,
    }
    make_folder(out)
    write_text(out / "summary.json", json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    return summary


def _before(name: str, tell: Tell) -> Tell:
    return lambda what, done, total: tell(f"{name}: {what}", done, total)


def _folders(out: Path) -> tuple[Path, Path]:
    """Of the answers with sight, and of those without."""
    return out, out.with_name(f"{out.name}-blank")


def _answer_part(exam: Exam, out: Path, config: EvalConfig) -> None:
    """Answer the part that the settings name.

    Raises:
        BusyError: the folder holds a dataset in one piece.
    """
    for folder, blank in zip(_folders(out), (False, True), strict=True):
        if (folder / MANIFEST).exists() or (folder / RUN).exists():
            what = f"{folder} holds a dataset in one piece"
            raise BusyError(what, f"give another folder with -o, or remove {folder}")
        exam.answer(folder / parts.name(*parts.parse(config.shard)), blank=blank)


def _answer_all(exam: Exam, out: Path, config: EvalConfig, tell: Tell, beside: Beside) -> None:
    """Answer all questions, in one piece or in parts; what is there already stays in the pieces it is in.

    Raises:
        BusyError: the folder holds unfinished parts of another division.
        ConfigError: fewer GPUs than asked for.
    """
    gpus = side_by_side.gpus_of(beside.gpus, torch.cuda.device_count())
    there = {count for folder in _folders(out) for _, count in parts.found(folder)}
    whole = any((folder / name).exists() for folder in _folders(out) for name in (MANIFEST, RUN))
    if whole or (len(gpus) == 1 and not there):
        for folder, blank in zip(_folders(out), (False, True), strict=True):
            exam.answer(folder, blank=blank)
        return
    count = there.pop() if there else len(gpus)
    finished = all(parts.are_finished(folder, MANIFEST) for folder in _folders(out))
    if there or (count != len(gpus) and not finished):
        fix = f"give --gpus {count}, or --shard, or remove {out}"
        raise BusyError(f"{out} holds parts of {count} that are not finished", fix)
    each = [replace(config, shard=f"{number}/{count}") for number in range(count)]
    if finished:  # no process is needed to see that they are those asked for
        for one in each:
            _answer_part(Exam(exam.dataset.folder, exam.examinee, one, Path(), tell), out, one)
        return
    where, features = exam.examinee.checkpoint.where, beside.features
    calls = [(exam.dataset.folder, where, out, one, features, count) for one in each]
    side_by_side.run(answer_part, calls, gpus, tell)


def answer_part(
    questions: Path, checkpoint: str, out: Path, config: EvalConfig, features: Path, count: int, tell: Tell
) -> None:
    """One process of ``--gpus``: answer the part that the settings name; arguments and errors as ``evaluate``.

    Args:
        questions: dataset.
        checkpoint: folder or hub id.
        out: folder of all parts.
        config: settings with ``shard``.
        features: folder of all caches.
        count: processes that share the processors.
        tell: progress.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    examinee = Examinee(checkpoint, config.precision, tell)
    _answer_part(Exam(questions, examinee, config, features, tell), out, config)


def _of_a_part(exam: Exam, out: Path, config: EvalConfig) -> dict[str, Any]:
    number, count = parts.parse(config.shard)
    return {
        "verb": "eval",
        "benchmark": exam.benchmark,
        "split": config.split,
        "checkpoint": exam.examinee.checkpoint.name,
        "part": f"{number} of {count}",
        "answers": str(out / parts.name(number, count)),
        "scores": "when all parts are there: the last one to finish makes them, or a call without --shard",
    }


def _score(
    exam: Exam, out: Path, config: EvalConfig, tell: Tell, beside: Beside, candidates: tuple[list[str], str] | None
) -> dict[str, Any]:
    """Score all answers, write ``scores.json`` and the page, and say what is in them."""
    with_sight, without = (_answers(folder) for folder in _folders(out))
    known, split = training(exam.dataset, config.split)
    guesses = baselines(exam.items, known, split)
    said = {MODEL: _texts(with_sight)} | {name: guess.answers for name, guess in guesses.items()}
    said[BLANK] = _texts(without)
    chosen = candidates[0] if candidates else None
    sheets = {}
    for number, (name, answers) in enumerate(said.items()):
        tell("score", number, len(said))
        sheets[name] = sheet(exam.items, answers, candidates=chosen, draws=config.draws, seed=config.seed)
    facts = _facts(exam, out, config, with_sight) | {
        "baselines": {name: guess.source for name, guess in guesses.items()}
        | {BLANK: "the model itself, shown a grey image"},
        "candidates_sha256": candidates[1] if candidates else None,
    }
    if config.overlap:
        facts["overlap"] = _overlap(exam, config.split, beside, beside.hashes or out.parent / "hashes", tell)
    if config.judge:
        facts["judge"] = second_opinion(exam.items, said[MODEL], config, out, tell)
    document = scores_document(sheets, facts)
    write_text(out / SCORES, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    tell("report", 0, None)
    write_answers_page(out / PAGE, _entries(exam, with_sight, chosen), document)
    return _summary(document, out)


def _overlap(exam: Exam, split: str, beside: Beside, hashes: Path, tell: Tell) -> dict[str, Any]:
    """What the benchmark shares with its other splits and with training data; that it is not known is said too."""
    try:
        return overlap(exam.dataset, split, beside.training, hashes, tell)
    except BusyError as error:  # another evaluation makes the same hashes: no reason to lose the scores
        return {"lines": [f"not looked for, run the command again: {error.what}"]}


def _answers(folder: Path) -> list[Row]:
    """The answers of a dataset, in one piece or in parts, in order of question ids."""
    return sorted(open_dataset(folder, ANSWERS).rows(), key=lambda row: row["question_id"])


def _texts(rows: Sequence[Row]) -> dict[str, str]:
    return {row["question_id"]: row["answer"] for row in rows}


def _facts(exam: Exam, out: Path, config: EvalConfig, rows: Sequence[Row]) -> dict[str, Any]:
    """What ``scores.json`` says of questions, checkpoint, prompt, settings and versions."""
    kinds, checkpoint = Counter(item.kind for item in exam.items), exam.examinee.checkpoint
    return {
        "benchmark": exam.benchmark,
        "split": config.split,
        "questions": {
            "dataset": exam.dataset.folder.name,
            "manifest_sha256": exam.dataset.sha256,
            "rows": len(exam.items),
            "images": len({item.image_id for item in exam.items}),
            "open": kinds["open"],
            "closed": kinds["closed"],
        },
        "checkpoint": {"name": checkpoint.name, "run_sha256": checkpoint.run_sha256},
        "answers": {folder.name: open_dataset(folder, ANSWERS).sha256 for folder in _folders(out)},
        "prompt": questioning.told(config.prompt, config.system) | {"example": rows[0]["prompt"]},
        "finish": dict(Counter(row["finish"] for row in rows)),
        "settings": as_dict(config),
        "versions": {name: version(name) for name in ("torch", "transformers", "pyarrow")},
    }


def _entries(exam: Exam, rows: Sequence[Row], candidates: Sequence[str] | None) -> Iterator[Entry]:
    """The answers with sight as the page shows them."""
    prompts = {row["question_id"]: row["prompt"] for row in rows}
    shown = Shown(benchmark=exam.benchmark, prompts=prompts, image=exam.image, candidates=candidates)
    for entry, row in zip(entries_of(exam.items, _texts(rows), shown), rows, strict=True):
        yield replace(entry, finish=row["finish"])


def _summary(document: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """What the verb prints: the headline, in percent, and where the rest is."""
    questions, prompt = document["questions"], document["prompt"]
    return {
        "verb": "eval",
        "benchmark": document["benchmark"],
        "split": document["split"],
        "checkpoint": document["checkpoint"]["name"],
        "questions": questions["rows"],
        "images": questions["images"],
        "prompt": prompt["preset"],
        "protocols": ", ".join(document["protocols"].values()),
        "numbers": legend(document["interval"]),
        "finish": document["finish"],
        **{name: said for name, said in document["baselines"].items() if name in (TRAIN_PRIOR, BEST_CONSTANT)},
        **tables(document),
        "overlap": document.get("overlap", {}).get("lines", []),
        **({"judge": document["judge"]["line"]} if "judge" in document else {}),
        "answers": str(out),
        "scores": str(out / SCORES),
        "report": str(out / PAGE),
    }
