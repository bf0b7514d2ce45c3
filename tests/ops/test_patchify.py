"""The kernel of ``patchify`` against its twin."""

from unittest.mock import patch

import pytest
import torch
from medvlm_kernels import reference
from medvlm_kernels.geometry import Geometry
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cases import excess, interpret, needs_cuda, poisoned

pytest.importorskip("triton")

CENTRE = (123, 117, 104)
FULL_SIZE = Geometry(378, 14, (1, 2, 3))
SMALL, LARGE = 2**11, 2**19
"""Numbers of a program in the interpreter, which pays by the operation more than by the number."""

CASES = {
    "1+2+3": {"geometry": Geometry(28, 14, (1, 2, 3))},
    "1+2+3-float16": {"geometry": Geometry(28, 14, (1, 2, 3)), "dtype": torch.float16},
    "1+2+3-bfloat16": {"geometry": Geometry(28, 14, (1, 2, 3)), "dtype": torch.bfloat16},
    "1+3": {"geometry": Geometry(8, 4, (1, 3))},
    "1+2+4": {"geometry": Geometry(6, 3, (1, 2, 4))},
    "1+2+4-bfloat16": {"geometry": Geometry(6, 3, (1, 2, 4)), "dtype": torch.bfloat16},
    "1": {"geometry": Geometry(5, 5, (1,))},
    "2": {"geometry": Geometry(9, 3, (2,))},
    "5+3+4": {"geometry": Geometry(4, 1, (5, 3, 4))},
    "colours-next-to-each-other": {"geometry": Geometry(8, 4, (1, 2, 3)), "layout": (0, 3, 1, 2)},
    "figures-innermost": {"geometry": Geometry(8, 4, (1, 2, 3)), "layout": (3, 0, 1, 2)},
    "every-other-column": {"geometry": Geometry(8, 4, (1, 2, 3)), "step": 2},
    "farther-apart-than-32-bits-count": {"geometry": Geometry(8, 4, (1, 2, 3)), "figures": 1, "apart": 2**30 + 1},
    "the-block-of-a-device": {"geometry": Geometry(8, 4, (1, 2, 3)), "block": 512},
    "no-figures": {"geometry": Geometry(8, 4, (1, 2, 3)), "figures": 0},
    "full-size": {"geometry": FULL_SIZE, "figures": 1, "layout": (0, 3, 1, 2), "block": LARGE},
}  # fmt: skip


def drawn(figures, geometry, layout, step, apart):
    """Figures of random bytes whose memory lies in another order than their dimensions."""
    shape = (figures, 3, geometry.size, geometry.size * step)
    generator = torch.Generator().manual_seed(0)
    if apart:  # bytes from channel to channel; what lies between is never touched and takes no memory
        memory = torch.empty(3 * apart, dtype=torch.uint8)
        images = memory.as_strided(shape, (0, apart, shape[3], 1))
    else:
        images = torch.empty([shape[layout.index(axis)] for axis in range(4)], dtype=torch.uint8).permute(layout)
    return images.random_(0, 256, generator=generator)[..., ::step]


def measure(
    geometry, dtype=torch.float32, figures=2, layout=(0, 1, 2, 3), step=1, apart=None, block=SMALL, device="cpu"
):  # fmt: skip
    from medvlm_kernels import patchify_triton

    images = drawn(figures, geometry, layout, step, apart).to(device)
    block = patchify_triton.BLOCK if device == "cuda" else block
    with poisoned(), patch.object(patchify_triton, "BLOCK", block):
        out = patchify_triton.patchify_triton(images, geometry, CENTRE, dtype)
    if not figures:
        return float(out.shape != (0, geometry.tiles, geometry.tokens, geometry.width))
    truth = reference.patchify(images, geometry, CENTRE, torch.float64)
    return excess(out, reference.patchify(images, geometry, CENTRE, dtype), truth)


@pytest.fixture(scope="module")
def interpreted():
    return interpret("test_patchify")


@pytest.mark.parametrize("name", CASES)
def test_kernel_errs_at_most_twice_as_much_as_the_reference(name, interpreted):
    assert interpreted(name) <= 1


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_device_errs_at_most_twice_as_much_as_the_reference(name):
    assert measure(**CASES[name], device="cuda") <= 1


def test_antialiasing_and_unknown_types_are_refused():
    from medvlm_kernels.patchify_triton import patchify_triton

    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"use reference\.patchify for antialias"):
        patchify_triton(images, Geometry(4, 2, (1, 2), antialias=True), CENTRE, torch.float32)
    with pytest.raises(ValueError, match=r"patches of torch\.float64 are not written"):
        patchify_triton(images, Geometry(4, 2, (1, 2)), CENTRE, torch.float64)
    with pytest.raises(ValueError, match=r"images are \(1, 3, 8, 8\) torch\.float32: give"):
        patchify_triton(images.float(), Geometry(4, 2, (1, 2)), CENTRE, torch.float32)


def test_a_fake_tensor_gets_its_shape_without_a_launch():
    from medvlm_kernels.patchify_triton import patchify_triton

    with FakeTensorMode():
        images = torch.empty(2, 3, 1134, 1134, dtype=torch.uint8, device="cuda")
        out = patchify_triton(images, FULL_SIZE, CENTRE, torch.bfloat16)
    assert (out.shape, out.dtype, out.device.type) == ((2, 14, 729, 592), torch.bfloat16, "cuda")
