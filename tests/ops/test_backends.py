"""Backends of attention: what they compute, and what is said of one that cannot be used."""

import pytest
import torch
from medvlm_kernels import backends, reference

CPU_BACKENDS = ["flash", "math", "cpu"]


def packed(dtype, tiles=2, length=10, heads=2, channels=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(tiles, length, 3, heads, channels, generator=random, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("length", "channels"), [(10, 8), (730, 80), (1, 16)])
def test_every_backend_computes_attention(backend, dtype, error, length, channels):
    qkv = packed(dtype, length=length, channels=channels)
    expected = reference.attention(qkv.double())
    found = backends.attention(qkv, backend)
    assert found.dtype == dtype
    assert (found - expected).norm() / expected.norm() <= error


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.float32, "flash"), (torch.bfloat16, "cpu"), (torch.float16, "flash")]
)
def test_auto_takes_products_for_bfloat16_on_a_cpu_and_flash_for_the_rest(dtype, expected):
    assert backends.choose("auto", packed(dtype)) == expected


def test_products_err_little_more_than_flash_with_large_scores():
    qkv = packed(torch.bfloat16, length=730, channels=80)
    qkv[:, :, :2] *= 2
    truth = reference.attention(qkv.double())
    products, flash = ((backends.attention(qkv, name) - truth).norm() / truth.norm() for name in ("cpu", "flash"))
    assert products <= 1.5 * flash


def test_products_leave_the_precision_of_float32_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision
    backends.attention(packed(torch.bfloat16), "cpu")
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("backend", ["xformers", "cudnn", "efficient"])
def test_a_backend_that_a_cpu_lacks_is_named_with_the_reason_and_what_takes_its_place(backend, caplog):
    assert backends.choose(backend, packed(torch.float32)) == "flash"
    reason = f"'{backend}' runs on CUDA devices only"
    assert caplog.messages == [f"attention backend '{backend}' cannot be used: {reason}; 'flash' takes its place"]


def test_a_backend_that_works_is_taken_without_a_word(caplog):
    assert backends.choose("math", packed(torch.float32)) == "math"
    assert caplog.messages == []


def test_an_unknown_backend_is_refused_with_the_names():
    with pytest.raises(ValueError, match="no attention backend 'fa9': give one of auto, xformers, cudnn, flash"):
        backends.choose("fa9", packed(torch.float32))


@pytest.mark.parametrize(
    ("version", "length", "reason"),
    [
        (91500, 730, "cuDNN 9.15.0 is unsafe with 730 tokens, 9.15.1 is the first that is not"),
        (90701, 730, "cuDNN 9.7.1 is unsafe with 730 tokens, 9.15.1 is the first that is not"),
        (91501, 730, None),
        (91900, 730, None),
        (91500, 256, None),
        (None, 730, "there is no cuDNN"),
    ],
)
def test_old_versions_of_cudnn_are_unsafe_with_lengths_that_128_does_not_divide(version, length, reason):
    assert backends.unsafe_cudnn(version, length) == reason


def test_a_missing_xformers_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    qkv = torch.empty(1, 4, 3, 1, 8, device="meta")  # neither a CPU nor a device to ask
    assert backends.refusal("xformers", qkv) == "xformers is not installed (pip install 'medvlm[train]')"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["auto", "xformers", "cudnn", "flash", "efficient", "math"])
def test_every_backend_of_a_device_computes_attention(backend):
    qkv = packed(torch.bfloat16, length=730, channels=80).cuda()
    chosen = backends.choose(backend, qkv)
    expected = reference.attention(qkv.double())
    assert (backends.attention(qkv, chosen) - expected).norm() / expected.norm() <= 2e-2
