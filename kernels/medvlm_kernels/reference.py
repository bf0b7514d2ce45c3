"""Every operation in plain PyTorch: the truth a kernel is measured against.

Legend: B figures, N tiles of a figure (all scales), K tiles along one side of a figure at one scale, P pixels along the
side of a tile, S patches along the side of a tile, T = S * S tokens of a tile, C channels of the tower, W columns of a
patch matrix, R rows of any matrix, U tiles in any number, L = T + 1 tokens of a tile with the class token, H heads, D
channels of a head.
"""

import torch
import torch.nn.functional as F

from medvlm_kernels.geometry import Geometry

QUICK_GELU = 1.702
TOGETHER = 256
"""Channels that are averaged in one go: bounds the memory."""
LEAST = torch.float32
"""Least precision of resizing, averaging and of statistics; float64 stays float64."""


def split_scale(images: torch.Tensor, scale: int, side: int, antialias: bool = False) -> torch.Tensor:
    """Resize figures to one scale and cut them into tiles.

    Source: S2, Shi et al. 2024, arXiv:2403.13043: bicubic without antialiasing in float32, then ``split_chessboard``.
    Without antialiasing, a reduction by 3 reads every third pixel and loses what lies between.

    Args:
        images: ``(B, C, H, W)`` float, of any size.
        scale: K, tiles along one side, 1 or more.
        side: P, pixels along the side of one tile.
        antialias: average over the source pixels when reducing, which S2 does not.

    Returns:
        ``(K * K * B, C, P, P)`` in the dtype of ``images``; the top left tile of every figure first, then the next
        along the row.  Resized in float32 or wider; a figure that has the size already is not touched.
    """
    figures, channels = images.shape[:2]
    size = scale * side
    if tuple(images.shape[-2:]) != (size, size):
        wide = images.to(_wide(images))
        images = F.interpolate(wide, size=(size, size), mode="bicubic", antialias=antialias).to(images.dtype)
    grid = images.reshape(figures, channels, scale, side, scale, side).permute(2, 4, 0, 1, 3, 5)  # K, K, B, C, P, P
    return grid.reshape(scale * scale * figures, channels, side, side)


def merge_scale(tiles: torch.Tensor, scale: int) -> torch.Tensor:
    """Sew the tiles of one scale together and average them down to the grid of one tile.

    Source: S2, Shi et al. 2024, arXiv:2403.13043; same tile order as its ``merge_chessboard``.

    Args:
        tiles: ``(K * K * B, S, S, C)``; the top left tile of every figure first, then the next along the row.
        scale: K, tiles along one side, 1 or more.

    Returns:
        ``(B, S, S, C)`` in the dtype of ``tiles``; the mean is taken in float32 or wider.

    Raises:
        ValueError: the number of tiles is not a multiple of ``scale * scale``.
    """
    n, side, _, channels = tiles.shape
    if n % (scale * scale):
        raise ValueError(f"{n} tiles do not make whole figures at scale {scale}: give a multiple of {scale * scale}")
    grid = tiles.view(scale, scale, -1, side, side, channels).permute(2, 0, 3, 1, 4, 5)  # B, K, S, K, S, C
    whole = grid.reshape(-1, scale * side, scale * side, channels)
    return F.avg_pool2d(whole.to(_wide(tiles)).permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1).to(tiles.dtype)


def patchify(
    images: torch.Tensor, geometry: Geometry, centre: tuple[int, int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Figures as the patches of all tiles at all scales, ready for the tower's first matrix product.

    Pixels stay whole numbers around zero; what is left of the normalisation is a matter of the product's weights.

    Source: S2's views, see ``split_scale``; the order of a patch's numbers is that of ``Conv2d``'s weights.

    Args:
        images: ``(B, 3, Z, Z)`` uint8, Z = ``geometry.size``, with any strides.
        geometry: sizes and scales.
        centre: subtracted from each channel, from 0 to 255; near the mean, so that bfloat16 holds every pixel exactly.
        dtype: of the patches.

    Returns:
        ``(B, N, T, W)``: the scales in their order, the tiles of a scale row by row, the patches of a tile row by row;
        a patch's numbers by channel, row, column, then zeros up to W.  Resized in float32 or wider, never clamped.

    Raises:
        ValueError: the images have another size or type.
    """
    check_images(images, geometry)
    side, patch, wide = geometry.side, geometry.patch, torch.promote_types(dtype, LEAST)
    middle = torch.tensor(centre, dtype=wide, device=images.device)[:, None, None]
    patches = images.new_zeros(len(images), geometry.tiles, geometry.tokens, geometry.width, dtype=dtype)
    done = 0
    for factor in geometry.factors:
        view = _view(images, geometry, factor, wide)
        whole = view.dtype == torch.uint8  # then the centre is taken off in any dtype without rounding
        view = view if whole else view.sub_(middle)
        cells = view.unflatten(3, (factor, side, patch)).unflatten(2, (factor, side, patch))  # B, 3, K, S, p, K, S, p
        place = patches[:, done : done + factor**2, :, : geometry.columns].unflatten(3, (3, patch, patch))
        place = place.unflatten(2, (side, side)).unflatten(1, (factor, factor))  # B, K, K, S, S, 3, p, p
        place.copy_(cells.permute(0, 2, 5, 3, 6, 1, 4, 7))
        place.sub_(middle.to(dtype) if whole else 0)
        done += factor**2
    return patches


def _view(images: torch.Tensor, geometry: Geometry, factor: int, wide: torch.dtype) -> torch.Tensor:
    """Figures at one scale, ``(B, 3, K * P, K * P)``: bytes where no pixel is made of several, else new numbers.

    Bicubic interpolation without antialiasing that reduces by an odd number reads the pixels in the middle and nothing
    else, exactly.
    """
    ratio, rest = divmod(max(geometry.factors), factor)
    if not rest and (ratio == 1 or (ratio % 2 and not geometry.antialias)):
        return images[..., ratio // 2 :: ratio, ratio // 2 :: ratio]
    size = (factor * geometry.tile,) * 2
    return F.interpolate(images.to(wide), size=size, mode="bicubic", antialias=geometry.antialias)


def check_images(images: torch.Tensor, geometry: Geometry) -> None:
    """Refuse what ``patchify`` does not read.

    Raises:
        ValueError: not ``(B, 3, Z, Z)`` uint8 with Z = ``geometry.size``.
    """
    size = geometry.size
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size) or images.dtype != torch.uint8:
        shape = tuple(images.shape)
        raise ValueError(f"images are {shape} {images.dtype}: give (figures, 3, {size}, {size}) torch.uint8")


def normalise(
    hidden: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Layer norm of rows to which something is still to be added.

    Args:
        hidden: ``(R, C)``.
        shift: ``(C)`` float32, added to every row first.
        weight: ``(C)``, times the rows once they have mean 0 and variance 1.
        bias: ``(C)``, added to that.
        eps: added to the variance.

    Returns:
        ``(R, C)`` in the dtype of ``hidden``; computed in float32 or wider and rounded once.
    """
    wide = _wide(hidden)
    rows = F.layer_norm(hidden.to(wide) + shift, hidden.shape[-1:], weight.to(wide), bias.to(wide), eps)
    return rows.to(hidden.dtype)


def linear_quick_gelu(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``y * sigmoid(1.702 y)`` of ``y = rows @ weight.T + bias``.

    Source: QuickGELU, Hendrycks and Gimpel 2016, arXiv:1606.08415; CLIP, Radford et al. 2021, arXiv:2103.00020.

    Args:
        rows: ``(R, I)``.
        weight: ``(O, I)``.
        bias: ``(O)``.

    Returns:
        ``(R, O)`` in the dtype of ``rows``; nothing is rounded between the product and the end, in float32 or wider.
    """
    wide = _wide(rows)
    return quick_gelu(F.linear(rows.to(wide), weight.to(wide), bias.to(wide))).to(rows.dtype)


def quick_gelu(values: torch.Tensor) -> torch.Tensor:
    """``values * sigmoid(1.702 * values)``, rounded to their dtype at every step."""
    return (values * QUICK_GELU).sigmoid_().mul_(values)


def linear_add(rows: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """``residual + rows @ weight.T``; its bias is carried by the caller, see ``normalise``.

    Args:
        rows: ``(R, I)``.
        weight: ``(O, I)``.
        residual: ``(R, O)``, not changed.

    Returns:
        ``(R, O)`` in the dtype of ``rows``; nothing is rounded between the product and the end, in float32 or wider.
    """
    wide = _wide(rows)
    return (residual.to(wide) + F.linear(rows.to(wide), weight.to(wide))).to(rows.dtype)


def attention(qkv: torch.Tensor) -> torch.Tensor:
    """Scaled dot product attention of each tile with itself, without a mask.

    Args:
        qkv: ``(U, L, 3, H, D)``: queries, keys and values of every token next to each other.

    Returns:
        ``(U, L, H * D)`` in the dtype of ``qkv``; softmax and sums in float32 or wider.
    """
    query, key, value = qkv.to(_wide(qkv)).permute(2, 0, 3, 1, 4)  # each U, H, L, D
    weights = (query @ key.transpose(-1, -2) * qkv.shape[-1] ** -0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2).to(qkv.dtype)


def merge(
    tiles: torch.Tensor, places: torch.Tensor, factors: tuple[int, ...], shift: torch.Tensor | None = None
) -> torch.Tensor:
    """The tokens of figures from the tokens of their tiles: sewn together, averaged down, the scales joined.

    Source: S2, Shi et al. 2024, arXiv:2403.13043; see ``merge_scale``.

    Args:
        tiles: ``(U, T, C)``, tokens of tiles; a tile that several places show is there once.
        places: ``(B, N)`` int64, which of ``tiles`` lies where, in the order of ``patchify``.
        factors: K of each scale.
        shift: ``(C)`` float32, added to every token; None for nothing.

    Returns:
        ``(B, T, len(factors) * C)`` in the dtype of ``tiles``; averaged in float32 or wider.
    """
    figures, tokens, channels = len(places), tiles.shape[1], tiles.shape[2]
    side, wide = round(tokens**0.5), _wide(tiles)
    joined = tiles.new_empty(figures, tokens, len(factors), channels)
    for start in range(0, channels, TOGETHER):  # all channels at once would need several times the memory of the tiles
        part, done = slice(start, start + TOGETHER), 0
        for number, factor in enumerate(factors):
            chosen = places[:, done : done + factor**2].T.reshape(-1)  # the tile first, then the figure
            grids = tiles[:, :, part][chosen].unflatten(1, (side, side)).to(wide)
            merged = merge_scale(grids, factor).flatten(1, 2)
            joined[:, :, number, part] = merged if shift is None else merged + shift[part]
            done += factor**2
    return joined.flatten(2)


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, LEAST)
