"""What a benchmark's questions share with what a model may have learnt: images, questions, and answers to them.

Images are the same by the SHA-256 of their files, or nearly the same by ``core.phash``; texts are the same where they
are in small letters with single blanks.  Everything is counted on the asked side: of its images, and of its questions,
how many are in the other set too.  Only that side is held in memory; the other is read past it.
"""

import functools
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core import parts
from medvlm_cli.core.arrow import Dataset, open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.hashes import Hashes, Picture
from medvlm_cli.core.listing import metadata_of
from medvlm_cli.core.overlap_report import Row, Shared
from medvlm_cli.core.record import MANIFEST, read_json
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, PUBLISHED_QUESTIONS, QUESTIONS, name_of
from medvlm_cli.core.tell import Tell

_IMAGE = "<image>"
_ALSO_IN = PUBLISHED_QUESTIONS.names[-1]


def overlap(questions: Dataset, split: str, training: Sequence[Path], cache: Path, tell: Tell) -> dict[str, Any]:
    """Compare the questions of a split with the other splits of their dataset, and with what a model may have learnt.

    Args:
        questions: questions/1 dataset.
        split: the asked one.
        training: datasets to compare with, figures/1, conversations/1 or questions/1; ``questions`` itself is passed
            over.  Of a conversation's image only that is known which a figures/1 among them holds.
        cache: folder of the fingerprints, which are made once for every image.
        tell: progress.

    Returns:
        JSON: ``benchmark``, ``split``, ``rows``, ``images``; ``sources``, one for each split or dataset, see
        ``core.overlap_report``; ``skipped``, datasets that could not be read, and why; ``hashed``, how many images in
        how many seconds; ``lines``, sentences for people.

    Raises:
        DataError: no question has the split, or ``questions`` cannot be read.
        BusyError: another process is making the same fingerprints.
        ResourceError: the disk is full.
    """
    asked = _Questions(questions, tell)
    exam = _Exam(asked, split)
    if not exam.rows:
        raise DataError(f"{questions.folder}: no question has the split {split!r}", "give one that it has")
    comparison = _Comparison(exam, Hashes(cache), tell)
    sources = [comparison.with_questions(asked, other) for other in asked.splits if other != split]
    sources += [comparison.with_names(label, images) for label, images in _elsewhere(questions, split).items()]
    skipped: dict[str, str] = {}
    for path in sorted(training, key=_is_figures, reverse=True):  # conversations are joined with them
        if path.resolve() == questions.folder.resolve():
            continue
        try:
            sources += comparison.with_dataset(path)
        except DataError as error:
            skipped[_named(path)] = error.what
    told = [source.report(exam.rows, exam.images) for source in sources]
    return {
        "benchmark": exam.rows[0].benchmark, "split": split, "rows": len(exam.rows), "images": len(exam.images),
        "sources": told, "skipped": skipped, "hashed": comparison.hashed, "lines": list(_lines(split, told, skipped)),
    }  # fmt: skip


class _Questions:
    """The rows of a questions dataset, without the images."""

    def __init__(self, dataset: Dataset, tell: Tell) -> None:
        self.dataset = dataset
        self.rows: list[Row] = []
        columns = ["question_id", "benchmark", "split", "image_id", "question", "answers", "image"]
        for position, row in enumerate(dataset.rows(columns)):
            data = row["image"]["bytes"]
            digest = hashlib.sha256(data).digest() if data else None
            answers = tuple(dict.fromkeys(map(plain, row["answers"])))
            known = row["question_id"], row["benchmark"], row["split"], row["image_id"]
            self.rows.append(Row(position, *known, digest, plain(row["question"]), answers))
            if position % 100 == 99:
                tell("compare questions", position + 1, len(dataset))
        self.splits = list(dict.fromkeys(row.split for row in self.rows))

    def pictures(self, rows: Iterable[Row]) -> Iterator[Picture]:
        """Their images, where there are any."""
        for row in rows:
            if row.sha256 is not None:
                where = f"{self.dataset.folder}, image {row.image_id}"
                yield Picture(row.sha256, where, functools.partial(_bytes, self.dataset, row.position))


class _Exam:
    """The asked side."""

    def __init__(self, asked: _Questions, split: str) -> None:
        self.rows = [row for row in asked.rows if row.split == split]
        self.images = list(dict.fromkeys(row.image_id for row in self.rows))
        self.pictures = list(asked.pictures(self.rows))
        self.shown: dict[bytes, set[str]] = {}
        """Image ids by the SHA-256 of the file."""
        for row in self.rows:
            if row.sha256 is not None:
                self.shown.setdefault(row.sha256, set()).add(row.image_id)
        self.questions = {row.question for row in self.rows}
        self.pairs = {(row.question, answer) for row in self.rows for answer in row.answers}


class _Comparison:
    """The asked side beside one set after another."""

    def __init__(self, exam: _Exam, hashes: Hashes, tell: Tell) -> None:
        self.exam, self.hashes, self.tell = exam, hashes, tell
        self.hashed: dict[str, Any] = {"images": 0, "seconds": 0.0}
        self._figures: dict[str, dict[str, bool]] = {}
        """Figures that show an asked image: image id -> whether it is the very file."""
        self._seen: set[str] = set()
        """Ids of all figures."""
        self._make(exam.pictures)

    def _make(self, pictures: Iterable[Picture]) -> None:
        began = time.monotonic()
        self.hashed["images"] += self.hashes.make(pictures, self.tell)
        self.hashed["seconds"] = round(self.hashed["seconds"] + time.monotonic() - began, 1)

    def with_dataset(self, path: Path) -> list[Shared]:
        """Beside a dataset of any kind, each split of a questions dataset for itself.

        Raises:
            DataError: it cannot be read, or is of no such kind.
        """
        kind = _kind(path)
        if kind == name_of(FIGURES):
            return [self._with_figures(path)]
        if kind == name_of(CONVERSATIONS):
            return [self._with_conversations(path)]
        if kind == name_of(QUESTIONS):
            other = _Questions(open_dataset(path, QUESTIONS), self.tell)
            return [self.with_questions(other, split) for split in other.splits]
        raise DataError(f"{path} holds {kind or 'no dataset'}", "give figures, conversations or questions")

    def with_questions(self, other: _Questions, split: str) -> Shared:
        """Beside one split of a questions dataset."""
        rows = [row for row in other.rows if row.split == split]
        shared = Shared(f"{other.dataset.folder.name} {split}", "questions")
        if rows[0].benchmark == self.exam.rows[0].benchmark:  # another one's file names mean other images
            there = {row.image_id for row in rows}
            shared.names = {image: image for image in self.exam.images if image in there}
        self._make(other.pictures(rows))
        same = self._same({row.sha256: row.image_id for row in reversed(rows) if row.sha256}, shared)
        for row in rows:
            shown = same.get(row.sha256, {}) if row.sha256 else {}
            self._texts(shared, row.question_id, row.question, row.answers, shown)
        return shared

    def with_names(self, label: str, images: Sequence[str]) -> Shared:
        """Beside a split of which nothing is known but which images it shows, by name."""
        shared = Shared(label, "names")
        shared.names = dict.fromkeys(images, label)
        return shared

    def _with_figures(self, path: Path) -> Shared:
        dataset = open_dataset(path, FIGURES)
        shared = Shared(_named(path), "figures")
        ids, digests = [], []
        for row in dataset.rows(["figure_id", "image_sha256"]):
            ids.append(row["figure_id"])
            digests.append(row["image_sha256"])
        places = enumerate(zip(ids, digests, strict=True))
        self._make(
            Picture(digest, f"{path}, row {name}", functools.partial(_bytes, dataset, position))
            for position, (name, digest) in places
        )
        same = self._same(dict(zip(digests, ids, strict=True)), shared)
        for name, digest in zip(ids, digests, strict=True):
            if digest in same:
                self._figures.setdefault(name, {}).update(same[digest])
        self._seen.update(ids)
        return shared

    def _with_conversations(self, path: Path) -> Shared:
        dataset = open_dataset(path, CONVERSATIONS)
        shared = Shared(_named(path), "conversations")
        named: set[str] = set()
        for row in dataset.rows(["conversation_id", "figure_id", "turns"]):
            figure = row["figure_id"]
            shown = self._figures.get(figure, {})
            for image, exactly in shown.items():
                (shared.exact if exactly else shared.near).setdefault(image, figure)
            named.add(figure)
            said = [(turn["role"], plain(turn["text"].replace(_IMAGE, " "))) for turn in row["turns"]]
            for (_, question), (role, answer) in itertools.pairwise(said):
                if role == "assistant":
                    self._texts(shared, row["conversation_id"], question, (answer,), shown)
        shared.images, shared.unknown = len(named), len(named - self._seen)
        return shared

    def _same(self, names: Mapping[bytes, str], shared: Shared) -> dict[bytes, dict[str, bool]]:
        """Images of the other side that show asked ones: SHA-256 -> image id -> whether it is the very file.

        Args:
            names: of the other side's images.
            shared: gets what is found.
        """
        same: dict[bytes, dict[str, bool]] = {}
        for digest, images in self.exam.shown.items():
            if digest in names:
                same[digest] = dict.fromkeys(images, True)
                shared.exact |= dict.fromkeys(images, names[digest])
        for mine, theirs in self.hashes.copies(list(self.exam.shown), list(names)):
            for image in self.exam.shown[mine]:
                same.setdefault(theirs, {}).setdefault(image, False)
                shared.near.setdefault(image, names[theirs])
        shared.images = len(names)
        shared.faults = {name: fault for digest, name in names.items() if (fault := self.hashes.fault(digest))}
        return same

    def _texts(
        self, shared: Shared, name: str, question: str, answers: Sequence[str], shown: Mapping[str, bool]
    ) -> None:
        """Count one question of the other side; what nobody asked, or answered so, is not kept."""
        if question not in self.exam.questions:
            return
        shared.questions.setdefault(question, name)
        for answer in answers:
            if (question, answer) in self.exam.pairs:
                shared.pairs.setdefault((question, answer), name)
                for image in shown:
                    shared.triples.setdefault((image, question, answer), name)


def plain(text: str) -> str:
    """A text in small letters and single blanks."""
    return " ".join(text.lower().split())


def _elsewhere(questions: Dataset, split: str) -> dict[str, list[str]]:
    """Splits that were published and are not in the dataset -> the asked images that they show."""
    if _ALSO_IN not in questions.columns:
        return {}
    found: dict[str, dict[str, None]] = {}
    for row in questions.rows(["split", "image_id", _ALSO_IN]):
        for label in (row[_ALSO_IN] or ()) if row["split"] == split else ():
            found.setdefault(f"{questions.folder.name} {label}", {})[row["image_id"]] = None
    return {label: list(images) for label, images in sorted(found.items())}


def _lines(split: str, sources: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]) -> Iterator[str]:
    """Sentences for people: what is shared, then with whom nothing is, then what could not be compared."""
    if not sources and not skipped:
        yield f"nothing to compare {split} with: the questions have no other split, and no training data is known"
    yield from (source["line"] for source in sources if source["line"])
    apart: dict[str, list[str]] = {}
    for source in sources:
        seen = source["images"]["there"] > source["images"]["unknown"]
        compared = [what for what, known in (("image", seen), ("question", source["questions"])) if known]
        if compared and not source["line"]:
            apart.setdefault(" and no ".join(compared), []).append(source["name"])
    yield from (f"no {what} of {split} is in {', '.join(names)}" for what, names in apart.items())
    yield from (source["gap"] for source in sources if source["gap"])
    yield from (f"{name} was not compared: {why}" for name, why in skipped.items())


def _bytes(dataset: Dataset, position: int) -> bytes:
    return dataset.row_at(position, ["image"])["image"]["bytes"]


def _named(path: Path) -> str:
    """The last two parts of a path: ``figures/pmc``."""
    return "/".join(path.absolute().parts[-2:])


def _kind(path: Path) -> str:
    """The schema's name of a dataset, of the first of its parts, or of an Arrow file; empty where it has none."""
    if path.is_file():
        return str(json.loads(metadata_of(path).get(b"medvlm", b"{}")).get("schema", ""))
    for folder in (path, *parts.found(path).values()):
        if manifest := read_json(folder / MANIFEST):
            return str(manifest.get("schema", ""))
    return ""


def _is_figures(path: Path) -> bool:
    try:
        return _kind(path) == name_of(FIGURES)
    except DataError:  # it is met again, and told, when it is opened
        return False
