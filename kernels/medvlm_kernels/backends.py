"""Ways to compute attention: which there are, which a device can use, and which is fastest.

Legend: see ``reference``.
"""

import contextlib
import ctypes
import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from medvlm_kernels import measured

BACKENDS = ("auto", "xformers", "cudnn", "flash", "efficient", "math", "cpu")
"""``auto`` is the fastest of those that work; ``cpu`` is a chain of matrix products, made for bfloat16."""
SAFE_CUDNN = 91501
"""cuDNN 9.15.1: older ones go wrong with lengths that are no multiple of 128, such as 730 (pytorch issue 169849)."""
_SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_ORDER = {"cuda": ("cudnn", "flash", "efficient", "math"), "cpu": ("flash", "math")}
"""What takes the place of a backend that cannot be used: the first that can."""

log = logging.getLogger(__name__)


def attention(qkv: torch.Tensor, backend: str) -> torch.Tensor:
    """Attention of each tile with itself, by a given backend; see ``reference.attention``.

    Args:
        qkv: ``(U, L, 3, H, D)``.
        backend: one of ``BACKENDS`` other than ``auto``.

    Returns:
        ``(U, L, H * D)``.
    """
    if backend == "cpu":
        return _products(qkv)
    if backend == "xformers":
        query, key, value = qkv.unbind(2)  # each U, L, H, D: the order that xformers wants
        return _xformers().memory_efficient_attention(query, key, value).flatten(2)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    with sdpa_kernel(_SDPA[backend]):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def choose(backend: str, qkv: torch.Tensor) -> str:
    """The backend to use for tiles like these.

    Args:
        backend: one of ``BACKENDS``.
        qkv: an example, ``(U, L, 3, H, D)``; what is in it does not matter.

    Returns:
        A backend other than ``auto``.  One that cannot be used here is replaced, and a line of the log says why.

    Raises:
        ValueError: there is no such backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no attention backend {backend!r}: give one of {', '.join(BACKENDS)}")
    kind = "cpu" if qkv.device.type == "cpu" else "cuda"
    if backend == "auto":
        if kind == "cpu":  # its flash kernel computes products of bfloat16 in float32, at a third of the rate
            return "cpu" if qkv.dtype == torch.bfloat16 and _has_narrow_products() else "flash"
        usable = [name for name in BACKENDS[1:-1] if name != "math" and refusal(name, qkv) is None] or ["math"]
        ways: dict[str, Callable[[], Any]] = {name: functools.partial(attention, qkv, name) for name in usable}
        return measured.fastest(f"attention {tuple(qkv.shape)} {qkv.dtype}", ways, qkv.device)
    reason = refusal(backend, qkv)
    if reason is None:
        return backend
    other = next(name for name in _ORDER[kind] if refusal(name, qkv) is None)
    log.warning("attention backend '%s' cannot be used: %s; '%s' takes its place", backend, reason, other)
    return other


def refusal(backend: str, qkv: torch.Tensor) -> str | None:
    """Why a backend cannot compute the attention of these tiles; None where it can."""
    if qkv.device.type == "cpu":
        if backend in ("flash", "math"):
            return None
        if backend == "cpu":
            return None if _has_narrow_products() else "this torch does not let oneDNN compute in bfloat16"
        return f"'{backend}' runs on CUDA devices only"
    if backend == "cpu":
        return "it is for the CPU"
    if backend == "xformers" and importlib.util.find_spec("xformers") is None:
        return "xformers is not installed (pip install 'medvlm[train]')"
    if backend == "cudnn" and (reason := unsafe_cudnn(torch.backends.cudnn.version(), qkv.shape[1])):
        return reason
    try:
        attention(qkv, backend)
    except (RuntimeError, NotImplementedError, ImportError, OSError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def unsafe_cudnn(version: int | None, length: int) -> str | None:
    """Why cuDNN must not compute attention over so many tokens; None where it may.

    Args:
        version: as ``torch.backends.cudnn.version()`` gives it, 91501 for 9.15.1; None where there is none.
        length: L.
    """
    if version is None:
        return "there is no cuDNN"
    if version < SAFE_CUDNN and length % 128:
        named = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
        return f"cuDNN {named} is unsafe with {length} tokens, 9.15.1 is the first that is not"
    return None


def _products(qkv: torch.Tensor) -> torch.Tensor:
    """Matrix products, a head at a time: the scores of one head fit the cache, those of all do not.

    Of bfloat16, the scores are kept in float32, as a flash kernel keeps them: rounded to bfloat16 they cost six times
    the error.  oneDNN's products of two bfloat16 matrices with a float32 result go by the name of float32 products that
    may compute in bfloat16.
    """
    tiles, length, _, heads, channels = qkv.shape
    out = qkv.new_empty(tiles, heads, length, channels)
    query, key, value = (part.contiguous() for part in qkv.permute(2, 0, 3, 1, 4))  # each U, H, L, D
    wide = torch.promote_types(qkv.dtype, torch.float32)
    query, key = query.to(wide) * channels**-0.5, key.to(wide).transpose(-1, -2)
    for one in range(tiles * heads):
        place = divmod(one, heads)
        with _narrow_products(qkv.dtype == torch.bfloat16):
            scores = query[place] @ key[place]
        torch.mm(scores.softmax(-1).to(qkv.dtype), value[place], out=out[place])
    return out.transpose(1, 2).flatten(2)


def _has_narrow_products() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.backends.mkldnn, "matmul")


@contextlib.contextmanager
def _narrow_products(narrow: bool) -> Iterator[None]:
    """Let oneDNN compute float32 products of numbers that are bfloat16 already in bfloat16."""
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "bf16" if narrow else before
    try:
        yield
    finally:
        products.fp32_precision = before


@functools.cache
def _xformers() -> Any:
    """``xformers.ops``.

    The registry's wheel is linked against CUDA 12; beside a torch of CUDA 13 its library is found only if the older
    runtime (0.9 MB, package nvidia-cuda-runtime-cu12) was loaded before.
    """
    spec = importlib.util.find_spec("nvidia.cuda_runtime") if importlib.util.find_spec("nvidia") else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(folder).glob("lib/libcudart.so.12"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import xformers.ops

    return xformers.ops
