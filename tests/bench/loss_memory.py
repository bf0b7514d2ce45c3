"""Peak memory of the loss at a vocabulary of 128,256 words, forward and backward, beside that of full logits.

``python tests/bench/loss_memory.py``: both take the same hidden states in one process, allocations counted by PyTorch's
profiler.  Ours is the model's own: the head runs at target positions only, conversations packed.  The peer is stock
LLaVA's: logits at every position of the padded batch, then transformers' loss for causal language models.

Lengths are the design's for the published model (729 tokens of an image, then captions of about 56 tokens with 50
targets, or about 321 with 280), drawn from log-normal distributions around them (sigma 0.5).  The hidden states are
narrower than a real model's, which changes neither; weights, and the gradient of the head's, are not counted.
"""

import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers.loss.loss_utils import ForCausalLMLoss

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medvlm_cli.core.model.vlm import MedVLMForConditionalGeneration
from medvlm_cli.core.prompts import IGNORED

WORDS, WIDTH, IMAGE = 128_256, 64, 729
STAGES = {"pretrain": (56, 50), "finetune": (321, 280)}
"""Tokens beside the image's, and targets of them: means."""
CONVERSATIONS = 4


def conversations(stage: str) -> list[list[int]]:
    """Labels of each conversation; the targets are its last tokens."""
    text, targets = STAGES[stage]
    draw, made = np.random.default_rng(0), []
    for scale in draw.lognormal(-0.125, 0.5, CONVERSATIONS):  # mean 1
        ignored, learnt = IMAGE + text - targets, max(1, round(targets * scale))
        made.append([IGNORED] * ignored + draw.integers(0, WORDS, learnt).tolist())
    return made


def padded(rows: Sequence[list[int]]) -> torch.Tensor:
    """int64 ``(B, L)``."""
    longest = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])


def packed(rows: Sequence[list[int]]) -> torch.Tensor:
    """int64 ``(1, L)``."""
    return torch.tensor([[label for row in rows for label in row]])


def peak(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], hidden: torch.Tensor, labels: torch.Tensor) -> Any:
    """Bytes allocated at once between the hidden states and their gradient, and the loss."""
    states = hidden.clone().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        value = loss(states, labels)
        value.backward()
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    sizes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]
    return int(np.cumsum(sizes).max()), value.item()


def main() -> None:
    """Print a line a stage, and the ratios as the last one."""
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, WORDS, bias=False).bfloat16().requires_grad_(False)
    model: Any = types.SimpleNamespace(lm_head=head)
    ratios = []
    for stage in STAGES:
        rows = conversations(stage)
        targets = sum(label != IGNORED for row in rows for label in row)

        def ours(states: torch.Tensor, labels: torch.Tensor, items: int = targets) -> torch.Tensor:
            return MedVLMForConditionalGeneration._loss(model, states, labels, items)

        def stock(states: torch.Tensor, labels: torch.Tensor, items: int = targets) -> torch.Tensor:
            return ForCausalLMLoss(head(states), labels, WORDS, num_items_in_batch=torch.tensor(items))

        wide, flat = padded(rows), packed(rows)
        hidden = torch.randn(*wide.shape, WIDTH).bfloat16()
        end_to_end = torch.cat([line[: len(row)] for line, row in zip(hidden, rows, strict=True)])[None]
        full, value = peak(stock, hidden, wide)
        own, same = peak(ours, end_to_end, flat)
        ratios.append(f"{stage} 1/{full / own:.1f}")
        print(
            f"{stage}: {targets:,} targets of {flat.numel():,} tokens, {wide.numel():,} padded; full logits"
            f" {full / 1e6:,.0f} MB, loss {value:.5f}; ours {own / 1e6:,.0f} MB, loss {same:.5f}"
        )
    print("peak memory of our loss beside that of full logits:", ", ".join(ratios))


if __name__ == "__main__":
    main()
