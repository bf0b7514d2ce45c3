"""The kernel of ``merge`` against its twin."""

from unittest.mock import patch

import pytest
import torch
from medvlm_kernels import reference
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cases import excess, interpret, needs_cuda, poisoned, seeded

pytest.importorskip("triton")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SMALL = (16, 32)
"""Tokens and channels of a program in the interpreter, which pays by the operation more than by the number."""

CASES = {
    f"{'+'.join(map(str, factors))}-side-{side}x{channels}-{str(dtype).split('.')[1]}": {
        "factors": factors, "side": side, "channels": channels, "dtype": dtype,
    }
    for factors, side, channels in [
        ((1, 2, 3), 3, 65), ((1, 3), 4, 8), ((1, 2, 4), 5, 40), ((1,), 2, 1), ((3, 2), 1, 33),
    ]
    for dtype in DTYPES
} | {
    "no-shift": {"factors": (1, 2, 3), "side": 3, "channels": 65, "dtype": torch.float32, "shifted": False},
    "tiles-shown-twice": {"factors": (1, 2, 3), "side": 3, "channels": 8, "dtype": torch.float32, "tiles": 5},
    "the-blocks-of-a-device": {
        "factors": (1, 2, 3), "side": 3, "channels": 300, "dtype": torch.float32, "blocks": (4, 256),
    },
    "no-figures": {"factors": (1, 2, 3), "side": 3, "channels": 8, "dtype": torch.float32, "figures": 0},
    "full-size": {
        "factors": (1, 2, 3), "side": 27, "channels": 1280, "dtype": torch.bfloat16, "figures": 1,
        "blocks": (1024, 1024),
    },
}  # fmt: skip


def measure(
    factors, side, channels, dtype, figures=2, tiles=None, shifted=True, blocks=SMALL, device="cpu"
):  # fmt: skip
    from medvlm_kernels import merge_triton

    count = sum(factor**2 for factor in factors)
    tiles = tiles or figures * count + 3  # some that no place shows
    values = seeded(tiles, side**2, channels, dtype=dtype, device=device)
    drawn = torch.Generator().manual_seed(1)
    places = torch.randperm(max(tiles, figures * count), generator=drawn)[: figures * count] % tiles
    places = places.view(figures, count).to(device)
    shift = seeded(channels, device=device) if shifted else None
    blocks = merge_triton.BLOCKS if device == "cuda" else blocks
    with poisoned(), patch.object(merge_triton, "BLOCKS", blocks):
        out = merge_triton.merge_triton(values, places, factors, shift)
    if not figures:
        return float(out.shape != (0, side**2, len(factors) * channels))
    truth = reference.merge(values.double(), places, factors, None if shift is None else shift.double())
    return excess(out, reference.merge(values, places, factors, shift), truth)


@pytest.fixture(scope="module")
def interpreted():
    return interpret("test_merge")


@pytest.mark.parametrize("name", CASES)
def test_kernel_errs_at_most_twice_as_much_as_the_reference(name, interpreted):
    assert interpreted(name) <= 1


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_device_errs_at_most_twice_as_much_as_the_reference(name):
    assert measure(**CASES[name], device="cuda") <= 1


PLACES = torch.zeros(1, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("tiles", "places", "shift", "message"),
    [
        (torch.zeros(5, 8, 2), PLACES, None, r"tiles are \(5, 8, 2\): give \(tiles, tokens, channels\)"),
        (torch.zeros(5, 9), PLACES, None, r"tiles are \(5, 9\): give \(tiles, tokens, channels\)"),
        (torch.zeros(5, 9, 2).double(), PLACES, None, "tiles are torch.float64: give float16, bfloat16 or float32"),
        (torch.zeros(5, 9, 2), PLACES[:, 1:], None, r"places are \(1, 4\) torch.int64: factors \(1, 2\) ask for"),
        (torch.zeros(5, 9, 2), PLACES.int(), None, r"places are \(1, 5\) torch.int32: factors \(1, 2\) ask for"),
        (torch.zeros(5, 9, 2), PLACES, torch.zeros(3), r"the shift is \(3,\) torch.float32: give \(2,\) torch.float32"),
    ],
)
def test_what_the_kernel_does_not_read_is_refused(tiles, places, shift, message):
    from medvlm_kernels.merge_triton import merge_triton

    with pytest.raises(ValueError, match=message):
        merge_triton(tiles, places, (1, 2), shift)


def test_a_fake_tensor_gets_its_shape_without_a_launch():
    from medvlm_kernels.merge_triton import merge_triton

    with FakeTensorMode():
        tiles = torch.empty(28, 729, 1280, dtype=torch.bfloat16, device="cuda")
        out = merge_triton(tiles, torch.empty(2, 14, dtype=torch.int64, device="cuda"), (1, 2, 3))
    assert (out.shape, out.dtype, out.device.type) == ((2, 729, 3840), torch.bfloat16, "cuda")
