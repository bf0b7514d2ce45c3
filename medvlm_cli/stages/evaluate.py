"""``eval``: a benchmark's questions, answered by a model with and without sight, scored, beside a constant answer."""

import functools
import hashlib
import io
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from medvlm_cli import __version__
from medvlm_cli.core import score
from medvlm_cli.core.arrow import Dataset, Harvest, Writer, open_dataset
from medvlm_cli.core.commit import write_text
from medvlm_cli.core.config import EvalConfig, as_dict
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.features import Cache, Original
from medvlm_cli.core.generate import Checkpoint, Generator, Picture, Request, find_checkpoint
from medvlm_cli.core.images import decode
from medvlm_cli.core.schemas import ANSWERS, QUESTIONS
from medvlm_cli.core.tell import Tell

Row = Mapping[str, Any]

REPORT = "report/1"
"""Name and number of the layout of ``report.json``."""
DRAWS, SEED = 1000, 0
"""Bootstrap samples behind every interval, and their seed."""
BATCHES_PER_SHARD = 4
"""Batches whose answers are lost at most when a run is killed; one shard is sorted by length within itself."""
TEXT_COLUMNS = [field.name for field in QUESTIONS if field.name != "image"]


def evaluate(
    questions: Path,
    checkpoint: str | Path,
    out: Path,
    config: EvalConfig,
    tell: Tell,
    features: Path | None = None,
) -> dict[str, Any]:
    """Answer every question of a split, with its image and with a blank one, and score both beside a constant answer.

    The blank image is uniform grey: what the model still gets right, it got from the words alone.  The constant is the
    commonest gold answer of the question's category, known from another split where the dataset has one, and else from
    the asked questions themselves.

    Args:
        questions: questions/1 dataset.
        checkpoint: folder or hub id of a finished model.
        out: folder of the answers/1 dataset to make, in order of question ids, with ``report.json`` in it; the answers
            to the blank image go to the folder beside it whose name ends in ``-blank``.
        config: settings; ``split`` chooses the questions.
        tell: told the phase, the questions done and their number; with ``cache_features`` also the size of the cache.
        features: folder of all caches of features, for ``cache_features``; None: ``features`` beside ``out``.

    Returns:
        Counts, paths, and in percent ``table`` with the rows model, blank image and always, and ``interval_95`` of the
        model's row.  ``report.json`` holds the same and more, from 0 to 1.

    Raises:
        DataError: no finished checkpoint, no question of the split, or a question whose image, kind or gold answer is
            not what it must be; it is named before anything is answered.
        BusyError: an output folder is locked, or holds another run; or another process makes the same cache.
        ResourceError: a batch does not fit the memory of the device, or the cache not the disk.
    """
    exam = _Exam(questions, checkpoint, config, tell)
    exam.features = features or out.parent / "features"
    seen = exam.answers(out, blank=False)
    unseen = exam.answers(out.with_name(f"{out.name}-blank"), blank=True)
    constant, constant_source = _commonest(exam.asked, exam.others, config.split)
    report = exam.facts() | {
        "prompt": seen[0]["prompt"],
        "finish": dict(Counter(row["finish"] for row in seen)),
        "always": constant_source,
        "interval": {"level": 0.95, "method": "percentile bootstrap over images", "draws": DRAWS, "seed": SEED},
        "scores": {
            "model": _scores(exam.asked, {row["question_id"]: row["answer"] for row in seen}),
            "blank image": _scores(exam.asked, {row["question_id"]: row["answer"] for row in unseen}),
            "always": _scores(exam.asked, constant),
        },
    }
    write_text(out / "report.json", json.dumps(report, ensure_ascii=False, indent=2))
    return _summary(report, out)


def _summary(report: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """What the verb prints: the report's headline, scores in percent."""
    return {
        "verb": "eval",
        "benchmark": report["benchmark"],
        "split": report["split"],
        "checkpoint": report["checkpoint"]["name"],
        "questions": report["questions"]["rows"],
        "images": report["questions"]["images"],
        "protocol": report["protocol"],
        "finish": report["finish"],
        "always": report["always"],
        "answers": str(out),
        "report": str(out / "report.json"),
        "table": {name: _percent(part) for name, part in report["scores"].items()},
        "interval_95": {"model": _intervals(report["scores"]["model"])},
    }


class _Exam:
    """The questions of one run and the model that answers them, loaded when the first answer is needed."""

    def __init__(self, questions: Path, checkpoint: str | Path, config: EvalConfig, tell: Tell) -> None:
        self.checkpoint: Checkpoint = find_checkpoint(checkpoint)
        self.dataset: Dataset = open_dataset(questions, QUESTIONS)
        self.config = config
        self.tell = tell
        self.features = Path()
        """Folder of all caches of features."""
        rows = sorted(self.dataset.rows(TEXT_COLUMNS), key=lambda row: row["question_id"])
        self.asked = [row for row in rows if row["split"] == config.split]
        self.by_id = {row["question_id"]: row for row in self.asked}
        self.others = [row for row in rows if row["split"] != config.split]
        self._generator: Generator | None = None
        if not self.asked:
            splits = ", ".join(sorted({row["split"] for row in rows})) or "none"
            raise DataError(f"{questions}: no question of split '{config.split}'; splits: {splits}", "--set split=NAME")
        for row in self.asked:
            if row["kind"] not in ("open", "closed") or not row["answers"]:
                what = f"kind '{row['kind']}' and {len(row['answers'])} gold answers"
                raise DataError(
                    f"{self._where(row['question_id'])}: {what}", "a question is open or closed, with one or more"
                )

    def _where(self, question_id: str) -> str:
        return f"{self.dataset.folder}, question {question_id}"

    def _image(self, question_id: str) -> bytes:
        return self.dataset.row_at(self.dataset.position(question_id), ["image"])["image"]["bytes"] or b""

    def _picture(self, question_id: str) -> Picture:
        return Picture(self._image(question_id), self._where(question_id))

    def facts(self) -> dict[str, Any]:
        """What the report says of questions, checkpoint, settings and versions."""
        kinds = Counter(row["kind"] for row in self.asked)
        return {
            "schema": REPORT,
            "protocol": score.PROTOCOL,
            "benchmark": self.asked[0]["benchmark"],
            "split": self.config.split,
            "questions": {
                "dataset": self.dataset.folder.name,
                "manifest_sha256": self.dataset.sha256,
                "rows": len(self.asked),
                "images": len({row["image_id"] for row in self.asked}),
                "open": kinds["open"],
                "closed": kinds["closed"],
            },
            "checkpoint": {"name": self.checkpoint.name, "run_sha256": self.checkpoint.run_sha256},
            "settings": as_dict(self.config),
            "versions": {"medvlm": __version__, "python": platform.python_version()}
            | {name: version(name) for name in ("torch", "transformers", "pyarrow", "numpy")},
        }

    def answers(self, out: Path, *, blank: bool) -> list[dict[str, Any]]:
        """Make the answers/1 dataset ``out``, or finish it, and read it; in order of question ids."""
        ids = [row["question_id"] for row in self.asked]
        settings = as_dict(self.config) | {"checkpoint": self.checkpoint.name, "blank": blank}
        inputs = {"questions": self.dataset.folder}
        with Writer(
            out,
            ANSWERS,
            stage="eval",
            config=settings,
            inputs=inputs,
            keys=ids,
            keys_per_shard=BATCHES_PER_SHARD * self.config.batch,
        ) as writer:
            todo = [] if writer.done else list(writer.todo())
            if not blank and todo:
                look = self._fill_cache if self.config.cache_features else self._check_images
                look([question_id for _, shard_ids in todo for question_id in shard_ids])
            done = len(ids) - sum(len(shard_ids) for _, shard_ids in todo)
            for shard, shard_ids in todo:
                rows = self._answer_shard(shard_ids, blank, done)
                writer.commit(shard, [Harvest(1, [rows[question_id]], []) for question_id in shard_ids])
                done += len(shard_ids)
        return sorted(open_dataset(out, ANSWERS).rows(), key=lambda row: row["question_id"])

    def _check_images(self, ids: Sequence[str]) -> None:
        """Decode each different image once, so that a bad one is named before hours of generation, not within them."""
        good: set[bytes] = set()
        for done, question_id in enumerate(ids, start=1):
            picture = self._picture(question_id)
            digest = hashlib.sha256(picture.data).digest()
            if digest not in good:
                decode(picture.data, picture.where)
                good.add(digest)
            self.tell("check images", done, len(ids))

    def _fill_cache(self, ids: Sequence[str]) -> None:
        """Have the features of each different image on disk before the first answer, and the model read them there.

        Raises:
            DataError: an image cannot be decoded; the first question that shows it is named.
        """
        model = self._model()
        cache = Cache(self.features, model.model, model.processor, self.config.cache_precision)
        hashes: dict[str, bytes] = {}

        def originals() -> Iterator[Original]:
            for done, question_id in enumerate(ids, start=1):
                hashes[question_id] = hashlib.sha256(self._image(question_id)).digest()
                name, read = self.by_id[question_id]["image_id"], functools.partial(self._image, question_id)
                yield Original(hashes[question_id], name, self._where(question_id), read)
                self.tell("look up images", done, len(ids))

        cache.make(originals(), self.tell)
        for question_id in ids:
            if reasons := cache.features.refused(hashes[question_id]):
                what = f"{self._where(question_id)}: its image could not be decoded, see {reasons}"
                raise DataError(what, "mend the image in the benchmark's files, or drop the question")
        model.read_features(cache.features)

    def _model(self) -> Generator:
        if self._generator is None:
            self.tell("load model", 0, None)
            self._generator = Generator(self.checkpoint.where, self.config.precision)
        return self._generator

    def _answer_shard(self, ids: Sequence[str], blank: bool, done: int) -> dict[str, dict[str, Any]]:
        """Rows of answers/1 for some questions; ``done`` questions came before."""
        model, requests = self._model(), [self._request(self.by_id[question_id], blank) for question_id in ids]
        phase = "answer, blank image" if blank else "answer"
        rows = {}
        for index, answer in model.answers(requests, self.config.batch, self.config.max_new_tokens):
            question = self.by_id[ids[index]]
            rows[ids[index]] = {
                "question_id": ids[index],
                "benchmark": question["benchmark"],
                "checkpoint": self.checkpoint.name,
                "prompt": answer.prompt,
                "answer": answer.text,
                "finish": answer.finish,
                "tokens": answer.tokens,
                "seconds": answer.seconds,
                "recall": _worth(question, answer.text) if question["kind"] == "open" else None,
                "accuracy": _worth(question, answer.text) if question["kind"] == "closed" else None,
            }
            self.tell(phase, done + len(rows), len(self.asked))
        return rows

    def _request(self, question: Row, blank: bool) -> Request:
        def picture() -> Picture:
            return Picture(_grey(), "the blank image") if blank else self._picture(question["question_id"])

        return Request(
            [{"role": "user", "text": question["question"]}], [picture], self._where(question["question_id"])
        )


def _grey() -> bytes:
    """The blank image: uniform mid grey, square so that it fills the model's view whatever the fit."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(out, "PNG")
    return out.getvalue()


def _worth(question: Row, answer: str) -> float:
    """Capped token recall of an open question, 0 or 1 for a closed one."""
    if question["kind"] == "open":
        return score.open_recall(answer, question["answers"])
    return float(score.closed_hit(answer, question["answers"], question["choices"]))


def _group(question: Row) -> str:
    return question["category"] or "other"


def _commonest(asked: Sequence[Row], others: Sequence[Row], split: str) -> tuple[dict[str, str], str]:
    """The constant answer to each question, by its id, and one sentence that says where it comes from.

    The constant is the commonest first gold answer of the question's kind and category; of equally common ones, the
    first in the alphabet.  Where another split lacks the category, its commonest of the kind stands in.
    """
    train = [row for row in others if row["split"] == "train"]
    known = train or [row for row in others if row["split"] == "val"] or asked
    counts: dict[tuple[str, str | None], Counter[str]] = {}
    for row in known:
        for key in ((row["kind"], _group(row)), (row["kind"], None)):
            counts.setdefault(key, Counter()).update(row["answers"][:1])
    best = {key: min(count, key=lambda gold: (-count[gold], gold)) for key, count in counts.items() if count}
    constant = {
        row["question_id"]: best.get((row["kind"], _group(row))) or best.get((row["kind"], None), "") for row in asked
    }
    if known is asked:
        return constant, f"the commonest answer of each category of split {split} itself: the best constant there is"
    return constant, f"the commonest answer of each category of split {known[0]['split']}"


def _scores(asked: Sequence[Row], answers: Mapping[str, str]) -> dict[str, Any]:
    """Every score of one set of answers, 0 to 1, each with its interval; None where no question is of that kind."""
    worth = {row["question_id"]: _worth(row, answers[row["question_id"]]) for row in asked}
    exact = {row["question_id"]: float(score.exact_match(answers[row["question_id"]], row["answers"])) for row in asked}

    def mean(rows: Sequence[Row], of: Mapping[str, float]) -> dict[str, Any] | None:
        values, images = [of[row["question_id"]] for row in rows], [row["image_id"] for row in rows]
        return vars(score.mean_with_interval(values, images, DRAWS, SEED)) if rows else None

    kinds = {kind: [row for row in asked if row["kind"] == kind] for kind in ("open", "closed")}
    unparsed = [
        score.closed_choice(answers[row["question_id"]], row["answers"], row["choices"]) is None
        for row in kinds["closed"]
    ]
    names = sorted({_group(row) for row in asked})
    return {
        "open_recall": mean(kinds["open"], worth),
        "open_exact_match": mean(kinds["open"], exact),
        "closed_accuracy": mean(kinds["closed"], worth),
        "closed_unparsed": sum(unparsed) / len(unparsed) if unparsed else None,
        "categories": {name: mean([row for row in asked if _group(row) == name], worth) for name in names},
    }


def _cells(scores: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    return {"open recall": scores["open_recall"], "closed accuracy": scores["closed_accuracy"], **scores["categories"]}


def _percent(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """One row of the table: open recall, closed accuracy, unparsed closed answers, each category; in percent."""
    cells = {name: round(100 * cell["value"], 2) if cell else None for name, cell in _cells(scores).items()}
    unparsed = scores["closed_unparsed"]
    return cells | {"closed unparsed": None if unparsed is None else round(100 * unparsed, 2)}


def _intervals(scores: Mapping[str, Any]) -> dict[str, str | None]:
    return {
        name: f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}" if cell else None
        for name, cell in _cells(scores).items()
    }
