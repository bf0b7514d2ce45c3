"""Vision towers: a name -> what it is and how to load it.

Weights come through open_clip (a hub id or a local file) and are converted once to Hugging Face's CLIP, so that a
checkpoint needs no open_clip; a folder is taken as a Hugging Face CLIP vision model already.

Parameters, for whoever counts: open_clip's visual part of ViT-H-14-378 has 632,682,240.  The converted model has no
projection into the text space (1280 x 1024), so 631,371,520, and of these the features use 611,691,520 (the last block
and the last norm are kept for other readers of the folder, but never run).
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionModel

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.model.three_scale import S2ClipVisionConfig, S2ClipVisionModel

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """What a tower is.  Sizes are pixels, ``width`` is C, the channels of one token at one scale."""

    open_clip_name: str
    pretrained: str
    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    licence: str
    source: str
    mean: tuple[float, float, float] = _CLIP_MEAN
    std: tuple[float, float, float] = _CLIP_STD
    activation: str = "quick_gelu"

    def config(self, scales: Sequence[int], antialias: bool = False) -> S2ClipVisionConfig:
        """The config of this tower at these scales; the blocks' inner width is 4 C."""
        return S2ClipVisionConfig(
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            image_size=self.image_size,
            patch_size=self.patch,
            hidden_act=self.activation,
            s2_scales=list(scales),
            s2_antialias=antialias,
            image_mean=list(self.mean),
            image_std=list(self.std),
        )


TOWERS: dict[str, TowerSpec] = {
    "dfn5b-vit-h-14-378": TowerSpec(
        open_clip_name="ViT-H-14-378-quickgelu",
        pretrained="dfn5b",  # hub id apple/DFN5B-CLIP-ViT-H-14-378
        image_size=378,
        patch=14,
        width=1280,
        layers=32,
        heads=16,
        licence="apple-amlr (research only)",
        source="Data Filtering Networks, Fang et al. 2023, arXiv:2309.17425; open_clip ViT-H-14-378-quickgelu.json",
    ),
    "clip-vit-l-14-336": TowerSpec(
        open_clip_name="ViT-L-14-336-quickgelu",
        pretrained="openai",
        image_size=336,
        patch=14,
        width=1024,
        layers=24,
        heads=16,
        licence="MIT",
        source="CLIP, Radford et al. 2021, arXiv:2103.00020; open_clip ViT-L-14-336-quickgelu.json",
    ),
}


def load_tower(name_or_path: str, scales: Sequence[int], antialias: bool = False) -> S2ClipVisionModel:
    """Load a tower in float32, frozen.

    Args:
        name_or_path: a name of ``TOWERS``; a name and a local weight file, ``dfn5b-vit-h-14-378:/weights/file.bin``; or
            a folder that holds a Hugging Face CLIP vision model.
        scales: pixels, the tower's own size first, then multiples of it.
        antialias: antialias the reduction to the smaller scales.

    Raises:
        ConfigError: there is no such tower or file, or the scales do not fit it.
        RemoteError: the weights could not be fetched.
    """
    name, _, weights = name_or_path.partition(":")
    if name in TOWERS:
        config = _fitting(TOWERS[name].config, name, scales, antialias)
        return _converted(config, _open_clip_visual(name, TOWERS[name], weights))
    if not Path(name_or_path).is_dir():
        raise ConfigError(
            f"tower {name_or_path}: no such tower, and no such folder",
            f"give a folder with a CLIP vision model, or one of {', '.join(TOWERS)}, tiny",
        )
    return _from_folder(Path(name_or_path), scales, antialias)


def _fitting(make: Any, name: str, scales: Sequence[int], antialias: bool) -> S2ClipVisionConfig:
    try:
        return make(list(scales), antialias)
    except Exception as error:  # huggingface_hub wraps the ValueError of validate_architecture
        if not isinstance(error.__cause__, ValueError):
            raise
        raise ConfigError(f"tower {name}: {error.__cause__}", "mend it with --set scales=...") from error


def _open_clip_visual(name: str, spec: TowerSpec, weights: str) -> Mapping[str, torch.Tensor]:
    """The visual weights as open_clip names them."""
    import open_clip  # 10 seconds, so only when weights are converted

    if weights and not Path(weights).is_file():
        raise ConfigError(f"tower {name}: no weight file {weights}", "check the path behind the colon")
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # open_clip and the hub log to the terminal; what matters is in the error
    try:
        model = open_clip.create_model(spec.open_clip_name, pretrained=weights or spec.pretrained)
    except (OSError, RuntimeError) as error:  # the hub's errors are OSErrors; open_clip raises RuntimeError
        if weights:
            raise ConfigError(f"tower {name}: {weights} does not hold its weights ({_line(error)})") from error
        raise RemoteError(
            f"tower {name}: its weights could not be fetched ({_line(error)})",
            f"fetch them where there is a network and give --set tower={name}:/path/of/the/file, or --set tower=tiny",
        ) from error
    finally:
        logging.disable(before)
    return model.visual.state_dict()


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _converted(config: S2ClipVisionConfig, visual: Mapping[str, torch.Tensor]) -> S2ClipVisionModel:
    tower = S2ClipVisionModel(config)
    tower.clip.load_state_dict(convert_open_clip(visual))
    return tower


_RENAMED = (
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),  # Hugging Face's spelling
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
)
_PACKED = re.compile(r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$")


def convert_open_clip(visual: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an open_clip ``VisionTransformer`` under the names of Hugging Face's ``CLIPVisionModel``.

    The packed ``in_proj`` is split into query, key and value; the projection into the text space is dropped.

    Raises:
        ConfigError: a weight that this kind of tower does not have.
    """
    out: dict[str, torch.Tensor] = {}
    for key, value in visual.items():
        if key == "proj":
            continue
        if packed := _PACKED.match(key):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[f"encoder.layers.{packed[1]}.self_attn.{part}_proj.{packed[2]}"] = piece
            continue
        rules = (re.subn(pattern, new, key) for pattern, new in _RENAMED)
        renamed = next((new for new, hits in rules if hits), None)
        if renamed is None:
            raise ConfigError(f"the tower has a weight {key}, which a plain CLIP ViT has not", "take another tower")
        out[renamed] = value
    return out


def _from_folder(folder: Path, scales: Sequence[int], antialias: bool) -> S2ClipVisionModel:
    """A Hugging Face CLIP vision model; its pixel statistics from ``preprocessor_config.json`` where it has one."""
    try:
        clip = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tower {folder}: not a CLIP vision model of Hugging Face ({_line(error)})",
            "give a folder with config.json and model.safetensors",
        ) from error
    settings = clip.config.to_dict()
    settings.pop("model_type", None)
    images = folder / "preprocessor_config.json"
    if images.is_file():
        stored = json.loads(images.read_text(encoding="utf-8"))
        settings |= {key: stored[key] for key in ("image_mean", "image_std") if key in stored}
    config = _fitting(
        lambda scales, antialias: S2ClipVisionConfig(**settings, s2_scales=scales, s2_antialias=antialias),
        str(folder),
        scales,
        antialias,
    )
    tower = S2ClipVisionModel(config)
    tower.clip.load_state_dict(clip.state_dict())
    return tower
