"""The weights of a CLIP tower, folded once.

By algebra, the normalisation of pixels goes into the first product (pixels stay whole numbers), what that leaves over
and the class token into the positions, and query, key and value into one product.  The scale and offset of the layer
norms stay where they are: multiplied into 16-bit weights they would round them a second time (measured: 1.1 to 1.2
times the error), and the kernel that norms applies them for nothing.

Legend: see ``reference``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from medvlm_kernels.geometry import Geometry


@dataclass(frozen=True)
class Norm:
    """A layer norm's scale and offset, ``(C)``."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True)
class Block:
    """One transformer block; weights ``(out, in)``, biases ``(out)``, all in the tower's dtype."""

    before: Norm
    """Ahead of attention."""
    qkv_weight: torch.Tensor
    qkv_bias: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor
    between: Norm
    """Ahead of the two layers with QuickGELU between them."""
    up_weight: torch.Tensor
    up_bias: torch.Tensor
    down_weight: torch.Tensor
    down_bias: torch.Tensor


@dataclass(frozen=True)
class Weights:
    """What a tower up to its second last block computes with."""

    patch_weight: torch.Tensor
    """``(C, W)``, for the patches of ``patchify``."""
    positions: torch.Tensor
    """``(L, C)``: what is added to the product; the class token's row is all of it, its patch being zeros."""
    first: Norm
    """Ahead of the first block."""
    blocks: tuple[Block, ...]
    """All but the last: the features are what goes into that one."""
    heads: int
    eps: float
    """Of every layer norm."""
    centre: tuple[int, int, int]
    """Grey levels that ``patchify`` subtracts from each channel."""

    def to(self, device: torch.device) -> "Weights":
        """The same on a device."""
        return _moved(self, device)


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, torch.Tensor):
        return part.to(device)
    if isinstance(part, Weights | Block | Norm):
        return type(part)(**{name: _moved(one, device) for name, one in vars(part).items()})
    return tuple(_moved(one, device) for one in part) if isinstance(part, tuple) else part


def fold(
    state: Mapping[str, torch.Tensor], *, heads: int, eps: float, mean: tuple[float, ...], std: tuple[float, ...],
    geometry: Geometry, dtype: torch.dtype,
) -> Weights:  # fmt: skip
    """Fold the weights of a Hugging Face ``CLIPVisionModel`` with QuickGELU.

    Args:
        state: its ``state_dict``, of any dtype and device.
        heads: H of its attention.
        eps: of its layer norms.
        mean: of each channel, from 0 to 1, that pixels are normalised with.
        std: standard deviation to ``mean``.
        geometry: the tower's sizes; tile and patch must be those of the weights.
        dtype: of the result.  What is folded is computed in float64 and rounded once.

    Raises:
        ValueError: the weights are of another size than ``geometry`` says.
    """
    convolution = state["embeddings.patch_embedding.weight"].double()  # C, 3, patch, patch
    places = state["embeddings.position_embedding.weight"].double()  # L, C
    if convolution.shape[1:] != (3, geometry.patch, geometry.patch) or len(places) != geometry.tokens + 1:
        raise ValueError(
            f"the weights are of patches {tuple(convolution.shape[1:])} and {len(places)} tokens, not of "
            f"(3, {geometry.patch}, {geometry.patch}) and {geometry.tokens + 1}"
        )
    centre = tuple(round(255 * value) for value in mean)
    means, spreads = (convolution.new_tensor(values)[:, None, None] for values in (mean, std))
    rest = (convolution.new_tensor(centre)[:, None, None] / 255 - means) / spreads  # what a pixel at the centre is
    patches = (convolution / (255 * spreads)).flatten(1)
    positions = places.clone()
    positions[0] += state["embeddings.class_embedding"].double()
    positions[1:] += (convolution * rest).sum((1, 2, 3))
    last = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    return Weights(
        patch_weight=torch.nn.functional.pad(patches, (0, geometry.width - geometry.columns)).to(dtype),
        positions=positions.to(dtype),
        first=_norm(state, "pre_layrnorm", dtype),  # Hugging Face's spelling
        blocks=tuple(_block(state, f"encoder.layers.{number}.", dtype) for number in range(last - 1)),
        heads=heads,
        eps=eps,
        centre=(centre[0], centre[1], centre[2]),
    )


def _block(state: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> Block:
    def get(rest: str) -> torch.Tensor:
        return state[name + rest].to(dtype)

    weight, bias = (torch.cat([get(f"self_attn.{part}_proj.{kind}") for part in "qkv"]) for kind in ("weight", "bias"))
    return Block(
        before=_norm(state, f"{name}layer_norm1", dtype),
        qkv_weight=weight,
        qkv_bias=bias,
        out_weight=get("self_attn.out_proj.weight"),
        out_bias=get("self_attn.out_proj.bias"),
        between=_norm(state, f"{name}layer_norm2", dtype),
        up_weight=get("mlp.fc1.weight"),
        up_bias=get("mlp.fc1.bias"),
        down_weight=get("mlp.fc2.weight"),
        down_bias=get("mlp.fc2.bias"),
    )


def _norm(state: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> Norm:
    return Norm(state[f"{name}.weight"].to(dtype), state[f"{name}.bias"].to(dtype))
