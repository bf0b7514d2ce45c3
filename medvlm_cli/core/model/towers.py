"""Vision towers: a name -> what it is and how to load it.

Weights come from where their makers put them (a hub id or a local file) and are converted once to Hugging Face's CLIP
or SigLIP, so that a checkpoint needs neither open_clip nor timm; a folder is taken as such a model already.

Parameters, for whoever counts: open_clip's visual part of ViT-H-14-378 has 632,682,240.  The converted model has no
projection into the text space (1280 x 1024), so 631,371,520, and of these the features use 611,691,520 (the last block
and the last norm are kept for other readers of the folder, but never run).
"""

import difflib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from transformers import CLIPVisionModel, PreTrainedModel, SiglipVisionModel

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.model.convert import convert_open_clip, convert_timm
from medvlm_cli.core.model.foreign import reading
from medvlm_cli.core.model.standalone import S2ClipVisionConfig
from medvlm_cli.core.model.three_scale import S2ClipVisionModel

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
_WEIGHTS = "open_clip_pytorch_model.bin"
"""How open_clip names a file of weights on the hub."""
_OWN = {"model_type", "vision_use_head"}
"""Settings of a Hugging Face tower that ours has its own values of."""


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """What a tower is.  Sizes are pixels, ``width`` is C, the channels of one token at one scale.

    ``clip`` is a CLIP ViT of open_clip, ``vit`` a timm ViT in open_clip's CLIP, ``siglip`` a SigLIP of Hugging Face.
    Only a ``clip`` with QuickGELU takes the fused path of ``three_scale``; the others take the plain one.
    """

    kind: Literal["clip", "vit", "siglip"] = "clip"
    open_clip_name: str = ""
    """Of ``clip``."""
    pretrained: str
    """Of ``clip`` open_clip's tag; of the others a hub id."""
    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    hidden: int | None = None
    """Channels between the two layers of a block's MLP; None for 4 C."""
    licence: str
    source: str
    mean: tuple[float, float, float] = _CLIP_MEAN
    std: tuple[float, float, float] = _CLIP_STD
    activation: str = "quick_gelu"
    eps: float = 1e-5

    def config(self, scales: Sequence[int], antialias: bool = False) -> S2ClipVisionConfig:
        """The config of this tower at these scales."""
        return S2ClipVisionConfig(
            s2_tower=self.kind,
            hidden_size=self.width,
            intermediate_size=self.hidden or 4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            image_size=self.image_size,
            patch_size=self.patch,
            hidden_act=self.activation,
            layer_norm_eps=self.eps,
            s2_scales=list(scales),
            s2_antialias=antialias,
            image_mean=list(self.mean),
            image_std=list(self.std),
        )


_SIGLIP_PAPER = "SigLIP, Zhai et al. 2023, arXiv:2303.15343"

TOWERS: dict[str, TowerSpec] = {
    "dfn5b-vit-h-14-378": TowerSpec(
        open_clip_name="ViT-H-14-378-quickgelu",
        pretrained="dfn5b",  # hub id apple/DFN5B-CLIP-ViT-H-14-378
        image_size=378,
        patch=14,
        width=1280,
        layers=32,
        heads=16,
        licence="apple-amlr (research only).  Models derived from it may be used for non-commercial research only, too",
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
    # Its patches leave 6 of 384 pixels over, which it never saw either: 378 pixels give the same 27 x 27 patches.
    "siglip-so400m-14-384": TowerSpec(
        kind="siglip",
        pretrained="google/siglip-so400m-patch14-384",
        image_size=378,
        patch=14,
        width=1152,
        layers=27,
        heads=16,
        hidden=4304,
        licence="Apache-2.0",
        source=f"{_SIGLIP_PAPER}; config.json of google/siglip-so400m-patch14-384",
        mean=_HALF,
        std=_HALF,
        activation="gelu_pytorch_tanh",
        eps=1e-6,
    ),
    "siglip-base-16-224": TowerSpec(
        kind="siglip",
        pretrained="google/siglip-base-patch16-224",
        image_size=224,
        patch=16,
        width=768,
        layers=12,
        heads=12,
        licence="Apache-2.0",
        source=f"{_SIGLIP_PAPER}; config.json of google/siglip-base-patch16-224",
        mean=_HALF,
        std=_HALF,
        activation="gelu_pytorch_tanh",
        eps=1e-6,
    ),
    "biomedclip-vit-b-16-224": TowerSpec(
        kind="vit",
        pretrained="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        image_size=224,
        patch=16,
        width=768,
        layers=12,
        heads=12,
        licence="MIT.  Its makers mean it for research, and not for any deployed use",
        source="BiomedCLIP, Zhang et al. 2023, arXiv:2303.00915; its open_clip_config.json and timm's ViT-B/16",
        activation="gelu",
        eps=1e-6,
    ),
}


def load_tower(name_or_path: str, scales: Sequence[int], antialias: bool = False) -> S2ClipVisionModel:
    """Load a tower in float32, frozen.

    Args:
        name_or_path: a name of ``TOWERS``; a name and its local weights, ``dfn5b-vit-h-14-378:/weights/file.bin`` (of
            SigLIP a folder); or a folder that holds a CLIP or SigLIP model of Hugging Face.
        scales: pixels, the tower's own size first, then multiples of it.
        antialias: antialias the reduction to the smaller scales.

    Raises:
        ConfigError: there is no such tower or file, or the scales do not fit it.
        RemoteError: the weights could not be fetched.
    """
    name, _, weights = name_or_path.partition(":")
    if name in TOWERS:
        spec = TOWERS[name]
        config = _fitting(spec.config, name, scales, antialias)
        read = {"clip": _open_clip_visual, "vit": _timm_visual, "siglip": _siglip_visual}[spec.kind]
        return _filled(config, read(name, spec, weights), f"tower {name}")
    if not Path(name_or_path).is_dir():
        near = difflib.get_close_matches(name, [*TOWERS, "tiny"], n=1)
        raise ConfigError(
            f"tower {name_or_path}: no such tower, and no such folder" + (f"; did you mean {near[0]}?" if near else ""),
            f"give a folder with a CLIP or SigLIP vision model, or one of {', '.join(TOWERS)}, tiny",
        )
    return _from_folder(Path(name_or_path), scales, antialias)


def _fitting(
    make: Callable[[list[int], bool], S2ClipVisionConfig], name: str, scales: Sequence[int], antialias: bool
) -> S2ClipVisionConfig:
    try:
        return make(list(scales), antialias)
    except Exception as error:  # huggingface_hub wraps the ValueError of validate_architecture
        if not isinstance(error.__cause__, ValueError):
            raise
        raise ConfigError(f"tower {name}: {error.__cause__}", "mend it with --set scales=...") from error


def _filled(config: S2ClipVisionConfig, weights: Mapping[str, torch.Tensor], where: str) -> S2ClipVisionModel:
    """A tower with these weights.

    Raises:
        ConfigError: they are those of another tower.
    """
    tower = S2ClipVisionModel(config)
    try:
        tower.clip.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{where}: these are the weights of another tower ({reason})", "take its own") from error
    return tower


def _open_clip_visual(name: str, spec: TowerSpec, weights: str) -> Mapping[str, torch.Tensor]:
    """The visual weights of a CLIP of open_clip."""
    import open_clip  # 10 seconds, so only when weights are converted

    if weights and not Path(weights).is_file():
        raise ConfigError(f"tower {name}: no weight file {weights}", "check the path behind the colon")
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # open_clip and the hub log to the terminal; what matters is in the error
    try:
        with reading(_unread(name, weights)):
            model = open_clip.create_model(spec.open_clip_name, pretrained=weights or spec.pretrained)
    finally:
        logging.disable(before)
    return convert_open_clip(model.visual.state_dict())


def _timm_visual(name: str, spec: TowerSpec, weights: str) -> Mapping[str, torch.Tensor]:
    """The visual weights of a CLIP of open_clip whose image half is timm's; its text half is never built."""
    if weights and not Path(weights).is_file():
        raise ConfigError(f"tower {name}: no weight file {weights}", "check the path behind the colon")
    with reading(_unread(name, "")):
        path = weights or hf_hub_download(spec.pretrained, _WEIGHTS)
    with reading(_unread(name, path)):
        state = load_file(path) if path.endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
        trunk = {key: value for key, value in state.items() if key.startswith("visual.trunk.")}
    if not trunk:
        raise ConfigError(f"tower {name}: {path} does not hold its weights (none begins with visual.trunk)")
    return convert_timm({key.removeprefix("visual.trunk."): value for key, value in trunk.items()})


def _siglip_visual(name: str, spec: TowerSpec, weights: str) -> Mapping[str, torch.Tensor]:
    """The visual weights of a SigLIP of Hugging Face, without its pooling head."""
    if weights and not Path(weights).is_dir():
        raise ConfigError(f"tower {name}: no folder {weights}", "check the path behind the colon")
    with reading(_unread(name, weights)):
        model = SiglipVisionModel.from_pretrained(weights or spec.pretrained, dtype=torch.float32, use_safetensors=True)
    return _without_head(model)


def _without_head(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}


def _unread(name: str, weights: str) -> Callable[[str, Exception], ConfigError | RemoteError]:
    """The error where a tower's weights cannot be read; without a file or folder of them they were to be fetched."""

    def refused(reason: str, error: Exception) -> ConfigError | RemoteError:
        if weights:
            return ConfigError(f"tower {name}: {weights} does not hold its weights ({reason})")
        return RemoteError(
            f"tower {name}: its weights could not be fetched ({reason})",
            f"fetch them where there is a network and give --set tower={name}:/path/of/the/file, or --set tower=tiny",
        )

    return refused


def _from_folder(folder: Path, scales: Sequence[int], antialias: bool) -> S2ClipVisionModel:
    """A CLIP or SigLIP vision model of Hugging Face, or the vision half of such a model.

    Its pixel statistics come from ``preprocessor_config.json`` where it has one.  Where its own size leaves pixels
    over, the first scale may be the size of the patches alone: 378 for 384 pixels in patches of 14.
    """
    what, fix = (
        "neither a CLIP nor a SigLIP vision model of Hugging Face",
        "give a folder with config.json and model.safetensors",
    )
    images = folder / "preprocessor_config.json"
    with reading(lambda reason, error: ConfigError(f"tower {folder}: {what} ({reason})", fix)):
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")
        classes: dict[str, Any] = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}
        if kind.removesuffix("_vision_model") not in classes:
            raise ValueError(f"model_type {kind!r}")
        kind = kind.removesuffix("_vision_model")
        model = classes[kind].from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
        stored = json.loads(images.read_text(encoding="utf-8")) if images.is_file() else {}
        pixels = {key: stored[key] for key in ("image_mean", "image_std") if key in stored}
    settings = {key: value for key, value in model.config.to_dict().items() if key not in _OWN}
    if kind == "siglip":
        settings |= {"image_mean": list(_HALF), "image_std": list(_HALF)}
    patch, side = settings["patch_size"], settings["image_size"] // settings["patch_size"]
    if scales and scales[0] == side * patch:
        settings["image_size"] = scales[0]
    settings |= pixels
    config = _fitting(
        lambda scales, antialias: S2ClipVisionConfig(
            **settings, s2_tower=kind, s2_scales=scales, s2_antialias=antialias
        ),
        str(folder),
        scales,
        antialias,
    )
    return _filled(config, _without_head(model), f"tower {folder}")
