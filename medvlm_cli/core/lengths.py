"""How long conversations are for a language model, measured on a sample of them; and one, as the loss sees it.

Legend: T tokens of an image.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlavaProcessor

from medvlm_cli.core.arrow import Dataset, open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.prompts import IGNORED, IMAGE, encode
from medvlm_cli.core.samples import Plan
from medvlm_cli.core.schemas import CONVERSATIONS

SAMPLED = 256
"""Conversations that are tokenised to learn how long they are."""
ASSUMED = {"pretrain": (56, 50), "finetune": (321, 280)}
"""Where nothing can be measured: tokens of a conversation beside those of its image, and targets of them.

With the 729 of an image these are 785 and 1,050 tokens.
"""
ASSUMED_ROWS = {"pretrain": 600_000, "finetune": 80_000}
"""Conversations of the published model's stages: Llama3-Med, section 3.1 (600K), appendix D (60K and 20K)."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What the loss will go through."""

    rows: int
    """Conversations to train on."""
    images: int
    """Different figures of all conversations, those held out too."""
    tokens: np.ndarray
    """Of each conversation that was measured, images included."""
    targets: float
    """Tokens that the loss looks at, on average."""
    cut: int
    """Of the conversations measured, those cut to the longest sequence."""
    source: str
    """``measured`` or ``assumed``."""

    def padded(self, micro: int) -> float:
        """Tokens of a conversation on average, with what pads it to the longest of ``micro`` at random."""
        size = len(self.tokens)
        order = np.random.default_rng(0).permutation(np.arange(max(micro, 1) * 512) % size)
        return float(self.tokens[order].reshape(-1, max(micro, 1)).max(axis=1).mean())


class Rows:
    """The conversations of a stage, read without their figures."""

    def __init__(self, conversations: Path, config: Any, kind: str) -> None:
        """Count them.

        Raises:
            DataError: it is no dataset of conversations, one is of another kind, or none is to be trained on.
        """
        self.dataset: Dataset = open_dataset(conversations, CONVERSATIONS)
        self.config = config
        self.train: list[int] = []
        figures = set()
        for number, row in enumerate(self.dataset.rows(["figure_id", "kind", "split"])):
            if row["kind"] != kind:
                raise DataError(
                    f"{conversations}, row {number}: kind is {row['kind']!r}, this stage learns {kind!r}",
                    "give `medvlm pretrain` conversations/captions and `medvlm finetune` conversations/instruct",
                )
            figures.add(row["figure_id"])
            if row["split"] == "train":
                self.train.append(number)
        self.images = len(figures)
        if not self.train:
            raise DataError(f"{conversations}: no conversation has the split 'train'", "run `medvlm synthesize` again")

    def first(self) -> int:
        """The row that training begins with."""
        plan = Plan(
            rows=len(self.train), batch=self.config.batch, micro=1, epochs=self.config.epochs, seed=self.config.seed,
            rank=0, world=1,
        )  # fmt: skip
        return self.train[int(plan.step(0)[0])]

    def encoded(self, row: int, processor: LlavaProcessor) -> dict[str, Any]:
        """A conversation as training sees it.

        Raises:
            DataError: it cannot be learnt from.
        """
        found = self.dataset.row_at(row, ["conversation_id", "turns"])
        name = f"conversation {found['conversation_id']}"
        return {"name": found["conversation_id"]} | encode(processor, found["turns"], 1, self.config.max_length, name)

    def lengths(self, processor: LlavaProcessor) -> Lengths:
        """Tokenise ``SAMPLED`` conversations, spread evenly over the dataset.

        Raises:
            DataError: one of them cannot be learnt from.
        """
        places = np.unique(np.linspace(0, len(self.train) - 1, SAMPLED).astype(int))
        encoded = [self.encoded(self.train[place], processor) for place in places]
        targets = [sum(label != IGNORED for label in one["labels"]) for one in encoded]
        return Lengths(
            rows=len(self.train), images=self.images, source="measured",
            tokens=np.array([len(one["input_ids"]) for one in encoded]), targets=float(np.mean(targets)),
            cut=sum(bool(one["cut"]) for one in encoded),
        )  # fmt: skip


def assumed(stage: str, tokens: int, rows: Rows | None) -> Lengths:
    """Lengths for where there is no tokenizer or no conversation; ``tokens`` is T."""
    words, targets = ASSUMED[stage]
    there = len(rows.train) if rows else ASSUMED_ROWS[stage]
    return Lengths(
        rows=there, images=rows.images if rows else there, tokens=np.array([tokens + words]), targets=targets, cut=0,
        source="assumed",
    )  # fmt: skip


def pieces(processor: LlavaProcessor, ids: list[int], labels: list[int]) -> list[dict[str, Any]]:
    """A conversation as text, in runs of what the loss does alike.

    Args:
        processor: of the tokens.
        ids: token ids, images expanded.
        labels: as ``encode`` gives them.

    Returns:
        ``{"kind": "target" | "ignored" | "image", "text": ..., "tokens": ...}``; the placeholders of an image are one
        piece with the text ``<image>``.
    """

    def kind(place: int) -> str:
        if ids[place] == processor.image_token_id:
            return "image"
        return "ignored" if labels[place] == IGNORED else "target"

    found = []
    for what, places in itertools.groupby(range(len(ids)), kind):
        run = [ids[place] for place in places]
        text = IMAGE
        if what != "image":
            text = processor.tokenizer.decode(run, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found.append({"kind": what, "text": text, "tokens": len(run)})
    return found
