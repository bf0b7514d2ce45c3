"""What a training run reads: which conversations, with which figures, in which order.

Figures and conversations stay on disk and are mapped into memory; a sample is put together when its turn comes.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from medvlm_cli.core.arrow import Dataset, open_dataset
from medvlm_cli.core.batch import Collator
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.features import Features, Original
from medvlm_cli.core.images import prepare
from medvlm_cli.core.prompts import IGNORED, encode
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES

KINDS = {"pretrain": "caption", "finetune": "instruct"}
"""The kind of conversation that each stage learns from."""
ENCODED_KEPT = 20_000
"""Conversations whose token ids stay in memory between epochs: at 1,000 tokens each about 300 MB."""


class Plan(Sampler[list[int]]):
    """The micro-batches of one rank, in order, over all epochs.

    The conversations of an optimiser step are the same however they are split over ranks and accumulation, so the
    split does not change the result.  ``ceil(rows * epochs / batch)`` steps: batches go over the end of an epoch, only
    the very last one may be short.  A rank that the short one leaves without a conversation gets one without targets,
    written ``~row``, because all ranks must take the same number of steps.

    Where ``sizes`` are set, conversations of like size go into the same micro-batch within a step, and micro-batches of
    like size to the ranks at the same time: fewer padding tokens, and no rank waits long.  The largest come first, so
    that what does not fit the memory says so at once.

    Args:
        rows: conversations there are.
        batch: conversations per optimiser step, all ranks together; a multiple of ``micro * world``.
        micro: conversations per micro-batch.
        epochs: passes over the rows; the order of each is its own.
        seed: of the order; None keeps the rows as they are.
        rank: this process's number, of ``world``.
        world: processes.
    """

    sizes: np.ndarray | None = None
    """Of each row, in any unit; without them, the rows of a step go into micro-batches as they come."""

    def __init__(
        self, *, rows: int, batch: int, micro: int, epochs: float, seed: int | None, rank: int, world: int
    ) -> None:
        self.rows, self.batch, self.micro, self.seed, self.rank, self.world = rows, batch, micro, seed, rank, world
        self.total = max(1, round(rows * epochs))
        self.steps = -(-self.total // batch)
        self._epochs: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        full = self.batch // (self.micro * self.world)
        return full * (self.steps - 1) + self._parts(self.steps - 1)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            chosen = self.step(step)
            if self.sizes is not None:
                chosen = chosen[np.argsort(-self.sizes[chosen], kind="stable")]
            parts = self._parts(step)
            for group in np.array_split(chosen, parts * self.world)[self.rank :: self.world]:
                yield group.tolist() or [~int(chosen[-1])]

    def step(self, step: int) -> np.ndarray:
        """The rows of an optimiser step over all ranks, counted from 0."""
        places = range(step * self.batch, min((step + 1) * self.batch, self.total))
        return np.array([self._epoch(place // self.rows)[place % self.rows] for place in places])

    def _parts(self, step: int) -> int:
        """Micro-batches a rank in a step: fewer in a short last one."""
        size = min(self.batch, self.total - step * self.batch)
        return -(-size // (self.micro * self.world))

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            order = np.arange(self.rows)
            if self.seed is not None:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            before = {epoch - 1: self._epochs[epoch - 1]} if epoch - 1 in self._epochs else {}
            self._epochs = before | {epoch: order}  # a batch spans two at most
        return self._epochs[epoch]


def split_batch(batch: int, micro: int, world: int) -> tuple[int, int]:
    """How a batch is made of micro-batches: ``(micro, accumulation)`` with ``micro * accumulation * world == batch``.

    The micro-batch asked for is the largest that may be; a device's share of the batch, or a part of it that goes in
    without a rest, takes its place where it is smaller.  The result of training is the same.

    Raises:
        ConfigError: the batch does not divide over the devices, or only in parts so small that most of a device would
            idle; names the nearest numbers that work.
    """
    share, rest = divmod(batch, world)
    most = max(1, min(micro, share))
    part = max(size for size in range(1, most + 1) if share % size == 0) if share else 0
    if rest or 2 * part < most:
        nearest = max(1, round(batch / (most * world))) * most * world
        what = f"batch {batch} does not divide over {world} devices in micro-batches of {most} or a little less"
        raise ConfigError(what, f"--set batch={nearest}" + ("" if rest else f" or --set micro_batch={part}"))
    return part, share // part


class Figures:
    """Several figures datasets as one: where each figure lies, by its id."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.datasets = [open_dataset(Path(folder), FIGURES) for folder in folders]
        self._places: list[dict[str, int]] = [
            {figure: row for row, figure in enumerate(dataset.ids)} for dataset in self.datasets
        ]
        self._hashes: dict[Dataset, dict[int, bytes]] = {}

    def find(self, figure: str, conversation: str) -> tuple[Dataset, int]:
        """The dataset that holds a figure, and its row there.

        Raises:
            DataError: none holds it, or more than one.
        """
        found = [(one, rows[figure]) for one, rows in zip(self.datasets, self._places, strict=True) if figure in rows]
        if len(found) != 1:
            where = ", ".join(str(dataset.folder) for dataset, _ in found or [(one, 0) for one in self.datasets])
            what = f"conversation {conversation} names figure {figure}, which is in "
            if found:
                raise DataError(f"{what}{len(found)} datasets: {where}", "give only one of them with --figures")
            raise DataError(f"{what}none of {where}", "fetch its source again, or run `medvlm synthesize` again")
        return found[0]

    def original(self, figure: str, conversation: str) -> Original:
        """The image of a figure, as the cache of features wants it.

        Raises:
            DataError: as ``find``; or the image cannot be read.
        """
        dataset, row = self.find(figure, conversation)
        read = functools.partial(image_of, dataset, row)
        return Original(self.sha256(dataset, row), figure, where(dataset, figure), read)

    def sha256(self, dataset: Dataset, row: int) -> bytes:
        """SHA-256 of the image file of a row: what the dataset states where it is ours, else of the bytes themselves.

        Raises:
            DataError: the dataset is not what it was.
        """
        if dataset not in self._hashes:
            ours = dataset.parts or "files" in dataset.manifest  # no manifest vouches for another program's file
            stated = (found["image_sha256"] for found in dataset.rows(["image_sha256"])) if ours else ()
            self._hashes[dataset] = dict(enumerate(stated))
        known = self._hashes[dataset]
        if row not in known:
            known[row] = hashlib.sha256(image_of(dataset, row)).digest()
        return known[row]


def image_of(figures: Dataset, row: int) -> bytes:
    """The image file of a figure.

    Raises:
        DataError: its shard is not what it was.
    """
    return figures.row_at(row, ["image"])["image"]["bytes"]


def where(figures: Dataset, figure: str) -> str:
    """What to call the image of a figure in an error."""
    return f"{figures.folder}, figure {figure}"


class Split:
    """The conversations of one stage, checked: which rows are trained on and which are held out."""

    def __init__(self, conversations: Path, figures: Figures, kind: str) -> None:
        """Scan the conversations without their text.

        Raises:
            DataError: a row is of another kind or split, its figure is missing or there twice, or no row is ``train``.
        """
        self.conversations, self.figures = open_dataset(conversations, CONVERSATIONS), figures
        self.train: list[int] = []
        self.val: list[int] = []
        columns = ["conversation_id", "figure_id", "kind", "split"]
        for number, row in enumerate(self.conversations.rows(columns)):
            name = row["conversation_id"]
            if row["kind"] != kind:
                raise DataError(
                    f"{conversations}, row {number} ({name}): kind is {row['kind']!r}, this stage learns {kind!r}",
                    "give `medvlm pretrain` conversations/captions and `medvlm finetune` conversations/instruct",
                )
            if row["split"] not in ("train", "val"):
                raise DataError(f"{conversations}, row {number} ({name}): split is {row['split']!r}", "train or val")
            figures.find(row["figure_id"], name)
            (self.train if row["split"] == "train" else self.val).append(number)
        if not self.train:
            raise DataError(f"{conversations}: no conversation has the split 'train'", "run `medvlm synthesize` again")

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """Bytes of text of every conversation: what its number of tokens goes by, and is had without a tokenizer."""
        rows = self.conversations.rows(["turns"])
        return np.array([sum(len((turn["text"] or "").encode()) for turn in row["turns"]) for row in rows])

    def originals(self) -> Iterator[Original]:
        """The image of every conversation, those held out too, one after the other.

        Raises:
            DataError: an image cannot be read.
        """
        for row in self.conversations.rows(["conversation_id", "figure_id"]):
            yield self.figures.original(row["figure_id"], row["conversation_id"])


class Samples(torch.utils.data.Dataset):
    """Conversations as token ids, with the image or the cached features of their figure.

    An index ``~i`` gives sample ``i`` without targets, see ``Plan``.
    """

    encode: Callable[..., dict[str, Any]] = staticmethod(encode)
    """Makes token ids and labels of a conversation."""

    def __init__(
        self, split: Split, rows: Sequence[int], model: Any, processor: Any, max_length: int, features: Features | None
    ) -> None:
        self.split, self.rows, self.features = split, rows, features
        self.processor, self.max_length = processor, max_length
        self._side, self._fit = processor.image_processor.crop_size["height"], model.config.fit
        self._collator = Collator(processor)
        self._encoded = functools.lru_cache(ENCODED_KEPT)(self._encode)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``input_ids``, ``labels`` and ``image`` or ``features``, as ``Collator`` takes them.

        Raises:
            DataError: the conversation cannot be learnt from, or its figure cannot be decoded.
        """
        encoded, figure, name = self._encoded(self.rows[index if index >= 0 else ~index])
        ids, labels = encoded["input_ids"], encoded["labels"]
        sample = {"input_ids": ids, "labels": labels if index >= 0 else [IGNORED] * len(labels)}
        sample["cut"] = bool(encoded["cut"]) and index >= 0
        dataset, row = self.split.figures.find(figure, name)
        if self.features is not None:
            sha256 = self.split.figures.sha256(dataset, row)
            return sample | {"features": self.features.of(sha256, where(dataset, figure))}
        return sample | {"image": prepare(image_of(dataset, row), where(dataset, figure), self._side, self._fit)}

    @property
    def sizes(self) -> np.ndarray:
        """How large each sample is beside the others, for ``Plan``."""
        return self.split.sizes[self.rows]

    def length(self, index: int) -> int:
        """Tokens of a sample, its image's included.

        Raises:
            DataError: the conversation cannot be learnt from.
        """
        return len(self._encoded(self.rows[index])[0]["input_ids"])

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Padded tensors, and what there is to tell of them.

        Returns:
            What ``Collator`` gives, and the counts ``cut``, samples that were cut to the longest sequence, ``tokens``,
            and ``padding``, tokens that only fill the shorter rows.
        """
        return self._told(self._collator(samples), samples)

    def pack(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As ``collate``, the samples end to end in one row; there is no padding."""
        return self._told(self._collator.packed(samples), samples)

    def _told(self, batch: dict[str, Any], samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        tokens = sum(len(sample["input_ids"]) for sample in samples)
        counts = {"cut": sum(sample["cut"] for sample in samples), "tokens": tokens}
        return batch | counts | {"padding": batch["input_ids"].numel() - tokens}

    def _encode(self, row: int) -> tuple[dict[str, Any], str, str]:
        found = self.split.conversations.row_at(row, ["conversation_id", "figure_id", "turns"])
        name = found["conversation_id"]
        encoded = self.encode(self.processor, found["turns"], 1, self.max_length, f"conversation {name}")
        return encoded, found["figure_id"], name
