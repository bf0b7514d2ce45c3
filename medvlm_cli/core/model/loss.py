"""Cross entropy at target positions, in float32, with little more memory than the logits in their own precision.

PyTorch's keeps float32 copies of the logits, of their logarithms and of their gradient at the same time.  Here they are
made for some positions after the other, and only the logits and their gradient, in their own dtype, are whole.  Both
are operators of PyTorch, so that tracing, which knows no number of targets, sees their shapes.

Legend: B rows, L tokens of a row, N targets, H width of the language model, V words of the vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch

IGNORED = -100
AT_ONCE = 1 << 24
"""Logits that are in float32 at the same time: 64 MiB of them."""


def target_loss(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    labels: torch.Tensor,
    items: int | torch.Tensor | None,
) -> torch.Tensor:
    """Cross entropy where there is a target; 0, with a gradient, where there is none.

    Args:
        head: ``(N, H)`` to logits ``(N, V)``; called once.
        hidden: ``(B, L, H)``.
        labels: int64 ``(B, L)``, the token at each place, or -100; the state before it predicts it.
        items: what the sum over the targets is divided by; None takes their number.

    Returns:
        In nats, float32, of no dimension.
    """
    targets = labels[:, 1:].to(hidden.device)
    learned = targets != IGNORED
    total, _ = _summed(head(hidden[:, :-1][learned]), targets[learned])
    return total / (max(int(learned.sum()), 1) if items is None else items)


@torch.library.custom_op("medvlm::cross_entropy_sum", mutates_args=())
def _summed(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over N targets, and the logarithm of each one's normaliser ``(N,)``.

    Args:
        logits: ``(N, V)``.
        targets: int64 ``(N,)``.
    """
    size = max(1, AT_ONCE // logits.shape[1])
    norms, found = [], []
    for part, right in zip(logits.split(size), targets.split(size), strict=True):
        wide = part.float()
        norms.append(wide.logsumexp(1))
        found.append(wide.gather(1, right[:, None])[:, 0])
    norm = torch.cat(norms)
    return (norm - torch.cat(found)).sum(), norm


@torch.library.custom_op("medvlm::cross_entropy_sum_gradient", mutates_args=())
def _gradient(logits: torch.Tensor, targets: torch.Tensor, norm: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Gradient for the logits ``(N, V)``, in their dtype; ``scale`` is that of the sum."""
    size = max(1, AT_ONCE // logits.shape[1])
    out = torch.empty_like(logits)
    parts = zip(*(whole.split(size) for whole in (out, logits, targets, norm)), strict=True)
    for part, logit, right, of in parts:
        wide = (logit.float() - of[:, None]).exp_()
        wide.scatter_add_(1, right[:, None], wide.new_full((len(right), 1), -1.0))
        part.copy_(wide.mul_(scale))
    return out


@_summed.register_fake
def _(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shapes: tuple[Any, Any] = ((), logits.shape[:1])
    total, norm = (logits.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return total, norm


@_gradient.register_fake
def _(logits: torch.Tensor, targets: torch.Tensor, norm: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, total: torch.Tensor, norm: torch.Tensor) -> tuple[torch.Tensor, None]:
    return _gradient(*ctx.saved_tensors, total), None


_summed.register_autograd(_backward, setup_context=_keep)
