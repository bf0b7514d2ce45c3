"""Which tiles are the same, and which are of one colour: those are encoded once.

Legend: see ``reference``; M tiles of several figures.
"""

import os

import torch

TOGETHER = {"cpu": 2, "cuda": 8}
"""Tiles that are looked at in one go, on each kind of device: bounds the memory, at 8 bytes a number."""


class Sameness:
    """Tells equal tiles by two sums of their bits, each number times a random odd one, modulo 2 to the 64.

    The multipliers are drawn anew in every process, so nobody can make two tiles that look equal, and chance makes a
    given pair look equal once in 2 to the 120: less than memory errs.

    Args:
        numbers: numbers of one tile, T * W.
        device: where the tiles lie.
    """

    def __init__(self, numbers: int, device: torch.device) -> None:
        random = torch.Generator().manual_seed(int.from_bytes(os.urandom(7)))
        drawn = torch.randint(-(2**63), 2**63 - 1, (2, numbers), generator=random, dtype=torch.int64)
        self._factors = (drawn | 1).to(device)

    def group(self, tiles: torch.Tensor) -> tuple[list[int], list[int]]:
        """Group equal tiles.

        Args:
            tiles: ``(M, T, W)`` of 2 or 4 bytes a number; compared bit by bit.

        Returns:
            The place in ``tiles`` of the first of each different tile, and for every tile which of those it equals.
        """
        bits = torch.int16 if tiles.element_size() == 2 else torch.int32
        sums = [
            torch.stack([(chunk.flatten(1).view(bits) * factors).sum(-1) for factors in self._factors], -1)
            for chunk in tiles.split(TOGETHER[tiles.device.type])
        ]
        seen: dict[tuple[int, ...], int] = {}
        first: list[int] = []
        places = []
        for number, key in enumerate(map(tuple, torch.cat(sums).tolist())):
            if key not in seen:
                seen[key] = len(first)
                first.append(number)
            places.append(seen[key])
        return first, places


def colours(tiles: torch.Tensor, chosen: torch.Tensor, columns: int) -> list[tuple[float, ...] | None]:
    """The colour of each chosen tile that has only one, in the numbers of ``patchify``; None for the others.

    Args:
        tiles: ``(M, T, W)``.
        chosen: places in ``tiles``, int64.
        columns: numbers of a patch without the zeros that fill up its row; three channels of equal length.
    """
    found: list[tuple[float, ...] | None] = []
    for some in chosen.split(TOGETHER[tiles.device.type]):
        channels = tiles[some][..., :columns].unflatten(-1, (3, -1))  # tiles, T, 3, patch * patch
        ends = torch.stack([channels.amin((1, 3)), channels.amax((1, 3))]).float().tolist()
        found += [tuple(low) if low == high else None for low, high in zip(*ends, strict=True)]
    return found
