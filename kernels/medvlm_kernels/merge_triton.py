"""``reference.merge`` in one launch for all scales.

Legend: B figures, N tiles of a figure (all scales), K tiles along one side of a figure at one scale, S patches along
the side of a tile, T = S * S tokens, C channels, U tiles in any number.
"""

import torch
import triton
import triton.language as tl

BLOCKS = (4, 256)
"""Tokens and channels of one program.  One warp has one token and each lane 16 bytes of it (2-byte numbers)."""

WARPS = 4


def merge_triton(
    tiles: torch.Tensor, places: torch.Tensor, factors: tuple[int, ...], shift: torch.Tensor | None = None
) -> torch.Tensor:
    """Sew tiles together, average them down and join the scales; see ``reference.merge``.

    Args:
        tiles: ``(U, T, C)`` float16, bfloat16 or float32, tokens of tiles.
        places: ``(B, N)`` int64, which of ``tiles`` lies where, in the order of ``patchify``.  Not checked against U:
            that would wait for the device.
        factors: K of each scale.
        shift: ``(C)`` float32, added to every token; None for nothing.

    Returns:
        ``(B, T, len(factors) * C)`` in the dtype of ``tiles``; averaged in float32.

    Raises:
        ValueError: T is not a square, or a tensor has another shape or type.
    """
    if tiles.ndim != 3 or round(tiles.shape[1] ** 0.5) ** 2 != tiles.shape[1]:
        raise ValueError(f"tiles are {tuple(tiles.shape)}: give (tiles, tokens, channels), the tokens a square number")
    if tiles.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"tiles are {tiles.dtype}: give float16, bfloat16 or float32")
    count = sum(factor**2 for factor in factors)
    if places.ndim != 2 or places.shape[1] != count or places.dtype != torch.int64:
        shape = tuple(places.shape)
        raise ValueError(f"places are {shape} {places.dtype}: factors {factors} ask for (figures, {count}) torch.int64")
    if shift is not None and (shift.shape != tiles.shape[2:] or shift.dtype != torch.float32):
        raise ValueError(f"the shift is {tuple(shift.shape)} {shift.dtype}: give ({tiles.shape[2]},) torch.float32")
    return _merge(tiles, places, factors, shift)


@torch.library.custom_op("medvlm::merge", mutates_args=())
def _merge(tiles: torch.Tensor, places: torch.Tensor, factors: list[int], shift: torch.Tensor | None) -> torch.Tensor:
    tiles, places = tiles.contiguous(), places.contiguous()
    (figures, count), (_, tokens, channels) = places.shape, tiles.shape
    out = tiles.new_empty(figures, tokens, len(factors) * channels)
    if not out.numel():
        return out
    block, width = BLOCKS
    _merge_kernel[(triton.cdiv(figures * tokens, block), triton.cdiv(channels, width))](
        tiles,
        places,
        places if shift is None else shift.contiguous(),  # a pointer that is not read
        out,
        figures * tokens,
        TILES=count,
        SIDE=round(tokens**0.5),
        CHANNELS=channels,
        FACTORS=tuple(factors),
        SHIFTED=shift is not None,
        TOKENS=block,
        WIDTH=width,
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
    return out


@_merge.register_fake
def _(tiles: torch.Tensor, places: torch.Tensor, factors: list[int], shift: torch.Tensor | None) -> torch.Tensor:
    return tiles.new_empty(places.shape[0], tiles.shape[1], len(factors) * tiles.shape[2])


@triton.jit
def _merge_kernel(  # noqa: PLR0913  a kernel has no other way to be told
    tiles: tl.tensor,
    places: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    TILES: tl.constexpr,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    FACTORS: tl.constexpr,
    SHIFTED: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)  # over all figures
    column = (tl.program_id(1) * WIDTH + tl.arange(0, WIDTH))[None, :]
    known = token < count
    inside = known[:, None] & (column < CHANNELS)
    figure, cell = token // (SIDE * SIDE), token % (SIDE * SIDE)
    start = token.to(tl.int64)[:, None] * (len(FACTORS) * CHANNELS)
    added = tl.zeros(column.shape, tl.float32)
    if SHIFTED:
        added = tl.load(shift + column, mask=column < CHANNELS, other=0.0)
    done = 0
    for scale in tl.static_range(len(FACTORS)):
        tile = places + figure * TILES + done
        mean = _mean(tiles, tile, cell, column, known, inside, SIDE, CHANNELS, FACTORS[scale])
        tl.store(out + start + scale * CHANNELS + column, (mean + added).to(out.dtype.element_ty), mask=inside)
        done += FACTORS[scale] * FACTORS[scale]


@triton.jit
def _mean(  # noqa: PLR0913
    tiles: tl.tensor,
    tile: tl.tensor,
    cell: tl.tensor,
    column: tl.tensor,
    known: tl.tensor,
    inside: tl.tensor,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    FACTOR: tl.constexpr,
) -> tl.tensor:
    """Mean of the FACTOR * FACTOR tokens that make one; they may lie in one tile, in two or in four."""
    total = tl.zeros(inside.shape, tl.float32)
    for part in tl.static_range(FACTOR * FACTOR):
        y = cell // SIDE * FACTOR + part // FACTOR  # in the sewn grid, FACTOR * SIDE tokens along a side
        x = cell % SIDE * FACTOR + part % FACTOR
        chosen = tl.load(tile + y // SIDE * FACTOR + x // SIDE, mask=known, other=0)
        source = (chosen * (SIDE * SIDE) + y % SIDE * SIDE + x % SIDE) * CHANNELS
        total += tl.load(tiles + source[:, None] + column, mask=inside, other=0.0).to(tl.float32)
    return total / (FACTOR * FACTOR)
