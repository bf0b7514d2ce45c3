"""What a training run reads: which conversations, with which figures, in which order.

Figures and conversations stay on disk and are mapped into memory; a sample is put together when its turn comes.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from medvlm_cli.core.arrow import Dataset, open_dataset
from medvlm_cli.core.batch import Collator
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.features import Features, square
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

    Args:
        rows: conversations there are.
        batch: conversations per optimiser step, all ranks together; a multiple of ``micro * world``.
        micro: conversations per micro-batch.
        epochs: passes over the rows; the order of each is its own.
        seed: of the order; None keeps the rows as they are.
        rank: this process's number, of ``world``.
        world: processes.
    """

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
            parts = self._parts(step)
            for group in np.array_split(chosen, parts * self.world)[self.rank :: self.world]:
                yield group.tolist() or [~int(chosen[0])]

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
            self._epochs = {epoch - 1: self._epochs.get(epoch - 1, order), epoch: order}  # a batch spans two at most
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


class Samples(torch.utils.data.Dataset):
    """Conversations as token ids, with the image or the cached features of their figure.

    An index ``~i`` gives sample ``i`` without targets, see ``Plan``.
    """

    def __init__(
        self, split: Split, rows: Sequence[int], model: Any, processor: Any, max_length: int, features: Features | None
    ) -> None:
        self.split, self.rows, self.features = split, rows, features
        self.processor, self.max_length = processor, max_length
        self._side, self._fit = processor.image_processor.crop_size["height"], model.config.fit
        self._pad = Collator(processor)
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
        if self.features is not None:
            return sample | {"features": self.features[figure]}
        return sample | {"image": square(*self.split.figures.find(figure, name), figure, self._side, self._fit)}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Padded tensors, and ``cut``: how many of the samples were cut to the longest sequence."""
        return {**self._pad(samples), "cut": sum(sample["cut"] for sample in samples)}

    def _encode(self, row: int) -> tuple[dict[str, Any], str, str]:
        found = self.split.conversations.row_at(row, ["conversation_id", "figure_id", "turns"])
        name = found["conversation_id"]
        encoded = encode(self.processor, found["turns"], 1, self.max_length, f"conversation {name}")
        return encoded, found["figure_id"], name
