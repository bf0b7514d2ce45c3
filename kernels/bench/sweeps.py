"""On CUDA: each thing that ours chooses or can switch, timed by itself."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import ours
import peers
import torch
import torch.nn.functional as F
from contest import Contest
from medvlm_kernels import BACKENDS, Geometry, backends, linear_add, linear_quick_gelu, quick_gelu
from medvlm_kernels.cuda import CudaEngine
from medvlm_kernels.fold import Weights
from medvlm_kernels.tower import FusedTower

Found = dict[str, dict[str, Any]]
TILES = (14, 23, 32, 46, 64)
"""Tiles of one call; 14 are a figure, the others fill the multiprocessors of an H200 to different degrees."""
SETS = 3
"""Inputs that calls rotate through."""


def sweep(contest: Contest, state: peers.State, quick: bool) -> dict[str, Found]:
    """Milliseconds of attention, of the products, and of the whole encoder with and without each choice.

    Args:
        contest: where; what fails is noted there.
        state: see ``peers.random_state``.
        quick: few sizes and calls.

    Returns:
        By what was varied, then by its value.
    """
    shape, calls = contest.shape, 3 if quick else 20
    tiles = (2, 3) if quick else TILES
    fold = functools.partial(ours.weights, state, shape, torch.bfloat16)
    folded = contest.attempt("fold for the sweeps", lambda: fold().to(torch.device(contest.device.kind)))
    if folded is None:
        return {}
    images = (1, 2) if quick else (1, 16, 64)
    runs: dict[str, Callable[[], Found]] = {
        "attention": lambda: _attention(contest, tiles, calls),
        "products": lambda: _products(contest, tiles, calls),
        "tile_batch": lambda: _tile_batch(contest, folded, tiles, calls),
        "graph": lambda: _graph(contest, folded, calls),
        "memory": lambda: _memory(contest, folded, images),
    }
    found = {name: contest.attempt(f"sweep {name}", run) for name, run in runs.items()}
    return {name: one for name, one in found.items() if one}


def lines(found: dict[str, Found]) -> list[str]:
    """What ``sweep`` found, a line for each thing and value."""
    return [
        f"{name} {value}: " + ", ".join(f"{key} {_short(one)}" for key, one in results.items())
        for name, values in found.items()
        for value, results in values.items()
    ]


def _attention(contest: Contest, tiles: Sequence[int], calls: int) -> Found:
    """Milliseconds of each backend over packed queries, keys and values."""
    shape = contest.shape
    length, channels = shape.geometry.tokens + 1, shape.width // shape.heads
    found: Found = {}
    for count in tiles:
        given = [_random(contest, count, length, 3, shape.heads, channels) for _ in range(SETS)]
        for name in BACKENDS[1:-1]:  # without auto and cpu
            reason = backends.refusal(name, given[0])
            if reason:
                contest.note(f"attention {name}, {count} tiles", reason)
                continue
            run = functools.partial(
                contest.device.milliseconds, lambda qkv, n=name: backends.attention(qkv, n), given, calls
            )
            _put(found, f"{count} tiles", name, contest.attempt(f"attention {name}, {count} tiles", run))
    return found


def _products(contest: Contest, tiles: Sequence[int], calls: int) -> Found:
    """Milliseconds of a block's products with their ends, by PyTorch's operations and by Triton."""
    shape = contest.shape
    sizes = {"qkv": (shape.width, 3 * shape.width), "out": (shape.width, shape.width),
             "up": (shape.width, shape.hidden), "down": (shape.hidden, shape.width)}  # fmt: skip
    found: Found = {}
    for count in tiles:
        rows = count * (shape.geometry.tokens + 1)
        for name, (into, out) in sizes.items():
            weight, bias, residual = _random(contest, out, into), _random(contest, out), _random(contest, rows, out)
            given = [_random(contest, rows, into) for _ in range(SETS)]
            ways: dict[str, Callable[[torch.Tensor], Any]] = {}
            if name == "qkv":
                ways["library"] = lambda x, w=weight, b=bias: F.linear(x, w, b)
            elif name == "up":
                ways["library"] = lambda x, w=weight, b=bias: quick_gelu(F.linear(x, w, b))
                ways["triton"] = lambda x, w=weight, b=bias: linear_quick_gelu(x, w, b)
            else:
                ways["library"] = lambda x, w=weight, r=residual: torch.addmm(r, x, w.t())
                ways["triton"] = lambda x, w=weight, r=residual: linear_add(x, w, r)
            for way, call in ways.items():
                run = functools.partial(contest.device.milliseconds, call, given, calls)
                value = contest.attempt(f"product {name} by {way}, {count} tiles", run)
                _put(found, f"{name}, {count} tiles", way, value)
    return found


def _tile_batch(contest: Contest, weights: Weights, tiles: Sequence[int], calls: int) -> Found:
    """Milliseconds a figure of the whole encoder, over eight figures."""
    given = [contest.figures(8, padded=False, seed=seed) for seed in range(SETS)]
    found: Found = {}
    for count in tiles:

        def run(count: int = count) -> float:
            tower = FusedTower(weights, contest.shape.geometry, weights.positions.device, tile_batch=count)
            return contest.device.milliseconds(tower.encode, given, max(3, calls // 2)) / 8

        _put(found, f"{count} tiles", "ms/image", contest.attempt(f"encoder, tile batch {count}", run))
    return found


def _graph(contest: Contest, weights: Weights, calls: int) -> Found:
    """Milliseconds of one figure, and of one tile, launched kernel by kernel and as one CUDA graph."""
    geometry = contest.shape.geometry
    found: Found = {}
    for name, sizes in {"a figure": geometry, "a tile": Geometry(geometry.tile, geometry.patch, (1,))}.items():
        random = torch.Generator().manual_seed(0)
        drawn = [
            torch.randint(0, 256, (1, 3, sizes.size, sizes.size), dtype=torch.uint8, generator=random)
            for _ in range(SETS)
        ]
        given = [one.to(contest.device.kind) for one in drawn]
        for graph in (False, True):

            def run(sizes: Geometry = sizes, given: list[torch.Tensor] = given, graph: bool = graph) -> float:
                tower = FusedTower(weights, sizes, weights.positions.device, tile_batch=sizes.tiles)
                tower.engine = CudaEngine(weights, sizes, tile_batch=sizes.tiles, graph=graph)
                return contest.device.milliseconds(tower.encode, given, calls)

            _put(found, name, "graph" if graph else "no graph", contest.attempt(f"{name}, graph {graph}", run))
    return found


def _memory(contest: Contest, weights: Weights, images: Sequence[int]) -> Found:
    """Bytes above weights and figures of one encode, with and without the features that it returns."""
    shape, device = contest.shape, contest.device
    before = device.held_bytes() or 0
    tower = FusedTower(weights, shape.geometry, weights.positions.device)
    tower.encode(contest.figures(1, padded=False))
    kept = max(0, (device.held_bytes() or 0) - before)
    found: Found = {}
    for count in images:
        figures = contest.figures(count, padded=False)
        rise = contest.attempt(
            f"memory, {count} images", functools.partial(device.rise, lambda f=figures: tower.encode(f))
        )
        if rise is not None:
            features = count * shape.geometry.tokens * len(shape.geometry.factors) * shape.width * 2
            found[f"{count} images"] = {"bytes": rise + kept, "without_features": rise + kept - features}
    return found


def _random(contest: Contest, *size: int) -> torch.Tensor:
    return torch.randn(*size, device=contest.device.kind).to(torch.bfloat16)


def _put(found: Found, value: str, key: str, one: float | None) -> None:
    if one is not None:
        found.setdefault(value, {})[key] = one


def _short(one: float) -> str:
    return f"{one / 1e6:.1f} MB" if isinstance(one, int) else f"{one:.4g}"
