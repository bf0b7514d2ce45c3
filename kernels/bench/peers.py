"""What the encoder is measured against: S2's composition over the towers that others publish, on one set of weights.

Legend: B figures, K tiles along one side of a figure at one scale, P pixels along the side of a tile, S patches along
the side of a tile, T = S * S tokens, C channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from medvlm_kernels.geometry import Geometry

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
EPS = 1e-5
THREE_SCALES = Geometry(378, 14, (1, 2, 3))
PAD_COLOUR = tuple(int(mean * 255) for mean in MEAN)
Images = torch.Tensor
Encode = Callable[[Images], torch.Tensor]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of a tower; the defaults are those of ViT-H/14-378 at three scales."""

    layers: int = 32
    width: int = 1280
    heads: int = 16
    hidden: int = 5120
    geometry: Geometry = THREE_SCALES

    @property
    def flops(self) -> int:
        """Floating point operations that the features of one figure need: every block but the last."""
        tokens, width = self.geometry.tokens + 1, self.width
        products = 2 * tokens * width * (4 * width + 2 * self.hidden)
        attention = 4 * tokens**2 * width
        patches = 2 * self.geometry.tokens * self.geometry.columns * width
        return self.geometry.tiles * (patches + (self.layers - 1) * (products + attention))


def random_state(shape: Shape, seed: int = 0) -> State:
    """Weights that keep signals in the range a trained tower has them in, under the names of Hugging Face's CLIP.

    Products keep the variance of their input, so the residual stream grows with depth as it does after training;
    queries and keys are twice as large, so that attention picks out some tokens instead of averaging over all.

    Args:
        shape: of the tower.
        seed: of the generator.

    Returns:
        float32 on the CPU, every block and the last norm.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float) -> torch.Tensor:
        return torch.empty(*size).normal_(0, std, generator=random)

    def product(name: str, out: int, into: int, gain: float = 1.0) -> State:
        weight = normal(out, into, std=gain / math.sqrt(into))
        return {f"{name}.weight": weight, f"{name}.bias": normal(out, std=0.1)}

    def norm(name: str) -> State:
        return {f"{name}.weight": 1 + normal(shape.width, std=0.1), f"{name}.bias": normal(shape.width, std=0.1)}

    geometry, width = shape.geometry, shape.width
    state = {
        "embeddings.class_embedding": normal(width, std=0.5),
        "embeddings.patch_embedding.weight": normal(
            width, 3, geometry.patch, geometry.patch, std=1 / math.sqrt(geometry.columns)
        ),
        "embeddings.position_embedding.weight": normal(geometry.tokens + 1, width, std=0.5),
        **norm("pre_layrnorm"),
        **norm("post_layernorm"),
    }
    for layer in range(shape.layers):
        block = f"encoder.layers.{layer}"
        for name, gain in {"q_proj": 2.0, "k_proj": 1.0, "v_proj": 1.0, "out_proj": 1.0}.items():
            state |= product(f"{block}.self_attn.{name}", width, width, gain)
        state |= norm(f"{block}.layer_norm1") | norm(f"{block}.layer_norm2")
        state |= product(f"{block}.mlp.fc1", shape.hidden, width) | product(f"{block}.mlp.fc2", width, shape.hidden)
    return state


def composition(tower: Encode, geometry: Geometry, dtype: torch.dtype) -> Encode:
    """S2 over a tower: one forward a scale, tiles sewn together, averaged down, scales joined.

    Source: S2, Shi et al. 2024, arXiv:2403.13043, with its dtypes: resized in float32 and cast back to the tower's,
    averaged in float32 and cast back.

    Args:
        tower: ``(tiles, 3, P, P)`` normalised in ``dtype`` to patch tokens ``(tiles, T, C)``.
        geometry: sizes and scales.
        dtype: of pixels and features.

    Returns:
        A function from ``(B, 3, Z, Z)`` uint8 to features ``(B, T, len(factors) * C)``.
    """
    side, tile = geometry.side, geometry.tile

    def encode(images: Images) -> torch.Tensor:
        mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
        pixels = ((images.float() / 255 - mean) / std).to(dtype)
        scales = []
        for factor in geometry.factors:
            size = factor * tile
            resized = F.interpolate(pixels.float(), size=(size, size), mode="bicubic", align_corners=False).to(dtype)
            rows = [row for band in resized.split(tile, dim=2) for row in band.split(tile, dim=3)]
            tokens = tower(torch.cat(rows))
            grids = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side).split(len(images))
            bands = [torch.cat(grids[row * factor : (row + 1) * factor], dim=3) for row in range(factor)]
            whole = torch.cat(bands, dim=2)
            scales.append(F.interpolate(whole.float(), size=(side, side), mode="area").to(dtype))
        return torch.cat(scales, dim=1).flatten(2).transpose(1, 2)

    return encode


def hugging_face(state: State, shape: Shape, dtype: torch.dtype, device: str) -> Encode:
    """S2 over ``CLIPVisionModel`` as Llama3-Med runs it: every block, all hidden states kept, the second last taken."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    geometry = shape.geometry
    config = CLIPVisionConfig(
        hidden_size=shape.width, intermediate_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, image_size=geometry.tile, patch_size=geometry.patch,
        hidden_act="quick_gelu", layer_norm_eps=EPS,
    )  # fmt: skip
    with torch.device("meta"):  # its own random weights would take longer than the measurement
        model = CLIPVisionModel(config)
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in state.items()}, assign=True)
    model.embeddings.position_ids = torch.arange(geometry.tokens + 1, device=device)[None]  # in no state dict
    model.eval().requires_grad_(False)

    def tower(tiles: torch.Tensor) -> torch.Tensor:
        return model(tiles, output_hidden_states=True).hidden_states[-2][:, 1:]

    return composition(tower, geometry, dtype)


def open_clip(state: State, shape: Shape, dtype: torch.dtype, device: str) -> Encode:
    """S2 over open_clip's ``VisionTransformer``; in bfloat16 as ``precision='bf16'`` makes it, with norms in float32.

    Stops after the second last block, which its ``forward_intermediates`` offers.
    """
    from open_clip.model import convert_weights_to_lp
    from open_clip.transformer import LayerNorm, LayerNormFp32, QuickGELU, VisionTransformer

    geometry, low = shape.geometry, dtype in (torch.bfloat16, torch.float16)
    with torch.device("meta"):
        model = VisionTransformer(
            geometry.tile, geometry.patch, shape.width, shape.layers, shape.heads, shape.hidden / shape.width,
            output_dim=1, act_layer=QuickGELU, norm_layer=LayerNormFp32 if low else LayerNorm,
        )  # fmt: skip
    own = {name: tensor.to(device) for name, tensor in _as_open_clip(state, shape).items()}
    model.load_state_dict(own, assign=True)
    if low:
        convert_weights_to_lp(model, dtype)
    model.eval().requires_grad_(False)
    penultimate: dict[str, Any] = {
        "indices": [shape.layers - 2], "stop_early": True, "intermediates_only": True, "output_fmt": "NLC"
    }  # fmt: skip
    return composition(
        lambda tiles: model.forward_intermediates(tiles, **penultimate)["image_intermediates"][0], geometry, dtype
    )


def timm(state: State, shape: Shape, dtype: torch.dtype, device: str) -> Encode:
    """S2 over timm's ``vit_huge_patch14_clip_quickgelu_378``, every weight in ``dtype``; where open_clip is missing."""
    import timm as library

    geometry = shape.geometry
    with torch.device("meta"):
        model = library.create_model(
            "vit_huge_patch14_clip_quickgelu_378", num_classes=0, img_size=geometry.tile, patch_size=geometry.patch,
            embed_dim=shape.width, depth=shape.layers, num_heads=shape.heads, mlp_ratio=shape.hidden / shape.width,
        )  # fmt: skip
    own = {name: tensor.to(device, dtype) for name, tensor in _as_timm(state, shape).items()}
    model.load_state_dict(own, assign=True)
    model.eval().requires_grad_(False)
    penultimate: dict[str, Any] = {
        "indices": [shape.layers - 2], "stop_early": True, "intermediates_only": True, "output_fmt": "NLC",
        "norm": False,
    }  # fmt: skip
    return composition(lambda tiles: model.forward_intermediates(tiles, **penultimate)[0], geometry, dtype)


def _packed(state: State, block: str, kind: str) -> torch.Tensor:
    return torch.cat([state[f"{block}.self_attn.{name}_proj.{kind}"] for name in "qkv"])


def _as_open_clip(state: State, shape: Shape) -> State:
    names = {"layer_norm1": "ln_1", "self_attn.out_proj": "attn.out_proj", "layer_norm2": "ln_2",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    own = {
        "class_embedding": state["embeddings.class_embedding"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "proj": torch.ones(shape.width, 1),  # of the pooled feature, which nobody asks for
    }
    for kind in ("weight", "bias"):
        own |= {f"ln_pre.{kind}": state[f"pre_layrnorm.{kind}"], f"ln_post.{kind}": state[f"post_layernorm.{kind}"]}
        for layer in range(shape.layers):
            block, there = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            own[f"{there}.attn.in_proj_{kind}"] = _packed(state, block, kind)
            own |= {f"{there}.{new}.{kind}": state[f"{block}.{name}.{kind}"] for name, new in names.items()}
    return own


def _as_timm(state: State, shape: Shape) -> State:
    names = {"layer_norm1": "norm1", "self_attn.out_proj": "attn.proj", "layer_norm2": "norm2",
             "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip
    own = {
        "cls_token": state["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": state["embeddings.patch_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        own |= {f"norm_pre.{kind}": state[f"pre_layrnorm.{kind}"], f"norm.{kind}": state[f"post_layernorm.{kind}"]}
        for layer in range(shape.layers):
            block, there = f"encoder.layers.{layer}", f"blocks.{layer}"
            own[f"{there}.attn.qkv.{kind}"] = _packed(state, block, kind)
            own |= {f"{there}.{new}.{kind}": state[f"{block}.{name}.{kind}"] for name, new in names.items()}
    return own
