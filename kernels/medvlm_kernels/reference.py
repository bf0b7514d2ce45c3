"""Every operation in plain PyTorch: the truth a kernel is measured against.

Legend: B figures, K tiles along one side of a figure at one scale, P pixels along the side of a tile, S patches along
the side of a tile, C channels.
"""

import torch
import torch.nn.functional as F


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
        wide = images.to(torch.promote_types(images.dtype, torch.float32))  # float64 stays float64
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
    wide = whole.to(torch.promote_types(tiles.dtype, torch.float32))  # float64 stays float64
    return F.avg_pool2d(wide.permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1).to(tiles.dtype)
