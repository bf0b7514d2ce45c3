"""Conversations end to end in rows without padding, planned for one optimiser step at a time.

Which conversations a step has is ``Plan``'s to say, as without packing, so the result of training is the same.  How
many rows they fill depends on their lengths; every rank works it out for all ranks, and all of them get as many.
"""

import heapq
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.samples import Plan, Samples


@dataclass(frozen=True)
class Budget:
    """What one pack may hold; every conversation has exactly one image."""

    tokens: int
    """Tokens, those of the images included."""
    images: int = 0
    """Images; 0 for as many as the tokens leave room for."""


def share_out(lengths: Sequence[int], budget: Budget, world: int) -> list[list[int]]:
    """Put conversations into packs of about one length, in few packs, as many for each rank.

    The longest first, each into the pack that is emptiest; where a pack would hold too much, again with one more a
    rank.

    Args:
        lengths: tokens of each conversation.
        budget: of one pack.
        world: ranks.

    Returns:
        The places in ``lengths`` of each pack's conversations: a multiple of ``world`` of packs, rank ``r`` has those
        at ``r``, ``r + world`` and so on.  The fullest come first; the last are empty where there are too few
        conversations for all ranks.

    Raises:
        ConfigError: one conversation alone is longer than a pack may be.
    """
    if max(lengths) > budget.tokens:
        what = f"pack_tokens is {budget.tokens}, and a conversation takes {max(lengths)} tokens"
        raise ConfigError(what, "--set pack_tokens=N with N at least max_length")
    most = budget.images or len(lengths)
    least = max(-(-sum(lengths) // budget.tokens), -(-len(lengths) // most))
    longest_first = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    each = -(-least // world)
    while (packs := _placed(longest_first, lengths, budget.tokens, most, each * world)) is None:
        each += 1
    return packs


def _placed(
    order: Sequence[int], lengths: Sequence[int], tokens: int, images: int, count: int
) -> list[list[int]] | None:
    """``count`` packs, or None where so few do not do."""
    packs: list[list[int]] = [[] for _ in range(count)]
    room = [(0, number) for number in range(count)]  # tokens and number of every pack that may get more images
    for place in order:
        if not room:
            return None
        load, number = heapq.heappop(room)
        if load + lengths[place] > tokens:
            return None
        packs[number].append(place)
        if len(packs[number]) < images:
            heapq.heappush(room, (load + lengths[place], number))
    return sorted(packs, key=lambda pack: -sum(lengths[place] for place in pack))


class PackedSteps(torch.utils.data.Dataset):
    """Whole optimiser steps, each a list of this rank's packs.

    One item is one step, and not one pack, because a run goes on after so many steps, whatever they were made of.
    """

    def __init__(self, samples: Samples, plan: Plan, budget: Budget) -> None:
        self.samples, self.plan, self.budget = samples, plan, budget

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> list[dict[str, Any]]:
        """The packs of a step, as many on every rank.

        Raises:
            DataError: a conversation cannot be learnt from, or its figure cannot be decoded.
            ConfigError: a conversation is longer than a pack may be.
        """
        rows = self.plan.step(step).tolist()
        lengths = [self.samples.length(row) for row in rows]
        packs = share_out(lengths, self.budget, self.plan.world)[self.plan.rank :: self.plan.world]
        silent = ~rows[lengths.index(min(lengths))]  # without targets, see Plan
        return [
            self.samples.pack([self.samples[rows[place]] for place in sorted(pack)] or [self.samples[silent]])
            for pack in packs
        ]

    def loader(self, num_workers: int, pin_memory: bool) -> DataLoader:
        """The steps in order.

        Args:
            num_workers: processes that prepare steps, each one ahead: all images of a step lie in memory together.
            pin_memory: copy the tensors to where a GPU can fetch them from by itself.
        """
        ahead = 1 if num_workers else None
        return DataLoader(
            self, batch_size=1, collate_fn=_only, num_workers=num_workers, prefetch_factor=ahead, pin_memory=pin_memory
        )


def _only(items: list[Any]) -> Any:
    (item,) = items
    return item


class PackedPasses:
    """The part of a ``Trainer`` that takes a step's packs one after the other, however many they are.

    ``Trainer`` knows one number of micro-batches for all steps.  So a step of packs is one micro-batch to it, a list.
    """

    accelerator: Any
    args: Any
    is_deepspeed_enabled: Any

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As ``Trainer``: forward and backward; gradients are exchanged with the other ranks after the last pack."""
        stock: Any = super()
        if not isinstance(inputs, list):
            return stock.training_step(model, inputs, num_items_in_batch)
        losses = []
        for number, pack in enumerate(inputs, start=1):
            last = number == len(inputs)
            self.accelerator.gradient_state._set_sync_gradients(last)
            alone = not last and not self.is_deepspeed_enabled  # DeepSpeed goes by the line above
            with self.accelerator.no_sync(model) if alone else nullcontext():
                losses.append(stock.training_step(model, pack, num_items_in_batch))
        return torch.stack(losses).sum()

    def _prepare_input(self, data: Any) -> Any:
        """As ``Trainer``; what is pinned goes to the GPU without a wait, and pixels as the bytes they are."""
        stock: Any = super()
        if isinstance(data, torch.Tensor) and self.args.device.type == "cuda" and data.is_pinned():
            data = data.to(self.args.device, non_blocking=True)
        return stock._prepare_input(data)
