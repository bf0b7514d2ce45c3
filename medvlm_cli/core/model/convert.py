"""Weights of open_clip's towers under the names of Hugging Face's ``CLIPVisionModel``.

Legend: T patches of a tile, C channels of the tower.
"""

import re
from collections.abc import Mapping, Sequence

import torch

from medvlm_cli.core.errors import ConfigError

_OPEN_CLIP = (
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),  # Hugging Face's spelling
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", r"encoder.layers.\1.self_attn.qkv.\2"),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
)
_TIMM = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding.weight"),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc([12])\.", r"encoder.layers.\1.mlp.fc\2."),
)


def convert_open_clip(visual: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an open_clip ``VisionTransformer`` under the names of Hugging Face's ``CLIPVisionModel``.

    The packed ``in_proj`` is split into query, key and value; the projection into the text space is dropped.

    Raises:
        ConfigError: a weight that this kind of tower does not have.
    """
    return _renamed({key: value for key, value in visual.items() if key != "proj"}, _OPEN_CLIP, "a plain CLIP ViT")


def convert_timm(trunk: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a timm ``VisionTransformer`` under the names of a ``CLIPVisionModel`` without its first norm.

    CLIP's patches have no bias: timm's is added to the positions ``(T + 1, C)`` of the patches, which is the same sum.

    Raises:
        ConfigError: a weight that this kind of tower does not have, or one it lacks.
    """
    weights = _renamed(trunk, _TIMM, "a plain ViT with a class token")
    bias = weights.pop("embeddings.patch_embedding.bias", None)
    classes, positions = "embeddings.class_embedding", "embeddings.position_embedding.weight"
    missing = [key for key in (classes, positions) if key not in weights]
    if bias is None or missing:
        raise ConfigError("the tower is no ViT with a class token and a bias of its patches", "take another tower")
    weights[classes] = weights[classes].flatten()
    weights[positions] = weights[positions][0].clone()
    weights[positions][1:] += bias
    return weights


def _renamed(
    weights: Mapping[str, torch.Tensor], rules: Sequence[tuple[str, str]], kind: str
) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        tried = (re.subn(pattern, new, key) for pattern, new in rules)
        renamed = next((new for new, hits in tried if hits), None)
        if renamed is None:
            raise ConfigError(f"the tower has a weight {key}, which {kind} has not", "take another tower")
        if ".qkv." in renamed:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[renamed.replace("qkv", f"{part}_proj")] = piece
        else:
            out[renamed] = value
    return out
