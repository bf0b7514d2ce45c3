"""The kernel of ``normalise`` against its twin."""

import pytest
import torch
from medvlm_kernels import reference
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cases import excess, interpret, needs_cuda, poisoned, seeded

pytest.importorskip("triton")

CASES = {
    f"{rows}x{channels}-{str(dtype).split('.')[1]}": {"rows": rows, "channels": channels, "dtype": dtype}
    for rows, channels in [(1, 1), (3, 65), (7, 1280), (9, 100), (2, 8192), (5, 5000)]
    for dtype in [torch.float32, torch.float16, torch.bfloat16]
} | {
    "far-from-zero": {"rows": 6, "channels": 1280, "offset": 1e3},
    "all-alike": {"rows": 6, "channels": 96, "spread": 0.0},
    "eps-outweighs-the-variance": {"rows": 6, "channels": 96, "spread": 1e-4},
    "weights-of-half-precision": {"rows": 6, "channels": 96, "weights": torch.float16},
    "columns-of-a-wider-matrix": {"rows": 6, "channels": 96, "strided": True},
    "no-rows": {"rows": 0, "channels": 96},
}


def measure(
    rows, channels, dtype=torch.float32, weights=None, offset=0.0, spread=1.0, strided=False, device="cpu"
):  # fmt: skip
    from medvlm_kernels.normalise_triton import normalise_triton

    step = 1 + strided
    hidden = (offset + spread * seeded(rows, channels * step, device=device)).to(dtype)[:, ::step]
    shift, weight, bias = seeded(3, channels, device=device)
    shift, weight, bias = shift * spread, (2 + weight).to(weights or dtype), bias.to(weights or dtype)
    with poisoned():
        out = normalise_triton(hidden, shift, weight, bias, 1e-5)
    if not rows:
        return float(out.shape != (0, channels))
    truth = reference.normalise(hidden.double(), shift.double(), weight.double(), bias.double(), 1e-5)
    return excess(out, reference.normalise(hidden, shift, weight, bias, 1e-5), truth)


@pytest.fixture(scope="module")
def interpreted():
    return interpret("test_normalise")


@pytest.mark.parametrize("name", CASES)
def test_kernel_errs_at_most_twice_as_much_as_the_reference(name, interpreted):
    assert interpreted(name) <= 1


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_device_errs_at_most_twice_as_much_as_the_reference(name):
    assert measure(**CASES[name], device="cuda") <= 1


ONES = torch.ones(4)


@pytest.mark.parametrize(
    ("hidden", "shift", "weight", "message"),
    [
        (torch.zeros(2, 3, 4), ONES, ONES, r"hidden states are \(2, 3, 4\): give rows of 1 to 8192 channels"),
        (torch.zeros(2, 8193), ONES, ONES, r"hidden states are \(2, 8193\): give rows of 1 to 8192 channels"),
        (
            torch.zeros(2, 4).double(),
            ONES,
            ONES,
            r"hidden states are torch\.float64: give float16, bfloat16 or float32",
        ),
        (torch.zeros(2, 4), ONES[:3], ONES, r"the shift is \(3,\) torch\.float32: give \(4,\) torch\.float32"),
        (torch.zeros(2, 4), ONES.half(), ONES, r"the shift is \(4,\) torch\.float16: give \(4,\) torch\.float32"),
        (torch.zeros(2, 4), ONES, ONES[:3], r"the weight is \(3,\) torch\.float32: give \(4,\) torch\.float16 or"),
        (torch.zeros(2, 4), ONES, ONES.int(), r"the weight is \(4,\) torch\.int32: give \(4,\) torch\.float16 or"),
    ],
)
def test_what_the_kernel_does_not_read_is_refused(hidden, shift, weight, message):
    from medvlm_kernels.normalise_triton import normalise_triton

    with pytest.raises(ValueError, match=message):
        normalise_triton(hidden, shift, weight, ONES, 1e-5)


def test_a_fake_tensor_gets_its_shape_without_a_launch():
    from medvlm_kernels.normalise_triton import normalise_triton

    with FakeTensorMode():
        vector = torch.empty(1280, device="cuda")
        out = normalise_triton(
            torch.empty(23360, 1280, dtype=torch.bfloat16, device="cuda"), vector, vector, vector, 1e-5
        )
    assert (out.shape, out.dtype, out.device.type) == ((23360, 1280), torch.bfloat16, "cuda")
