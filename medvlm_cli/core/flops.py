"""What an optimiser step went through, how fast, and what share of the devices' speed that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medvlm_cli.core.cost import Sizes, Split, flop_per_sample
from medvlm_cli.core.devices import find_device
from medvlm_cli.core.prompts import IGNORED
from medvlm_cli.core.sizes import Parts, sizes_of


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a step went through on all ranks."""

    targets: int
    """Tokens that the loss looked at."""
    tokens: int
    """Tokens that are no padding."""
    padding: int
    conversations: int
    """Those that were learnt from; a rank without one has another without targets, see ``samples.Plan``."""
    images: int
    """Of these conversations."""

    def rates(self, seconds: float) -> dict[str, Any]:
        """The columns of steps/1 that follow from a step's counts and its time."""
        return {
            "tokens": self.tokens, "target_tokens": self.targets, "images": self.images,
            "tokens_per_second": self.tokens / seconds, "images_per_second": self.images / seconds,
            "padding": self.padding / max(self.tokens + self.padding, 1),
        }  # fmt: skip


def count(batches: Sequence[Mapping[str, Any]]) -> Counts:
    """The counts of one rank's micro-batches, each as ``bad_step.TracedSamples`` gives it."""
    silent = sum(row < 0 for batch in batches for row in batch["rows"])
    images = sum(len(batch.get("pixel_values", batch.get("image_features", ()))) for batch in batches)
    return Counts(
        targets=sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches),
        tokens=sum(batch["tokens"] for batch in batches),
        padding=sum(batch["padding"] for batch in batches),
        conversations=sum(len(batch["rows"]) for batch in batches) - silent,
        images=images - silent,
    )


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast the devices of a training could be."""

    sizes: Sizes
    """Of the model."""
    split: Split
    """Nothing in it is recomputed: what is computed twice counts once."""
    peak: float
    """Operations a second of one device, by its datasheet."""
    cached: bool
    """Whether the tower's features come from the cache."""

    def flop(self, counts: Counts) -> float:
        """Operations of the matrix products in a step, forward and backward, as if all conversations were as long."""
        conversations = max(counts.conversations, 1)
        length, targets = counts.tokens / conversations, counts.targets / conversations
        one = flop_per_sample(self.sizes, self.split, length, targets, tower=False)
        return one * counts.conversations + (0 if self.cached else self.sizes.tower_flop * counts.images)

    def mfu(self, counts: Counts, seconds: float) -> float:
        """Model FLOPs utilisation of a step, from 0 to 1.

        Source: PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
        """
        return self.flop(counts) / (seconds * self.peak * self.split.world)


def speed_of(model: Any, precision: str, cached: bool, world: int) -> Speed | None:
    """The speed to compare a training with; None where no datasheet states that of this machine's devices.

    Args:
        model: what is trained, with ``requires_grad`` as it will be.
        precision: bf16 or fp32; datasheets are read for bf16 only.
        cached: whether the tower's features come from the cache.
        world: devices.
    """
    peak = find_device("").peak if torch.cuda.is_available() and precision == "bf16" else None
    if peak is None:
        return None
    return Speed(sizes=_sizes(model), split=_split(model, precision, world), peak=peak, cached=cached)


def _sizes(model: Any) -> Sizes:
    config = model.config
    return sizes_of(Parts(vision=config.vision_config, text=config.text_config, processor=None))


def _split(model: Any, precision: str, world: int) -> Split:
    """Adapters are so small beside the language model that their weights' gradients count as none."""
    words = [(weight.numel(), weight.requires_grad) for name, weight in model.named_parameters() if "language" in name]
    learns = 2 * sum(size for size, trained in words if trained) > sum(size for size, _ in words)
    stage = "finetune" if learns else "pretrain"
    return Split(stage=stage, world=world, zero=0, precision=precision, recomputed=0.0)
