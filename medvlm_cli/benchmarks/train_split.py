"""A benchmark's train split as what ``finetune`` learns: conversations/1 of one question each, and their figures/1.

A benchmark may show images of its test split in training: of VQA-RAD's 203 test images 202 are asked about in its train
split too.  What a model scores then is not what it would on new patients, so nothing is trained on such rows unasked.
Images are compared by the SHA-256 of their files, and by what they show: one that was resized or saved again in another
way is recognised, one that was cut is not; see ``core.phash``.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Dataset, Harvest, Reject, open_dataset, write_all
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.hashes import Hashes, Picture
from medvlm_cli.core.images import decode
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, QUESTIONS
from medvlm_cli.core.tell import Tell

IN_TEST = "image_in_test"
"""Reason of the rejects of rows whose image is in the test split too."""
NEAR_TEST = "image_near_test"
"""Reason of the rejects of rows whose image is a copy of one in the test split, in another file."""


@dataclass(frozen=True)
class Overlap:
    """What a train split shares with the test split."""

    images: int
    """Different images of the test split whose very file is in the train split."""
    near_images: int
    """Others of which the train split has a copy in another file."""
    test_images: int
    """Different images of the test split."""
    rows: int
    """Rows of the train split that show the very file of one."""
    near_rows: int
    """Others that show a copy of one."""
    train_rows: int
    """Rows of the train split."""

    def __str__(self) -> str:
        copies = f" and {self.near_images:,} more as copies in other files," if self.near_images else ""
        return (
            f"{self.images:,} of {self.test_images:,} images of its test split are in its train split too,{copies} "
            f"under {self.rows + self.near_rows:,} of {self.train_rows:,} questions"
        )


@dataclass(frozen=True)
class TrainSplit:
    """A train split that is ready to be learnt."""

    conversations: Path
    """conversations/1; rows of the benchmark's validation split, where it has one, are ``val``."""
    figures: Path
    """figures/1."""
    record: dict[str, Any]
    """What ``run.json`` says of it."""


def train_split(questions: Path, root: Path, leaks: str, tell: Tell) -> TrainSplit:
    """Make, or find, the two datasets of a benchmark's train split.

    Args:
        questions: questions/1 dataset.
        root: workspace; they become ``conversations/<name>-train``, or ``-train-clean`` where rows are dropped, and
            the folder of the same name in ``benchmark-figures``, apart from the figures that ``synthesize`` reads.
            What images look like is kept in ``hashes``.
        leaks: what to do with rows whose image is in the test split too: refuse, drop or keep.
        tell: progress.

    Raises:
        DataError: there is no train split, or nothing is left of it; or, with ``refuse``, there are such rows.
        BusyError: another process makes them, or the folders hold something else.
    """
    dataset = open_dataset(questions, QUESTIONS)
    exam = _Exam(dataset, Hashes(root / "hashes"), tell)
    if not exam.overlap.train_rows:
        raise DataError(f"{questions}: no question has the split 'train'", "take a benchmark that has one")
    dropped = exam.leaking if leaks == "drop" else {}
    if exam.leaking and leaks == "refuse":
        fix = "--set leaks=drop leaves these questions out; --set leaks=keep learns them too, and run.json says so"
        raise DataError(f"{questions.name}: {exam.overlap}", fix)
    if len(dropped) == exam.overlap.train_rows:
        raise DataError(f"{questions.name}: {exam.overlap}, so none is left", "--set leaks=keep, or another benchmark")
    name = f"{questions.name}-train" + ("-clean" if dropped else "")
    made = TrainSplit(
        root / "conversations" / name,
        root / "benchmark-figures" / name,
        {"benchmark": questions.name, "leaks": leaks, "overlap": asdict(exam.overlap), "dropped": len(dropped)},
    )
    kept = [question for question in exam.digests if question not in dropped]
    places = {exam.figure(question): dataset.position(question) for question in reversed(kept)}
    make = functools.partial(_figure, dataset, places)
    shared: dict[str, Any] = {"stage": "finetune", "inputs": {"questions": questions}, "tell": tell}
    settings = {"benchmark": questions.name, "dropped": len(dropped)}
    write_all(made.figures, FIGURES, make, config=settings, keys=sorted(places), **shared)
    make = functools.partial(_conversation, exam, dropped)
    write_all(made.conversations, CONVERSATIONS, make, config=settings, keys=list(exam.digests), **shared)
    return made


class _Exam:
    """A benchmark's rows, as far as they are learnt or must not be."""

    def __init__(self, dataset: Dataset, hashes: Hashes, tell: Tell) -> None:
        self.dataset = dataset
        self.digests: dict[str, bytes] = {}
        """SHA-256 of the image of every question of the splits train and val."""
        self._images: dict[str, str] = {}
        pictures: dict[bytes, Picture] = {}
        train: dict[str, bytes] = {}
        test: dict[bytes, None] = {}
        columns = ["question_id", "split", "image_id", "image"]
        for position, row in enumerate(dataset.rows(columns)):
            digest = hashlib.sha256(row["image"]["bytes"] or b"").digest()
            if row["split"] in ("train", "test"):
                where = f"{dataset.folder}, image {row['image_id']}"
                pictures[digest] = Picture(digest, where, functools.partial(_bytes, dataset, position))
            if row["split"] == "test":
                test[digest] = None
            if row["split"] == "train":
                train[row["question_id"]] = digest
            if row["split"] in ("train", "val"):
                self.digests[row["question_id"]], self._images[row["question_id"]] = digest, row["image_id"]
            tell("compare images", position + 1, len(dataset))
        hashes.make(pictures.values(), tell)
        exact = test.keys() & set(train.values())
        pairs = list(hashes.copies(list(test), list(dict.fromkeys(train.values()))))
        near = {there for _, there in pairs} - exact
        self.leaking: Mapping[str, str] = {question: IN_TEST for question, digest in train.items() if digest in exact}
        self.leaking |= {question: NEAR_TEST for question, digest in train.items() if digest in near}
        rows = list(self.leaking.values())
        copied = {asked for asked, _ in pairs} - exact
        self.overlap = Overlap(
            len(exact), len(copied), len(test), rows.count(IN_TEST), rows.count(NEAR_TEST), len(train)
        )

    def figure(self, question: str) -> str:
        """The id of a question's figure: one an image, whatever it is called."""
        return f"{self._images[question]}/{self.digests[question].hex()[:12]}"


def _conversation(exam: _Exam, dropped: Mapping[str, str], question: str) -> Harvest:
    """One question and its answer, as ``eval`` asks it."""
    columns = [field.name for field in QUESTIONS if field.name != "image"]
    row = exam.dataset.row_at(exam.dataset.position(question), columns)
    if question in dropped:
        message = f"{question}: the test split asks about the same image, in this file or another"
        return Harvest(1, [], [Reject(question, dropped[question], message, row["question"])])
    if not row["answers"] or not row["answers"][0].strip() or not row["question"].strip():
        return Harvest(1, [], [Reject(question, "no_answer", f"{question}: nothing is asked, or nothing answered")])
    said = {"user": f"<image>\n{row['question']}", "assistant": row["answers"][0]}
    teacher = f"imported:{row['benchmark']}"
    known = {
        "conversation_id": question, "figure_id": exam.figure(question), "kind": "instruct",
        "turns": [{"role": role, "text": text} for role, text in said.items()], "teacher": teacher,
        "teacher_planned": teacher, "prompt_id": hashlib.sha256(teacher.encode()).hexdigest()[:12],
        "license_tags": [], "split": row["split"],
    }  # fmt: skip
    return Harvest(1, [dict.fromkeys(CONVERSATIONS.names) | known], [])


def _figure(dataset: Dataset, places: dict[str, int], figure: str) -> Harvest:
    """The image of one or more questions."""
    row = dataset.row_at(places[figure], ["benchmark", "image", "image_id"])
    data = row["image"]["bytes"]
    image = decode(data, f"{dataset.folder}, image {row['image_id']}")
    known = {
        "figure_id": figure, "source": row["benchmark"], "image": row["image"], "width": image.width,
        "height": image.height, "image_sha256": hashlib.sha256(data).digest(), "caption": "", "mentions": [],
        "modality": "unknown", "license": "unknown", "commercial_ok": False, "retracted": False, "third_party": False,
    }  # fmt: skip
    return Harvest(1, [dict.fromkeys(FIGURES.names) | known], [])


def _bytes(dataset: Dataset, position: int) -> bytes:
    return dataset.row_at(position, ["image"])["image"]["bytes"]
