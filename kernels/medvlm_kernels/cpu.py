"""The blocks of a folded tower on a CPU: oneDNN's products with weights packed once, and what follows them fused in.

Legend: see ``reference``; R = tiles * L rows of a call.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from medvlm_kernels import backends
from medvlm_kernels.fold import Norm, Weights
from medvlm_kernels.geometry import Geometry
from medvlm_kernels.reference import QUICK_GELU, quick_gelu

ROWS = 512
"""Tiles that go together have about this many rows: enough to fill the products, few enough for the cache."""


class CpuEngine:
    """Runs tiles of a fixed number through the blocks; the rows of one call do not see each other's tiles.

    Args:
        weights: folded, on the CPU.
        geometry: of the tower.
        attention: one of ``backends.BACKENDS``.
        tile_batch: tiles of a call; None chooses by ``ROWS``.
    """

    shift = None
    """What is left to add to the tokens of a tile: nothing here, every product adds its own bias."""

    def __init__(self, weights: Weights, geometry: Geometry, attention: str, tile_batch: int | None) -> None:
        self._weights, self._length = weights, geometry.tokens + 1
        self.tile_batch = tile_batch or max(1, ROWS // self._length)
        self.device, self.dtype = torch.device("cpu"), weights.patch_weight.dtype
        rows, width = self.tile_batch * self._length, weights.patch_weight.shape[0]
        example = torch.zeros(self.tile_batch, self._length, 3, weights.heads, width // weights.heads, dtype=self.dtype)
        self.attention = backends.choose(attention, example)
        self._scale = QUICK_GELU if packs(self.dtype) and self.dtype == torch.float32 else 1.0
        self._embed = _linear_add(weights.patch_weight, None, rows)
        self._positions = weights.positions.repeat(self.tile_batch, 1)
        self._products = [
            (
                _linear(block.qkv_weight, block.qkv_bias, rows),
                _linear_add(block.out_weight, block.out_bias, rows),
                _linear_quick_gelu(block.up_weight, block.up_bias, rows),
                _linear_add(block.down_weight / self._scale, block.down_bias, rows),
            )
            for block in weights.blocks
        ]

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Tokens of tiles.

        Args:
            patches: ``(tile_batch, L, W)``, the class token's row zeros.

        Returns:
            ``(tile_batch, L, C)``, what goes into the last block.
        """
        weights = self._weights
        shape = (self.tile_batch, self._length, 3, weights.heads, -1)
        hidden = self._norm(self._embed(patches.flatten(0, 1), self._positions), weights.first)
        for block, (qkv, out, up, down) in zip(weights.blocks, self._products, strict=True):
            parts = qkv(self._norm(hidden, block.before)).view(shape)
            hidden = out(backends.attention(parts, self.attention).flatten(0, 1), hidden)
            del parts  # three times as large as the hidden states
            hidden = down(up(self._norm(hidden, block.between)), hidden)
        return hidden.view(self.tile_batch, self._length, -1)

    def _norm(self, hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
        return F.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, self._weights.eps)


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes products of this type here with packed weights."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _linear(weight: torch.Tensor, bias: torch.Tensor, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """``rows @ weight.T + bias``."""
    if not packs(weight.dtype):
        return lambda given: F.linear(given, weight, bias)
    packed, pointwise = _packed(weight, rows), torch.ops.mkldnn._linear_pointwise
    return lambda given: pointwise(given, packed, bias, "none", [], "")


def _linear_quick_gelu(weight: torch.Tensor, bias: torch.Tensor, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """``reference.linear_quick_gelu``; of packed float32 weights, 1.702 times it.

    oneDNN fuses ``y * sigmoid(y)``, which 1.702 times the weights make of it.  Of bfloat16 it is not fused: weights
    rounded a second time cost more accuracy than 2 % of the time are worth.
    """
    if not packs(weight.dtype) or weight.dtype != torch.float32:
        product = _linear(weight, bias, rows)
        return lambda given: quick_gelu(product(given))
    packed, scaled = _packed(QUICK_GELU * weight, rows), QUICK_GELU * bias
    return lambda given: torch.ops.mkldnn._linear_pointwise(given, packed, scaled, "swish", [], "")


def _linear_add(
    weight: torch.Tensor, bias: torch.Tensor | None, rows: int
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """``reference.linear_add``, with a bias."""
    if not packs(weight.dtype):
        return lambda given, residual: residual + F.linear(given, weight, bias)
    packed, pointwise = _packed(weight, rows), torch.ops.mkldnn._linear_pointwise.binary
    return lambda given, residual: pointwise(given, residual, packed, bias, "add")


def _packed(weight: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
