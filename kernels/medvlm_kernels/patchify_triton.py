"""``reference.patchify`` without a float image: every number of a patch is worked out from the bytes that it needs.

Legend: B figures, N tiles of a figure (all scales), K tiles along one side of a figure at one scale, M the largest K, Z
pixels along the side of the figure, P of a tile, T patches of a tile, W columns of a patch matrix.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from medvlm_kernels.geometry import Geometry
from medvlm_kernels.reference import check_images

BLOCK = 512
"""Numbers of one program, consecutive in memory across columns and patches: no lane idles at the end of a row."""

WARPS = 2
"""Warps where a number is one byte of the figure: a lane has 8 numbers, one store of 16 bytes."""

WARPS_BICUBIC = 4
"""Warps where a number is a sum over 16 bytes: with 8 numbers a lane would need more than 200 registers."""

FARTHEST = 2**31 - 1
"""Most bytes between the first and the last number of one figure: they are counted in 32 bits."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def patchify_triton(
    images: torch.Tensor, geometry: Geometry, centre: tuple[int, int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Figures as the patches of all tiles at all scales; see ``reference.patchify``.

    Args:
        images: ``(B, 3, Z, Z)`` uint8, Z = ``geometry.size``, with any strides.
        geometry: sizes and scales, ``antialias`` off.
        centre: subtracted from each channel, from 0 to 255.
        dtype: of the patches: float16, bfloat16 or float32.

    Returns:
        ``(B, N, T, W)``; resized in float32, never clamped.

    Raises:
        ValueError: the images have another size or type, ``geometry`` asks for antialiasing, or ``dtype`` is another.
    """
    check_images(images, geometry)
    if geometry.antialias:
        raise ValueError("the patchify kernel does not average when it reduces: use reference.patchify for antialias")
    if dtype not in DTYPES:
        raise ValueError(f"patches of {dtype} are not written: ask for float16, bfloat16 or float32")
    return _patchify(images, geometry.tile, geometry.patch, geometry.factors, centre, dtype)


@torch.library.custom_op("medvlm::patchify", mutates_args=())
def _patchify(
    images: torch.Tensor, tile: int, patch: int, factors: Sequence[int], centre: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    geometry = Geometry(tile, patch, tuple(factors))
    patches = _empty(images, geometry, dtype)
    if sum(stride * (size - 1) for stride, size in zip(images.stride()[1:], images.shape[1:], strict=True)) > FARTHEST:
        images = images.contiguous()
    done, most = 0, max(factors)
    for factor in geometry.factors:
        ratio = most // factor if most % factor == 0 and most // factor % 2 else 0
        tiles = len(images) * factor**2
        if tiles:
            _patchify_kernel[(tiles, triton.cdiv(geometry.tokens * geometry.width, BLOCK))](
                images,
                patches,
                *images.stride(),
                *centre,
                DONE=done,
                TILES=geometry.tiles,
                FACTOR=factor,
                MOST=most,
                RATIO=ratio,
                TILE=tile,
                PATCH=patch,
                WIDTH=geometry.width,
                BLOCK=BLOCK,
                num_warps=WARPS if ratio else WARPS_BICUBIC,
                enable_fp_fusion=True,
            )
        done += factor**2
    return patches


@_patchify.register_fake
def _(
    images: torch.Tensor, tile: int, patch: int, factors: Sequence[int], centre: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    return _empty(images, Geometry(tile, patch, tuple(factors)), dtype)


def _empty(images: torch.Tensor, geometry: Geometry, dtype: torch.dtype) -> torch.Tensor:
    return images.new_empty(images.shape[0], geometry.tiles, geometry.tokens, geometry.width, dtype=dtype)


@triton.jit
def _patchify_kernel(  # noqa: PLR0913  a kernel has no other way to be told
    images: tl.tensor,
    patches: tl.tensor,
    figure_stride: tl.tensor,
    channel_stride: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    red: tl.tensor,
    green: tl.tensor,
    blue: tl.tensor,
    DONE: tl.constexpr,
    TILES: tl.constexpr,
    FACTOR: tl.constexpr,
    MOST: tl.constexpr,
    RATIO: tl.constexpr,
    TILE: tl.constexpr,
    PATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    SIDE: tl.constexpr = TILE // PATCH
    SIZE: tl.constexpr = TILE * MOST
    NUMBERS: tl.constexpr = SIDE * SIDE * WIDTH
    figure, tile = tl.program_id(0) // (FACTOR * FACTOR), tl.program_id(0) % (FACTOR * FACTOR)
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    cell, column = number // WIDTH, number % WIDTH
    channel, within = column // (PATCH * PATCH), column % (PATCH * PATCH)
    y = tile // FACTOR * TILE + cell // SIDE * PATCH + within // PATCH  # in the view of this scale
    x = tile % FACTOR * TILE + cell % SIDE * PATCH + within % PATCH
    wanted = (number < NUMBERS) & (channel < 3)
    source = images + figure.to(tl.int64) * figure_stride + channel * channel_stride
    centre = tl.where(channel == 0, red, tl.where(channel == 1, green, blue))
    if RATIO:  # odd and whole, so the source coordinate is a whole number: that pixel, and no other
        row, place = y * RATIO + RATIO // 2, x * RATIO + RATIO // 2
        value = _centred(source, row * row_stride + place * column_stride, wanted, centre)
    else:
        row, above, upper, lower, below = _taps(y, MOST, FACTOR)
        place, before, left, right, after = _taps(x, MOST, FACTOR)
        value = tl.zeros((BLOCK,), tl.float32)
        for step in tl.static_range(4):
            line = tl.minimum(tl.maximum(row + step - 1, 0), SIZE - 1) * row_stride
            total = tl.zeros((BLOCK,), tl.float32)
            for tap in tl.static_range(4):
                spot = tl.minimum(tl.maximum(place + tap - 1, 0), SIZE - 1) * column_stride
                weight = before if tap == 0 else (left if tap == 1 else (right if tap == 2 else after))
                total += weight * _centred(source, line + spot, wanted, centre)
            value += (above if step == 0 else (upper if step == 1 else (lower if step == 2 else below))) * total
    value = tl.where(channel < 3, value, 0.0)
    start = (figure.to(tl.int64) * TILES + DONE + tile) * NUMBERS
    tl.store(patches + start + number, value.to(patches.dtype.element_ty), mask=number < NUMBERS)


@triton.jit
def _centred(source: tl.tensor, offset: tl.tensor, wanted: tl.tensor, centre: tl.tensor) -> tl.tensor:
    pixel = tl.load(source + offset, mask=wanted, other=0)
    return (pixel.to(tl.int32) - centre).to(tl.float32)


@triton.jit
def _taps(place: tl.tensor, MOST: tl.constexpr, FACTOR: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Source pixel and the weights of it, of the one before and of the two after.

    The source coordinate (place + 0.5) * MOST / FACTOR - 0.5 is a fraction over 2 * FACTOR, so its whole part is exact
    and what remains is rounded once.  Weights of Keys' cubic convolution with a = -0.75.
    """
    twice = (2 * place + 1) * MOST - FACTOR
    whole = twice // (2 * FACTOR)
    t = (twice % (2 * FACTOR)).to(tl.float32) / (2 * FACTOR)
    return whole, _far(t + 1), _near(t), _near(1 - t), _far(2 - t)


@triton.jit
def _near(t: tl.tensor) -> tl.tensor:
    return (1.25 * t - 2.25) * t * t + 1


@triton.jit
def _far(t: tl.tensor) -> tl.tensor:
    return ((-0.75 * t + 3.75) * t - 6.0) * t + 3.0
