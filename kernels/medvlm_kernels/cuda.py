"""The blocks of a folded tower on a CUDA device: products with their ends fused in, one-pass norms, little traffic.

The biases of the two products that add to the hidden states are not added there: a library's product takes the hidden
states in for nothing, and a bias not.  They are carried along, one sum for every block, and added where the hidden
states are read next: in the norms, and at the end in ``merge``.

Legend: see ``reference``; R = tiles * L rows of a call.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensor

import medvlm_kernels as ops
from medvlm_kernels import backends, measured
from medvlm_kernels.fold import Norm, Weights
from medvlm_kernels.geometry import Geometry

ROWS_A_MULTIPROCESSOR = 128
"""Rows that each multiprocessor takes of a product's first wave: the tile batch is chosen to fill whole waves."""
LAUNCH_SECONDS = 1e-5
"""What it takes to start one kernel from Python, about; a CUDA graph pays when the device waits for that."""
GRAPH_FLOPS = 4e14
"""Rate in FLOP/s at which a device is taken to work when that is asked."""
PRODUCTS = ("embed", "out", "up", "down")
"""Products for which the library's and Triton's are compared."""


class CudaEngine:
    """Runs tiles of a fixed number through the blocks; the rows of one call do not see each other's tiles.

    Args:
        weights: folded, on the device.
        geometry: of the tower.
        attention: one of ``backends.BACKENDS``.
        tile_batch: tiles of a call; None fills the device's multiprocessors.
        ways: ``triton`` or ``library`` for each of ``PRODUCTS``; None measures.
        graph: record a CUDA graph; None does where starting kernels would take longer than running them.
    """

    def __init__(
        self, weights: Weights, geometry: Geometry, attention: str = "auto", tile_batch: int | None = None,
        ways: Mapping[str, str] | None = None, graph: bool | None = None,
    ) -> None:  # fmt: skip
        self._weights, self._length = weights, geometry.tokens + 1
        self.device, self.dtype = weights.patch_weight.device, weights.patch_weight.dtype
        if tile_batch is None:
            rows = ROWS_A_MULTIPROCESSOR * torch.cuda.get_device_properties(self.device).multi_processor_count
            tile_batch = max(1, rows // self._length)
        self.tile_batch = tile_batch
        self._positions = weights.positions.repeat(tile_batch, 1)
        self._none = torch.zeros_like(weights.first.bias, dtype=torch.float32)
        self._shifts, self.shift = _carried(weights, self._none)
        example = self._positions.new_empty(tile_batch, self._length, 3, weights.heads, self._channels // weights.heads)
        fake = isinstance(example, FakeTensor)  # nothing to measure
        self.attention = attention if fake else backends.choose(attention, example)
        self.ways = dict(ways or self._measure())
        pays = self._flops() / GRAPH_FLOPS < LAUNCH_SECONDS * (7 * len(weights.blocks) + 2)
        self._graph = _Graph(self._run) if (pays if graph is None else graph) and not fake else None

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Tokens of tiles, ``shift`` not yet added.

        Args:
            patches: ``(tile_batch, L, W)``, the class token's row zeros.

        Returns:
            ``(tile_batch, L, C)``, what goes into the last block; overwritten by the next call.
        """
        return self._graph(patches) if self._graph else self._run(patches)

    @property
    def _channels(self) -> int:
        return self._weights.patch_weight.shape[0]

    def _run(self, patches: torch.Tensor) -> torch.Tensor:
        weights = self._weights
        shape = (self.tile_batch, self._length, 3, weights.heads, -1)
        hidden = _add(self.ways["embed"], patches.flatten(0, 1), weights.patch_weight, self._positions)
        hidden = self._norm(hidden, self._none, weights.first)
        for block, (before, between) in zip(weights.blocks, self._shifts, strict=True):
            qkv = F.linear(self._norm(hidden, before, block.before), block.qkv_weight, block.qkv_bias)
            seen = ops.attention(qkv.view(shape), self.attention).flatten(0, 1)
            del qkv  # three times as large as the hidden states
            hidden = _add(self.ways["out"], seen, block.out_weight, hidden)
            inner = _quick_gelu(
                self.ways["up"], self._norm(hidden, between, block.between), block.up_weight, block.up_bias
            )
            hidden = _add(self.ways["down"], inner, block.down_weight, hidden)
        return hidden.view(self.tile_batch, self._length, -1)

    def _norm(self, hidden: torch.Tensor, shift: torch.Tensor, norm: Norm) -> torch.Tensor:
        return ops.normalise(hidden, shift, norm.weight, norm.bias, self._weights.eps)

    def _measure(self) -> dict[str, str]:
        """The faster way for each product.

        In float32 the library's, because Triton's would round to TF32 or crawl; and the library's on every device but
        Hopper, for whose shared memory and matrix units Triton's are made.
        """
        hopper = torch.cuda.get_device_capability(self.device)[0] == 9
        if self.dtype == torch.float32 or not self._weights.blocks or not hopper or not ops.has_triton():
            return dict.fromkeys(PRODUCTS, "library")
        block, residual = self._weights.blocks[0], self._positions
        weights = {
            "embed": self._weights.patch_weight, "out": block.out_weight, "up": block.up_weight,
            "down": block.down_weight,
        }  # fmt: skip
        chosen = {}
        for name, weight in weights.items():
            rows = torch.randn(len(residual), weight.shape[1], device=self.device, dtype=self.dtype)
            finish: Callable[..., Any] = _quick_gelu if name == "up" else _add
            given = rows, weight, block.up_bias if name == "up" else residual
            ways = {way: functools.partial(finish, way, *given) for way in ("triton", "library")}
            key = f"product {name} {tuple(rows.shape)} x {len(weight)} {self.dtype}"
            chosen[name] = measured.fastest(key, ways, self.device)
        return chosen

    def _flops(self) -> float:
        """Of one call, products only."""
        block = 12 * self._channels**2
        return 2.0 * len(self._positions) * (block * len(self._weights.blocks) + self._weights.patch_weight.numel())


def _carried(weights: Weights, total: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """The biases carried before each of the two norms of every block, and after the last; ``(C)`` float32 each."""
    shifts = []
    for block in weights.blocks:
        before, between = total, total + block.out_bias.float()
        total = between + block.down_bias.float()
        shifts.append((before, between))
    return shifts, total


def _add(way: str, rows: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return ops.linear_add(rows, weight, residual) if way == "triton" else torch.addmm(residual, rows, weight.t())


def _quick_gelu(way: str, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if way == "triton":
        return ops.linear_quick_gelu(rows, weight, bias)
    return ops.quick_gelu(F.linear(rows, weight, bias))


class _Graph:
    """A call recorded once and replayed: one start for all its kernels."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._run = run
        self._graph: Any = None

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        if self._graph is None:
            self._record(patches)
        self._given.copy_(patches)
        self._graph.replay()
        return self._result

    def _record(self, patches: torch.Tensor) -> None:
        self._given = patches.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose and allocate in a first run, which must not be recorded
            self._run(self._given)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._run(self._given)
