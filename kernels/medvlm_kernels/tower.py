"""A folded tower at several scales: figures in, joined features out, each different tile encoded once.

All tiles of all scales go through the blocks in batches of one fixed size, filled up with whatever was there before.
A product of another size may be split differently by a library, and round differently; of one size, every tile gets the
same bits wherever it lies and whatever lies beside it.

Legend: see ``reference``.
"""

from collections import OrderedDict

import torch

import medvlm_kernels as ops
from medvlm_kernels.cpu import CpuEngine
from medvlm_kernels.cuda import CudaEngine
from medvlm_kernels.fold import Weights
from medvlm_kernels.geometry import Geometry
from medvlm_kernels.identical import Sameness, colours

GROUP_BYTES = 320 << 20
"""What the patches and tokens of the figures taken together may need: eight figures of ViT-H/14-378 in bfloat16."""
COLOURS = 32
"""Colours whose tiles are kept: the pads of a model are one, black and white borders two more."""


class FusedTower:
    """A frozen tower ready to encode.

    Args:
        weights: folded, on any device.
        geometry: sizes and scales.
        device: a CPU or a CUDA device.
        attention: one of ``backends.BACKENDS``.
        tile_batch: tiles of one call; None lets the device decide.  Another one may change last bits.
    """

    def __init__(
        self, weights: Weights, geometry: Geometry, device: torch.device, attention: str = "auto",
        tile_batch: int | None = None,
    ) -> None:  # fmt: skip
        engine = CpuEngine if device.type == "cpu" else CudaEngine
        self.geometry = geometry
        weights = weights.to(device)
        self.engine = engine(weights, geometry, attention, tile_batch)
        self._centre, self._channels = weights.centre, weights.patch_weight.shape[0]
        self._same = Sameness(geometry.tokens * geometry.width, device)
        self._buffer = weights.patch_weight.new_zeros(self.engine.tile_batch, geometry.tokens + 1, geometry.width)
        self._colours: OrderedDict[tuple[float, ...], torch.Tensor] = OrderedDict()
        self.encoded = 0
        """Tiles that went through the blocks so far, fillings not counted."""

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Features of figures.

        Args:
            images: ``(B, 3, Z, Z)`` uint8, Z = ``geometry.size``, on any device and with any strides.

        Returns:
            ``(B, T, len(factors) * C)`` on the tower's device and in its dtype, the scales in their order.

        Raises:
            ValueError: the images have another size or type.
        """
        ops.check_images(images, self.geometry)
        geometry, engine = self.geometry, self.engine
        element = torch.empty((), dtype=engine.dtype).element_size()
        a_figure = geometry.tiles * geometry.tokens * (geometry.width + self._channels) * element
        together = max(1, GROUP_BYTES // a_figure)
        out = self._buffer.new_empty(len(images), geometry.tokens, len(geometry.factors) * self._channels)
        with torch.autocast(engine.device.type, enabled=False):  # it would widen the norms and narrow the products
            for start in range(0, len(images), together):
                group = images[start : start + together].to(engine.device, non_blocking=True)
                out[start : start + together] = self._encode(group)
        return out

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        geometry = self.geometry
        tiles = ops.patchify(images, geometry, self._centre, self.engine.dtype).flatten(0, 1)  # B * N, T, W
        first, places = self._same.group(tiles)
        tokens = self._tokens(tiles, first)
        where = torch.tensor(places, device=tokens.device).view(len(images), geometry.tiles)
        return ops.merge(tokens, where, geometry.factors, self.engine.shift)

    def _tokens(self, tiles: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        """Tokens ``(len(chosen), T, C)`` of tiles; those of one colour come from the last time it was seen."""
        tokens = tiles.new_empty(len(chosen), self.geometry.tokens, self._channels)
        wanted = torch.tensor(chosen, device=tiles.device)
        colour = colours(tiles, wanted, self.geometry.columns)
        todo = []
        for number, one in enumerate(colour):
            if one is not None and one in self._colours:
                tokens[number] = self._colours[one]
                self._colours.move_to_end(one)
            else:
                todo.append(number)
        for start in range(0, len(todo), self.engine.tile_batch):
            together = torch.tensor(todo[start : start + self.engine.tile_batch], device=tiles.device)
            self._buffer[: len(together), 1:] = tiles[wanted[together]]
            tokens[together] = self.engine(self._buffer)[: len(together), 1:]
        self.encoded += len(todo)
        for number in todo:
            if (one := colour[number]) is not None:
                self._colours[one] = tokens[number].clone()
        while len(self._colours) > COLOURS:
            self._colours.popitem(last=False)
        return tokens
