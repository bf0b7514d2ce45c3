"""``reference.normalise`` in one pass over the rows.

Legend: R rows, C channels.
"""

import torch
import triton
import triton.language as tl

WIDEST = 8192
"""Most channels; a row lives in registers, and beyond this it would not."""

LANE = 64
"""Most numbers of a row that one lane holds, so that nothing spills; wider rows get more warps."""

RUN = 4
"""Rows one program does after another; a program per row would spend longer starting than working."""


DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def normalise_triton(
    hidden: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Layer norm of rows to which something is still to be added; see ``reference.normalise``.

    Args:
        hidden: ``(R, C)`` float16, bfloat16 or float32, C from 1 to ``WIDEST``.
        shift: ``(C)`` float32, added to every row first.
        weight: ``(C)`` float16, bfloat16 or float32, times the rows once they have mean 0 and variance 1.
        bias: ``(C)`` float16, bfloat16 or float32, added to that.
        eps: added to the variance.

    Returns:
        ``(R, C)`` in the dtype of ``hidden``; computed in float32 and rounded once.

    Raises:
        ValueError: a tensor has another shape or type.
    """
    if hidden.ndim != 2 or not 1 <= hidden.shape[1] <= WIDEST:
        raise ValueError(f"hidden states are {tuple(hidden.shape)}: give rows of 1 to {WIDEST} channels")
    if hidden.dtype not in DTYPES:
        raise ValueError(f"hidden states are {hidden.dtype}: give float16, bfloat16 or float32")
    for name, vector, dtypes in (("shift", shift, DTYPES[-1:]), ("weight", weight, DTYPES), ("bias", bias, DTYPES)):
        if vector.shape != hidden.shape[1:] or vector.dtype not in dtypes:
            known = " or ".join(str(dtype) for dtype in dtypes)
            raise ValueError(f"the {name} is {tuple(vector.shape)} {vector.dtype}: give ({hidden.shape[1]},) {known}")
    return _normalise(hidden, shift, weight, bias, eps)


@torch.library.custom_op("medvlm::normalise", mutates_args=())
def _normalise(
    hidden: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    hidden = hidden.contiguous()
    out = torch.empty_like(hidden)
    rows, channels = hidden.shape
    if not rows:
        return out
    block = triton.next_power_of_2(channels)
    _normalise_kernel[(triton.cdiv(rows, RUN),)](
        hidden,
        shift.contiguous(),
        weight.contiguous(),
        bias.contiguous(),
        out,
        rows,
        eps,
        CHANNELS=channels,
        BLOCK=block,
        RUN=RUN,
        num_warps=max(1, block // (32 * LANE)),
        enable_fp_fusion=True,
    )
    return out


@_normalise.register_fake
def _(hidden: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return hidden.new_empty(hidden.shape)


@triton.jit
def _normalise_kernel(  # noqa: PLR0913  a kernel has no other way to be told
    hidden: tl.tensor,
    shift: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    eps: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
) -> None:
    columns = tl.arange(0, BLOCK)
    inside = columns < CHANNELS
    first = tl.program_id(0) * RUN
    for row in range(first, tl.minimum(first + RUN, rows)):
        # What all rows share is read again for every row, out of L1: kept, it would take half of the registers.
        start = tl.cast(row, tl.int64) * CHANNELS
        wide = tl.load(hidden + start + columns, mask=inside, other=0.0).to(tl.float32)
        wide += tl.load(shift + columns, mask=inside, other=0.0)
        away = tl.where(inside, wide - tl.sum(wide) / CHANNELS, 0.0)
        away *= tl.rsqrt(tl.sum(away * away) / CHANNELS + eps)
        away *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
        away += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + start + columns, away.to(out.dtype.element_ty), mask=inside)
