"""How many bytes the encoder moves through a device's memory beside its products, and how many kernels it starts.

Counted without a device: the real code runs on tensors that have shapes and no numbers (``FakeTensorMode``), at the
full size of ViT-H/14-378, one figure of 14 tiles.  Products and attention count as launches; of their bytes only an
operand counts that a product takes in besides (the residual).  Every other operation that is no view reads its inputs
once and writes its outputs once.
"""

import collections
import functools
import operator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from medvlm_kernels import has_triton
from medvlm_kernels.cuda import CudaEngine
from medvlm_kernels.fold import fold
from medvlm_kernels.geometry import Geometry
from medvlm_kernels.identical import TOGETHER, Sameness, colours
from medvlm_kernels.tower import FusedTower
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BENCH = Path(__file__).resolve().parents[2] / "kernels" / "bench"
FREE = {
    "aten::_unsafe_view", "aten::detach", "aten::lift_fresh", "aten::empty", "aten::new_empty", "aten::empty_like",
    "aten::empty_strided", "aten::new_empty_strided", "prim::device",
}  # fmt: skip
FILLS = {
    "aten::zeros", "aten::new_zeros", "aten::zero_", "aten::ones", "aten::full", "aten::fill_", "aten::arange",
    "aten::copy_",
}  # fmt: skip
"""What their first operand holds is not read."""
PICKS = {"aten::embedding", "aten::index", "aten::index_select", "aten::gather"}
"""Of their first operand they read no more than they write."""
SCATTERS = {"aten::index_copy_", "aten::index_put_"}
"""Of their first operand they write as much as they are given last, and read nothing."""
PRODUCTS = {
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::convolution",
    "medvlm::linear_quick_gelu",
    "medvlm::linear_add",
}
ADDED = {"aten::addmm": 0, "medvlm::linear_add": 2}
"""Which operand a product adds to its result."""
FIGURE = Geometry(378, 14, (1, 2, 3))
TILES, TOKENS, CHANNELS, BLOCKS = 14, 730, 1280, 31
X = TILES * TOKENS * CHANNELS * 2
"""Bytes of the hidden states in bfloat16."""
PIXELS, PATCHES, FEATURES = 3 * 1134**2, TILES * 729 * 592 * 2, 729 * 3 * CHANNELS * 2


class Traffic(TorchDispatchMode):
    """Counts what runs under it."""

    def __init__(self):
        super().__init__()
        self.bytes = collections.Counter()
        self.launches = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not (func.is_view or name in FREE):
            self.launches[name] += len(args[3]) if name == "medvlm::patchify" else 1  # one for each of its factors
            self.bytes[name] += moved(name, args, kwargs or {}, result)
        return result

    def attention(self, query, key, value, **_):
        """In the place of PyTorch's, which would choose another kernel here; laid out as flash attention's result."""
        self.launches["attention"] += 1
        figures, heads, length, channels = query.shape
        return query.new_empty(figures, length, heads, channels).transpose(1, 2)


def moved(name, args, kwargs, result):
    written = sum(size(one) for one in tree_leaves(result))
    if name in PRODUCTS:
        added = args[ADDED[name]] if name in ADDED else None
        return size(added) if added is not None and size(added) == written else 0
    first = name in FILLS | PICKS | SCATTERS
    read = [size(one) for one in tree_leaves((args[first:], kwargs)) if isinstance(one, torch.Tensor)]
    written = read[-1] if name in SCATTERS else 2 * written if name in PICKS else written
    return sum(read) + written


def size(one):
    """Bytes of different numbers: what is expanded lies in memory once."""
    if not isinstance(one, torch.Tensor):
        return 0
    different = [length for length, stride in zip(one.shape, one.stride(), strict=True) if stride or not length]
    return functools.reduce(int.__mul__, different, one.element_size())


needs_triton = pytest.mark.skipif(not has_triton(), reason="needs Triton: its kernels are what is counted")


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import peers

    return peers


@pytest.fixture
def traffic(monkeypatch):
    counted = Traffic()
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted.attention)
    with torch.no_grad():
        yield counted


A, B = torch.ones(4, 5), torch.ones(4, 5)
SQUARE, ROW = torch.ones(5, 5), torch.ones(5)
CASES = {
    "a sum": (lambda: A + B, 240, 1),
    "a sum with a row": (lambda: A + ROW, 180, 1),
    "a sum with an expanded row": (lambda: A + ROW.expand(4, 5), 180, 1),
    "a sum with a number": (lambda: A + 1, 160, 1),
    "in place": (lambda: F.silu(A.clone(), inplace=True), 320, 2),
    "a view": (lambda: A.view(2, 10).transpose(0, 1)[1:], 0, 0),
    "part of a tensor": (lambda: A[1:] * 2, 120, 1),
    "a transposed copy": (lambda: A.t().contiguous(), 160, 1),
    "a cast": (lambda: A.to(torch.bfloat16), 120, 1),
    "a copy into another": (lambda: B[:2].copy_(A[:2]), 80, 1),
    "zeros": (lambda: A.new_zeros(4, 5), 80, 1),
    "nothing but room": (lambda: torch.empty_like(A), 0, 0),
    "joined": (lambda: torch.cat([A, B]), 320, 1),
    "two rows of a table": (lambda: F.embedding(torch.tensor([1, 2]), A), 2 * 8 + 2 * 40, 1),
    "two rows picked": (lambda: A[torch.tensor([1, 2])], 2 * 8 + 2 * 40, 1),
    "two rows put": (lambda: B.index_copy_(0, torch.tensor([1, 2]), A[:2]), 2 * 8 + 2 * 40, 1),
    "two rows assigned": (lambda: operator.setitem(B, torch.tensor([1, 2]), A[:2]), 2 * 8 + 2 * 40, 1),
    "a norm": (lambda: F.layer_norm(A, (5,)), 80 + 80 + 2 * 16, 1),  # and a mean and a deviation of each row
    "a product": (lambda: A @ SQUARE, 0, 1),
    "a product with a bias": (lambda: F.linear(A.view(2, 2, 5), SQUARE, ROW), 0, 1),
    "a product added to a tensor": (lambda: torch.addmm(B, A, SQUARE), 80, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_counter_counts_as_a_hand_does(name, traffic):
    run, expected, launches = CASES[name]
    with traffic:
        run()
    assert (traffic.bytes.total(), traffic.launches.total()) == (expected, launches)


def fake_state(peers, shape):
    return {name: tensor.to("cuda") for name, tensor in peers.random_state(shape).items()}


def fake_figure():
    return torch.empty(1, 3, FIGURE.size, FIGURE.size, dtype=torch.uint8, device="cuda")


def test_s2_over_hugging_face_moves_32_gigabytes_a_figure(traffic, peers):
    shape = peers.Shape()
    with FakeTensorMode():
        encode = peers.hugging_face(fake_state(peers, shape), shape, torch.bfloat16, "cuda")
        figure = fake_figure()
        with traffic:
            encode(figure)
    norms, sums, quick_gelu = 4, 6, 28  # times X, in a block: its hidden states are four times as wide inside
    assert traffic.bytes.total() == pytest.approx(32 * (norms + sums + quick_gelu) * X, rel=0.03)
    assert traffic.launches.total() == pytest.approx(3 * 32 * 14, rel=0.05)  # a scale, a block, its operations


@pytest.fixture
def ours(traffic, peers, monkeypatch):
    """Counts of one figure of 14 different tiles, everything included."""
    monkeypatch.setitem(TOGETHER, "cpu", TOGETHER["cuda"])
    look_for_equal_tiles(traffic)
    monkeypatch.setattr(Sameness, "group", lambda _, tiles: (list(range(len(tiles))), list(range(len(tiles)))))
    monkeypatch.setattr("medvlm_kernels.tower.colours", lambda tiles, chosen, _: [None] * len(chosen))
    ways = {"embed": "library", "out": "library", "up": "triton", "down": "library"}
    monkeypatch.setattr("medvlm_kernels.tower.CudaEngine", functools.partial(CudaEngine, ways=ways, graph=False))
    sizes = {"heads": 16, "eps": peers.EPS, "mean": peers.MEAN, "std": peers.STD, "geometry": FIGURE}
    with FakeTensorMode():
        weights = fold(fake_state(peers, peers.Shape()), **sizes, dtype=torch.bfloat16)
        tower = FusedTower(weights, FIGURE, torch.device("cuda"), attention="flash", tile_batch=TILES)
        figure = fake_figure()
        with traffic:
            tower.encode(figure)
    return traffic


def look_for_equal_tiles(traffic):
    """What depends on numbers, and so cannot run without them, counted on a CPU."""
    tiles = torch.randn(TILES, 729, 592, dtype=torch.bfloat16)
    same = Sameness(729 * 592, torch.device("cpu"))
    with traffic:
        same.group(tiles)
        colours(tiles, torch.arange(len(tiles)), FIGURE.columns)


@needs_triton
def test_ours_moves_at_most_15_percent_more_than_its_model(ours):
    block = (2 + 2 + 2) * X  # each norm reads and writes; each sum is read by the product before it
    around = PIXELS + PATCHES + X + 2 * X + TILES * 729 * CHANNELS * 2 + FEATURES  # patchify, positions, norm, merge
    assert ours.bytes.total() <= 1.15 * (BLOCKS * block + around)


@needs_triton
def test_ours_starts_at_most_15_percent_more_kernels_than_its_model(ours):
    block, around = 2 + 4 + 1, 3 + 1 + 1 + 1  # norms, products, attention; scales of patchify, embedding, norm, merge
    assert ours.launches.total() <= 1.15 * (BLOCKS * block + around)


@needs_triton
def test_ours_runs_each_kernel_as_often_as_its_model(ours):
    kernels = {name: count for name, count in ours.launches.items() if name.startswith("medvlm::")}
    assert kernels == {
        "medvlm::patchify": 3, "medvlm::normalise": 1 + 2 * BLOCKS, "medvlm::linear_quick_gelu": BLOCKS,
        "medvlm::merge": 1,
    }  # fmt: skip
