"""The operations of the three-scale tower.

Each is what its twin in ``reference`` says.  On a CUDA device where Triton is installed, a kernel computes it;
``MEDVLM_KERNELS=off`` runs the twins everywhere.
"""

import functools
import importlib.util
import os

import torch

from medvlm_kernels import reference
from medvlm_kernels.backends import BACKENDS, attention
from medvlm_kernels.geometry import Geometry
from medvlm_kernels.reference import check_images, quick_gelu

__all__ = [
    "BACKENDS",
    "Geometry",
    "attention",
    "check_images",
    "has_triton",
    "linear_add",
    "linear_quick_gelu",
    "merge",
    "normalise",
    "patchify",
    "quick_gelu",
]


def patchify(
    images: torch.Tensor, geometry: Geometry, centre: tuple[int, int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Figures as the patches of all tiles at all scales; see ``reference.patchify``.

    There is no kernel for antialiased scales.
    """
    if _kernels(images) and not geometry.antialias:
        from medvlm_kernels.patchify_triton import patchify_triton

        return patchify_triton(images, geometry, centre, dtype)
    return reference.patchify(images, geometry, centre, dtype)


def normalise(
    hidden: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Layer norm of rows to which something is still to be added; see ``reference.normalise``."""
    if _kernels(hidden):
        from medvlm_kernels.normalise_triton import normalise_triton

        return normalise_triton(hidden, shift, weight, bias, eps)
    return reference.normalise(hidden, shift, weight, bias, eps)


def linear_quick_gelu(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A product with bias and QuickGELU; see ``reference.linear_quick_gelu``."""
    if _kernels(rows) and rows.element_size() == 2:
        from medvlm_kernels.linear_triton import linear_quick_gelu_triton

        return linear_quick_gelu_triton(rows, weight, bias)
    return reference.linear_quick_gelu(rows, weight, bias)


def linear_add(rows: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """A product added to what is there; see ``reference.linear_add``."""
    if _kernels(rows) and rows.element_size() == 2:
        from medvlm_kernels.linear_triton import linear_add_triton

        return linear_add_triton(rows, weight, residual)
    return reference.linear_add(rows, weight, residual)


def merge(
    tiles: torch.Tensor, places: torch.Tensor, factors: tuple[int, ...], shift: torch.Tensor | None = None
) -> torch.Tensor:
    """The tokens of figures from those of their tiles; see ``reference.merge``."""
    if _kernels(tiles):
        from medvlm_kernels.merge_triton import merge_triton

        return merge_triton(tiles, places, factors, shift)
    return reference.merge(tiles, places, factors, shift)


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; torch brings it for CUDA on Linux."""
    return importlib.util.find_spec("triton") is not None


def _kernels(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda and has_triton() and os.environ.get("MEDVLM_KERNELS") != "off"
