"""The kernel of ``linear_quick_gelu`` and ``linear_add`` against their twins."""

from unittest.mock import patch

import pytest
import torch
from medvlm_kernels import reference
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cases import excess, interpret, needs_cuda, poisoned, seeded

pytest.importorskip("triton")

SIZES = {"one-row": (1, 8, 8), "more-than-one-group": (1100, 72, 520), "tall": (400, 136, 40), "wide": (40, 64, 1288)}
CASES = {
    f"{op}-{name}-{blocks.lower()}-{str(dtype).split('.')[1]}": {
        "op": op, "size": size, "blocks": blocks, "dtype": dtype,
    }
    for op in ["linear_quick_gelu", "linear_add"]
    for name, size in SIZES.items()
    for blocks, dtype in [("LARGE", torch.float16), ("SMALL", torch.bfloat16)]
} | {
    "bias-of-half-precision": {"op": "linear_quick_gelu", "size": (40, 64, 72), "bias": torch.float16},
    "rows-far-below-zero": {"op": "linear_quick_gelu", "size": (40, 64, 72), "scale": 1e3},
    "quick-gelu-no-rows": {"op": "linear_quick_gelu", "size": (0, 64, 72)},
    "add-strided": {"op": "linear_add", "size": (40, 64, 72), "strided": True},
    "quick-gelu-strided": {"op": "linear_quick_gelu", "size": (40, 64, 72), "strided": True},
    "add-from-an-odd-address": {"op": "linear_add", "size": (40, 64, 72), "odd": True},
}  # fmt: skip
FULL_SIZE = {
    f"{op}-{ins}-{outs}-{rows}-{str(dtype).split('.')[1]}": {"op": op, "size": (rows, ins, outs), "dtype": dtype}
    for op, ins, outs in [("linear_quick_gelu", 1280, 5120), ("linear_add", 5120, 1280), ("linear_add", 1280, 1280)]
    for rows in [730, 14 * 730]
    for dtype in [torch.float16, torch.bfloat16]
}


def measure(
    op, size, dtype=torch.float16, blocks=None, bias=torch.float32, scale=1.0, strided=False, odd=False, device="cpu"
):  # fmt: skip
    from medvlm_kernels import linear_triton

    (rows, ins, outs), step = size, 1 + strided
    left = (scale * seeded(rows, ins * step, device=device)).to(dtype)[:, ::step]
    weight = (seeded(outs * step, ins, device=device) / ins**0.5).to(dtype)[::step]
    last = seeded(outs, device=device).to(bias)
    if op == "linear_add":
        last = seeded(rows, outs * step, device=device, dtype=dtype)[:, ::step]
    if odd:  # a view that starts at a multiple of 2 bytes and not of 16
        left = torch.cat([left.new_zeros(1), left.flatten()])[1:].view(rows, ins)
    chosen = getattr(linear_triton, blocks) if blocks else linear_triton.choose(rows, outs, linear_triton.INTERPRETED)
    with poisoned(), patch.object(linear_triton, "choose", lambda *_: chosen):
        out = getattr(linear_triton, f"{op}_triton")(left, weight, last)
    if not rows:
        return float(out.shape != (0, outs))
    twin = getattr(reference, op)
    return excess(out, twin(left, weight, last), twin(left.double(), weight.double(), last.double()))


@pytest.fixture(scope="module")
def interpreted():
    return interpret("test_linear")


@pytest.mark.parametrize("name", CASES)
def test_kernel_errs_at_most_twice_as_much_as_the_reference(name, interpreted):
    assert interpreted(name) <= 1


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", CASES | FULL_SIZE)
def test_kernel_on_a_device_errs_at_most_twice_as_much_as_the_reference(name):
    assert measure(**(CASES | FULL_SIZE)[name], device="cuda") <= 1


@pytest.mark.parametrize(
    ("tiles", "outs", "blocks"), [(1, 1280, "SMALL"), (14, 1280, "LARGE"), (32, 1280, "LARGE"), (1, 5120, "LARGE")]
)
def test_small_blocks_are_chosen_where_large_ones_leave_most_programs_idle(tiles, outs, blocks):
    from medvlm_kernels import linear_triton

    assert linear_triton.choose(tiles * 730, outs, 132) == getattr(linear_triton, blocks)


ROWS = torch.zeros(2, 16, dtype=torch.bfloat16)
WEIGHT = torch.zeros(8, 16, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("rows", "weight", "last", "message"),
    [
        (ROWS[:, :8], WEIGHT, WEIGHT[:, 0], r"rows \(2, 8\) do not fit weights \(8, 16\): give \(R, I\) and \(O, I\)"),
        (ROWS[0], WEIGHT, WEIGHT[:, 0], r"rows \(16,\) do not fit weights"),
        (ROWS.float(), WEIGHT.float(), WEIGHT[:, 0], "rows are torch.float32, weights torch.float32: give both in"),
        (ROWS.half(), WEIGHT, WEIGHT[:, 0], "rows are torch.float16, weights torch.bfloat16: give both in"),
        (ROWS, WEIGHT[:7], WEIGHT[:7, 0], r"weights are \(7, 16\): both sizes must be multiples of 8"),
        (ROWS, WEIGHT[:0], WEIGHT[:0, 0], r"weights are \(0, 16\): both sizes must be multiples of 8"),
        (ROWS, WEIGHT, WEIGHT[:4, 0], r"the bias is \(4,\) torch.bfloat16: give \(8,\) of a floating type"),
        (ROWS, WEIGHT, WEIGHT[:, 0].int(), r"the bias is \(8,\) torch.int32: give \(8,\) of a floating type"),
    ],
)
def test_what_the_kernel_does_not_multiply_is_refused(rows, weight, last, message):
    from medvlm_kernels.linear_triton import linear_quick_gelu_triton

    with pytest.raises(ValueError, match=message):
        linear_quick_gelu_triton(rows, weight, last)


@pytest.mark.parametrize("residual", [ROWS, torch.zeros(2, 8), torch.zeros(8, dtype=torch.bfloat16)])
def test_a_residual_that_does_not_fit_is_refused(residual):
    from medvlm_kernels.linear_triton import linear_add_triton

    with pytest.raises(ValueError, match=r"the residual is .*: give \(2, 8\) torch\.bfloat16"):
        linear_add_triton(ROWS, WEIGHT, residual)


def test_a_fake_tensor_gets_its_shape_without_a_launch():
    from medvlm_kernels.linear_triton import linear_add_triton, linear_quick_gelu_triton

    with FakeTensorMode():
        rows = torch.empty(730, 1280, dtype=torch.bfloat16, device="cuda")
        weight = torch.empty(5120, 1280, dtype=torch.bfloat16, device="cuda")
        hidden = linear_quick_gelu_triton(rows, weight, torch.empty(5120, device="cuda"))
        out = linear_add_triton(hidden, weight.T.contiguous(), rows)
    assert (hidden.shape, hidden.dtype, hidden.device.type) == ((730, 5120), torch.bfloat16, "cuda")
    assert (out.shape, out.dtype, out.device.type) == ((730, 1280), torch.bfloat16, "cuda")
