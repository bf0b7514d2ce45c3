"""The questions of one benchmark and the model that answers them: from a dataset of questions to one of answers."""

import functools
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medvlm_cli.core import parts, questioning
from medvlm_cli.core.answering import Asked, Journal, batches, part, remove_journal
from medvlm_cli.core.arrow import Dataset, Harvest, Writer, open_dataset
from medvlm_cli.core.config import EvalConfig, as_dict
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.features import Cache, Original
from medvlm_cli.core.generate import Answer, Checkpoint, Generator, Picture, Request, find_checkpoint
from medvlm_cli.core.images import decode
from medvlm_cli.core.schemas import QUESTIONS, SCORED_ANSWERS
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.files import asked
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.tell import Tell

NOT_THE_RUN = ("draws", "seed", "overlap", "engine", "judge", "judge_labels", "max_cost")
"""Settings that change what is made of the answers, and no answer."""
_SCORES = {
    "llama3med": ("recall", "f1", "precision", "accuracy"),
    "strict": ("recall", "f1", "exact_match", "accuracy", "unparsed"),
}
"""By protocol, the scores that have a column in answers/1."""


class Examinee:
    """A checkpoint, loaded when the first answer is needed, and kept for further benchmarks."""

    def __init__(self, checkpoint: str | Path, precision: str, tell: Tell) -> None:
        """Find it.

        Raises:
            DataError: there is no finished model.
        """
        self.checkpoint: Checkpoint = find_checkpoint(checkpoint)
        self._precision = precision
        self._tell = tell

    @functools.cached_property
    def model(self) -> Generator:
        """The model, ready to answer."""
        self._tell("load model", 0, None)
        return Generator(self.checkpoint.where, self._precision)


class Exam:
    """One benchmark, or one part of it, put to one model.

    Attributes:
        dataset: questions/1.
        items: the questions of the split, as they are scored, in order of their ids.
        examinee: who answers.
    """

    def __init__(self, questions: Path, examinee: Examinee, config: EvalConfig, features: Path, tell: Tell) -> None:
        """Read the questions.

        Args:
            questions: questions/1 dataset.
            examinee: who answers.
            config: settings; ``split`` chooses the questions, ``shard`` those of them that are asked.
            features: folder of all caches of features, for ``cache_features``.
            tell: told the phase, the questions done and their number.

        Raises:
            DataError: no question of the split, or one whose kind or gold answer is not what it must be.
            ConfigError: ``shard`` is not of the form i/N.
        """
        self.dataset: Dataset = open_dataset(questions, QUESTIONS)
        self.items = asked(self.dataset, config.split)
        self.examinee = examinee
        self._by_id = {item.question_id: item for item in self.items}
        self._config, self._features, self._tell = config, features, tell
        known = [Asked(item.question_id, item.image_id, len(item.question)) for item in self.items]
        number, count = parts.parse(config.shard) if config.shard else (0, 1)
        self._batches = part(batches(known, config.batch), number, count)

    def where(self, question_id: str) -> str:
        """What to call a question in an error."""
        return f"{self.dataset.folder}, question {question_id}"

    def image(self, question_id: str) -> bytes:
        """The image file that a question is about."""
        return self.dataset.row_at(self.dataset.position(question_id), ["image"])["image"]["bytes"] or b""

    @functools.cached_property
    def benchmark(self) -> str:
        """The name that the questions give."""
        return self.dataset.row(self.items[0].question_id, ["benchmark"])["benchmark"]

    def answer(self, out: Path, *, blank: bool) -> None:
        """Make the answers/1 dataset ``out``, or finish it; one that is finished is left as it is.

        Args:
            out: folder of the dataset.
            blank: show a grey image instead of each question's own.

        Raises:
            BusyError: the folder is locked, or holds another run.
            DataError: an image cannot be decoded; nothing has been answered yet.
            ResourceError: a batch does not fit the memory of the device, or an answer not the disk.
        """
        ids = sorted(id_ for batch in self._batches for id_ in batch)
        settings = {name: value for name, value in as_dict(self._config).items() if name not in NOT_THE_RUN}
        settings |= {"checkpoint": self.examinee.checkpoint.name, "blank": blank}
        settings["prompt_sha256"] = questioning.told(self._config.prompt, self._config.system)["sha256"]
        inputs = {"questions": self.dataset.folder}
        with Writer(out, SCORED_ANSWERS, stage="eval", config=settings, inputs=inputs, keys=ids) as writer:
            if not writer.done:
                rows = self._rows(self._answers(out, blank))
                for shard, shard_ids in writer.todo():
                    writer.commit(shard, [Harvest(1, [rows[id_]], []) for id_ in shard_ids])
        remove_journal(out)

    def _answers(self, out: Path, blank: bool) -> dict[str, Answer]:
        """The answer to each question asked: those that the journal in ``out`` has, and then all others."""
        journal = Journal(out)
        left = list(journal.left(self._batches))
        if left and not blank:
            look = self._fill_cache if self._config.cache_features else self._check_images
            look([id_ for batch in left for id_ in batch])
        phase, total = "answer, blank image" if blank else "answer", sum(map(len, self._batches))
        for ids in left:
            requests = [self._request(self._by_id[id_], blank) for id_ in ids]
            said = self.examinee.model.answers(requests, len(ids), self._config.max_new_tokens)
            journal.add({ids[index]: answer for index, answer in said})
            self._tell(phase, len(journal.answers), total)
        return journal.answers

    def _check_images(self, ids: Sequence[str]) -> None:
        """Decode each different image once, so that a bad one is named before hours of generation, not within them."""
        good: set[bytes] = set()
        for done, question_id in enumerate(ids, start=1):
            data = self.image(question_id)
            digest = hashlib.sha256(data).digest()
            if digest not in good:
                decode(data, self.where(question_id))
                good.add(digest)
            self._tell("check images", done, len(ids))

    def _fill_cache(self, ids: Sequence[str]) -> None:
        """Have the features of each different image on disk before the first answer, and the model read them there.

        Raises:
            DataError: an image cannot be decoded; the first question that shows it is named.
        """
        model = self.examinee.model
        cache = Cache(self._features, model.model, model.processor, self._config.cache_precision)
        hashes: dict[str, bytes] = {}

        def originals() -> Iterator[Original]:
            for done, question_id in enumerate(sorted(ids), start=1):
                hashes[question_id] = hashlib.sha256(self.image(question_id)).digest()
                name, read = self._by_id[question_id].image_id, functools.partial(self.image, question_id)
                yield Original(hashes[question_id], name, self.where(question_id), read)
                self._tell("look up images", done, len(ids))

        cache.make(originals(), self._tell)
        for question_id in sorted(ids):
            if reasons := cache.features.refused(hashes[question_id]):
                what = f"{self.where(question_id)}: its image could not be decoded, see {reasons}"
                raise DataError(what, "mend the image in the benchmark's files, or drop the question")
        model.read_features(cache.features)

    def _request(self, item: Item, blank: bool) -> Request:
        where = self.where(item.question_id)

        def picture() -> Picture:
            return Picture(_grey(), "the blank image") if blank else Picture(self.image(item.question_id), where)

        turns = questioning.turns(item.question, item.kind, self._config.prompt, self._config.system)
        return Request(turns, [picture], where)

    def _rows(self, answers: Mapping[str, Answer]) -> dict[str, dict[str, Any]]:
        """Rows of answers/1, with what each answer is worth."""
        if not answers:  # there may be more parts than batches
            return {}
        texts = {id_: answer.text for id_, answer in answers.items()}
        items = [self._by_id[id_] for id_ in texts]
        worth = {"llama3med": llama3med.published(items, texts).rows, "strict": strict.strict(items, texts).rows}
        rows = {}
        for id_, answer in answers.items():
            rows[id_] = {
                "question_id": id_,
                "benchmark": self.benchmark,
                "checkpoint": self.examinee.checkpoint.name,
                "prompt": answer.prompt,
                "answer": answer.text,
                "finish": answer.finish,
                "tokens": answer.tokens,
                "seconds": answer.seconds,
            } | {
                f"{protocol}_{name}": worth[protocol].get(id_, {}).get(name)
                for protocol, names in _SCORES.items()
                for name in names
            }
        return rows


@functools.cache
def _grey() -> bytes:
    """The blank image: uniform mid grey, square so that it fills the model's view whatever the fit."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(out, "PNG")
    return out.getvalue()
