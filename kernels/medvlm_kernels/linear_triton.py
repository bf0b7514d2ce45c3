"""``reference.linear_quick_gelu`` and ``reference.linear_add``: products that are written once, and finished.

One kernel for both, persistent, fed by the tensor memory accelerator.  What it saves over a product and a pass after
it is the traffic of that pass.

Legend: R rows, I columns that go in, O columns that come out.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from medvlm_kernels.reference import QUICK_GELU

ALIGNED = 8
"""I and O come in multiples of this: the accelerator reads rows that start at multiples of 16 bytes."""

GROUP = 8
"""Blocks of rows that are walked together, column of blocks by column of blocks, so that L2 still holds the weights."""

INTERPRETED = 4
"""Programs in the interpreter, which has no multiprocessors: few, so that each does several blocks."""


class Blocks(NamedTuple):
    """Sizes of one program's work."""

    rows: int
    outs: int
    ins: int
    stages: int
    warps: int


LARGE = Blocks(rows=128, outs=256, ins=64, stages=4, warps=8)
"""The least reading: a block of rows and of weights, 48 KB, for every 4.2 million multiplications and additions."""

SMALL = Blocks(rows=128, outs=128, ins=64, stages=4, warps=8)
"""A third more reading for the same work, and twice as many blocks: for few rows, which leave programs idle."""


def linear_quick_gelu_triton(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``y * sigmoid(1.702 y)`` of ``y = rows @ weight.T + bias``; see ``reference.linear_quick_gelu``.

    Args:
        rows: ``(R, I)`` float16 or bfloat16, I a multiple of ``ALIGNED``.
        weight: ``(O, I)`` in the dtype of ``rows``, O a multiple of ``ALIGNED``.
        bias: ``(O)`` in any floating dtype.

    Returns:
        ``(R, O)`` in the dtype of ``rows``; nothing is rounded between the product and the end, in float32.

    Raises:
        ValueError: the shapes do not fit together or to ``ALIGNED``, or a type is another.
    """
    _check(rows, weight)
    if bias.shape != weight.shape[:1] or not bias.is_floating_point():
        raise ValueError(f"the bias is {tuple(bias.shape)} {bias.dtype}: give ({len(weight)},) of a floating type")
    return _linear_quick_gelu(rows, weight, bias)


def linear_add_triton(rows: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """``residual + rows @ weight.T``; see ``reference.linear_add``.

    Args:
        rows: ``(R, I)`` float16 or bfloat16, I a multiple of ``ALIGNED``.
        weight: ``(O, I)`` in the dtype of ``rows``, O a multiple of ``ALIGNED``.
        residual: ``(R, O)`` in the dtype of ``rows``, not changed.

    Returns:
        ``(R, O)`` in the dtype of ``rows``; nothing is rounded between the product and the end, in float32.

    Raises:
        ValueError: the shapes do not fit together or to ``ALIGNED``, or a type is another.
    """
    _check(rows, weight)
    if residual.shape != (len(rows), len(weight)) or residual.dtype != rows.dtype:
        shape = tuple(residual.shape)
        raise ValueError(f"the residual is {shape} {residual.dtype}: give ({len(rows)}, {len(weight)}) {rows.dtype}")
    return _linear_add(rows, weight, residual)


def _check(rows: torch.Tensor, weight: torch.Tensor) -> None:
    if rows.ndim != 2 or weight.ndim != 2 or rows.shape[1] != weight.shape[1]:
        raise ValueError(f"rows {tuple(rows.shape)} do not fit weights {tuple(weight.shape)}: give (R, I) and (O, I)")
    if rows.dtype not in (torch.float16, torch.bfloat16) or weight.dtype != rows.dtype:
        raise ValueError(f"rows are {rows.dtype}, weights {weight.dtype}: give both in float16 or both in bfloat16")
    if any(size % ALIGNED or not size for size in weight.shape):
        raise ValueError(f"weights are {tuple(weight.shape)}: both sizes must be multiples of {ALIGNED}")


@torch.library.custom_op("medvlm::linear_quick_gelu", mutates_args=())
def _linear_quick_gelu(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return _launch(rows, weight, bias.contiguous(), slope=QUICK_GELU)


@torch.library.custom_op("medvlm::linear_add", mutates_args=())
def _linear_add(rows: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return _launch(rows, weight, residual.contiguous(), slope=None)


@_linear_quick_gelu.register_fake
@_linear_add.register_fake
def _(rows: torch.Tensor, weight: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


def choose(rows: int, outs: int, programs: int) -> Blocks:
    """The blocks with which a device is done first.

    The program with the most blocks is the last to end, so the time goes by the number of waves and by the size of a
    block.  Small blocks are taken only where they need less than three quarters of the time of large ones if both went
    equally fast, because they read a third more.  This is reasoned, not measured.  With 132 programs and 1280 columns,
    one tile of 730 rows makes 30 large blocks or 60 small ones, one wave either way, and small ones are taken; 14 tiles
    make 400 large ones in 4 waves that are filled to 76 %, or 800 small ones in 7 waves, an eighth less and not enough;
    32 tiles fill the waves of large blocks to 99 %.
    """
    large, small = (
        triton.cdiv(triton.cdiv(rows, blocks.rows) * triton.cdiv(outs, blocks.outs), programs) * blocks.outs
        for blocks in (LARGE, SMALL)
    )
    return SMALL if 4 * small < 3 * large else LARGE


def _launch(rows: torch.Tensor, weight: torch.Tensor, last: torch.Tensor, slope: float | None) -> torch.Tensor:
    rows, weight = _aligned(rows), _aligned(weight)
    (count, ins), outs = rows.shape, len(weight)
    out = rows.new_empty(count, outs)
    if not count:
        return out
    programs = INTERPRETED
    if rows.is_cuda:
        programs = torch.cuda.get_device_properties(rows.device).multi_processor_count
    blocks = choose(count, outs, programs)
    total = triton.cdiv(count, blocks.rows) * triton.cdiv(outs, blocks.outs)
    _linear_kernel[(min(programs, total),)](
        TensorDescriptor.from_tensor(rows, [blocks.rows, blocks.ins]),
        TensorDescriptor.from_tensor(weight, [blocks.outs, blocks.ins]),
        last,
        TensorDescriptor.from_tensor(out, [blocks.rows, blocks.outs // 4]),
        count,
        OUTS=outs,
        INS=ins,
        BLOCK_ROWS=blocks.rows,
        BLOCK_OUTS=blocks.outs,
        BLOCK_INS=blocks.ins,
        GROUP=GROUP,
        SLOPE=slope,
        UP=not rows.is_cuda,
        num_stages=blocks.stages,
        num_warps=blocks.warps,
        enable_fp_fusion=True,
    )
    return out


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous from an address that the accelerator can read; a slice of another tensor may start anywhere."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


@triton.jit
def _linear_kernel(  # noqa: PLR0913  a kernel has no other way to be told
    rows: tl.tensor_descriptor,
    weight: tl.tensor_descriptor,
    last: tl.tensor,  # the bias if there is a SLOPE, or else the residual
    out: tl.tensor_descriptor,
    count: tl.tensor,
    OUTS: tl.constexpr,
    INS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTS: tl.constexpr,
    BLOCK_INS: tl.constexpr,
    GROUP: tl.constexpr,
    SLOPE: tl.constexpr,
    UP: tl.constexpr,
) -> None:
    PART: tl.constexpr = BLOCK_OUTS // 4
    across: tl.constexpr = (OUTS + BLOCK_OUTS - 1) // BLOCK_OUTS
    down = tl.cdiv(count, BLOCK_ROWS)
    for block in tl.range(tl.program_id(0), down * across, tl.num_programs(0), flatten=True):
        first = block // (GROUP * across) * GROUP
        deep = tl.minimum(down - first, GROUP)
        row = (first + block % (GROUP * across) % deep) * BLOCK_ROWS
        column = block % (GROUP * across) // deep * BLOCK_OUTS
        total = tl.zeros((BLOCK_ROWS, BLOCK_OUTS), tl.float32)
        for start in tl.range(0, INS, BLOCK_INS):
            left, right = rows.load([row, start]), weight.load([column, start])
            if UP:  # the interpreter multiplies the bits of bfloat16 numbers as if they were integers
                left, right = left.to(tl.float32), right.to(tl.float32)
            total = tl.dot(left, right.T, total)
        # In four parts: beside the operands there is no room in shared memory for more.
        parts = _split(total)
        if SLOPE is None:  # all four are asked for at once, so that their way from memory is waited for once
            residuals = (
                _residual(last, count, row, column, OUTS, BLOCK_ROWS, PART),
                _residual(last, count, row, column + PART, OUTS, BLOCK_ROWS, PART),
                _residual(last, count, row, column + 2 * PART, OUTS, BLOCK_ROWS, PART),
                _residual(last, count, row, column + 3 * PART, OUTS, BLOCK_ROWS, PART),
            )
        for part in tl.static_range(4):
            start = column + part * PART
            if SLOPE is not None:
                places = start + tl.arange(0, PART)
                y = parts[part] + tl.load(last + places, mask=places < OUTS, other=0.0).to(tl.float32)[None, :]
                y = y / (1 + tl.exp(-SLOPE * y))
            else:
                y = parts[part] + residuals[part].to(tl.float32)
            out.store([row, start], y.to(out.dtype))


@triton.jit
def _split(total: tl.tensor) -> tuple[tl.tensor, ...]:
    """The four quarters of the columns, from left to right."""
    ROWS: tl.constexpr = total.shape[0]
    QUARTER: tl.constexpr = total.shape[1] // 4
    left, right = tl.split(tl.permute(tl.reshape(total, (ROWS, 2, 2 * QUARTER)), (0, 2, 1)))
    a, b = tl.split(tl.permute(tl.reshape(left, (ROWS, 2, QUARTER)), (0, 2, 1)))
    c, d = tl.split(tl.permute(tl.reshape(right, (ROWS, 2, QUARTER)), (0, 2, 1)))
    return a, b, c, d


@triton.jit
def _residual(
    residual: tl.tensor,
    count: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    OUTS: tl.constexpr,
    ROWS: tl.constexpr,
    PART: tl.constexpr,
) -> tl.tensor:
    down, across = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, PART)[None, :]
    inside = (down < count) & (across < OUTS)
    return tl.load(residual + down.to(tl.int64) * OUTS + across, mask=inside, other=0.0)
