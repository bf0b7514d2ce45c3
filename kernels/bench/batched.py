"""The batched path without a line of kernel code: PyTorch's operations, compiled.  What hand-written kernels must beat.

Legend: U tiles of one call, L tokens of a tile with the class token, C channels, T patch tokens, W columns of a patch.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from medvlm_kernels import reference
from peers import EPS, MEAN, STD, Encode, Images, Shape, State

CENTRE = tuple(round(255 * mean) for mean in MEAN)
Block = tuple[torch.Tensor, ...]


def batched(
    state: State, shape: Shape, dtype: torch.dtype, device: str, around: Callable[[Any], Any] = torch.compile
) -> Encode:
    """All tiles of all scales through the blocks but the last, QuickGELU and norms left to the compiler.

    Args:
        state: see ``peers.random_state``.
        shape: of the tower.
        dtype: of weights and tokens.
        device: where.
        around: wraps one block; the identity leaves it as it is.
    """
    geometry, width, heads = shape.geometry, shape.width, shape.heads
    own = {name: tensor.to(device) for name, tensor in state.items()}
    blocks = [tuple(part.to(dtype) for part in _block(own, layer)) for layer in range(shape.layers - 1)]
    kernel, rest = _folded(own["embeddings.patch_embedding.weight"])
    places = own["embeddings.position_embedding.weight"]
    first = (own["embeddings.class_embedding"] + places[0]).to(dtype)
    places = (places[1:] + rest).to(dtype)
    kernel = F.pad(kernel, (0, geometry.width - geometry.columns)).to(dtype)
    norm = [own[f"pre_layrnorm.{kind}"].to(dtype) for kind in ("weight", "bias")]

    def step(tokens: torch.Tensor, block: Block) -> torch.Tensor:
        one, one_bias, qkv, qkv_bias, out, out_bias, two, two_bias, up, up_bias, down, down_bias = block
        packed = F.linear(F.layer_norm(tokens, (width,), one, one_bias, EPS), qkv, qkv_bias)
        query, key, value = packed.view(*tokens.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + F.linear(seen, out, out_bias)
        inner = F.linear(F.layer_norm(tokens, (width,), two, two_bias, EPS), up, up_bias)
        return tokens + F.linear(inner * torch.sigmoid(1.702 * inner), down, down_bias)

    run = around(step)

    def encode(images: Images) -> torch.Tensor:
        patches = reference.patchify(images, geometry, CENTRE, dtype).flatten(0, 1)
        done = []
        for chunk in patches.split(4 * geometry.tiles):  # one size for whole figures: nothing compiles twice
            tokens = torch.cat([first.expand(len(chunk), 1, width), F.linear(chunk, kernel) + places], dim=1)
            tokens = F.layer_norm(tokens, (width,), *norm, EPS)
            for block in blocks:
                tokens = run(tokens, block)
            done.append(tokens[:, 1:])
        where = torch.arange(len(patches), device=images.device).view(len(images), -1)
        return reference.merge(torch.cat(done), where, geometry.factors)

    return encode


def _folded(convolution: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch weights for pixels around ``CENTRE``, and what a pixel at ``CENTRE`` gives."""
    mean, std = (torch.tensor(values, device=convolution.device).view(3, 1, 1) for values in (MEAN, STD))
    centre = torch.tensor(CENTRE, device=convolution.device).view(3, 1, 1)
    rest = (convolution * ((centre / 255 - mean) / std)).sum((1, 2, 3))
    return (convolution / (255 * std)).flatten(1), rest


def _block(state: State, layer: int) -> Block:
    name = f"encoder.layers.{layer}"
    packed = [
        torch.cat([state[f"{name}.self_attn.{part}_proj.{kind}"] for part in "qkv"]) for kind in ("weight", "bias")
    ]
    parts = [[state[f"{name}.{part}.{kind}"] for kind in ("weight", "bias")]
             for part in ("layer_norm1", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2")]  # fmt: skip
    return (*parts[0], *packed, *(one for part in parts[1:] for one in part))
