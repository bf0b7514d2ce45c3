"""The parts of a model as their configs describe them: sizes, words and prompts, without any weights."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, CLIPVisionConfig, LlavaProcessor

from medvlm_cli.core.cost import Sizes
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.model.connector import connector_parameters
from medvlm_cli.core.model.foreign import reading
from medvlm_cli.core.model.hub_id import HubId, hub_id
from medvlm_cli.core.model.llms import add_tokens, family_of
from medvlm_cli.core.model.three_scale import S2ClipVisionConfig, S2ClipVisionModel
from medvlm_cli.core.model.tiny import TinyRecipe, make_tiny
from medvlm_cli.core.model.towers import TOWERS
from medvlm_cli.core.model.vlm import MedVLMConfig, make_processor

KNOWN: dict[str, dict[str, Any]] = {
    # The Llama 3 Herd of Models, arXiv:2407.21783, table 3; the vocabulary is that of the tokenizer, 256 special tokens
    # included.
    "meta-llama/Meta-Llama-3-8B-Instruct": {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    # Mistral 7B, Jiang et al. 2023, arXiv:2310.06825, table 1.
    "mistralai/Mistral-7B-Instruct-v0.2": {
        "model_type": "mistral", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
}  # fmt: skip
"""Sizes of the presets' language models, for where the hub, or the right to read them there, is out of reach."""
_REACH_SECONDS = 5.0
_UNTRAINED = TinyRecipe(figures=2, tower_steps=1, llm_steps=1)
"""Gives the tiny parts their sizes and their words in seconds; nothing else of them is used."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A model without weights."""

    vision: S2ClipVisionConfig
    text: Any
    """Config of the language model."""
    processor: LlavaProcessor | None
    """None where the tokenizer is not at hand."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know about them."""


def parts_of_checkpoint(folder: Path) -> Parts:
    """The parts of a model that ``pretrain`` or ``finetune`` made.

    Raises:
        DataError: there is none.
    """
    what, fix = f"{folder}: there is no checkpoint", "make one with `medvlm pretrain`"
    with reading(lambda reason, error: DataError(f"{what} ({reason})" if folder.is_dir() else what, fix)):
        config: Any = MedVLMConfig.from_pretrained(folder, local_files_only=True)
        processor = LlavaProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return Parts(vision=config.vision_config, text=config.text_config, processor=processor)


def parts_of_names(config: Any) -> Parts:
    """The parts that ``pretrain`` would join.

    Args:
        config: a ``PretrainConfig``; ``tiny`` parts are made for it in a temporary folder.

    Raises:
        ConfigError: there is no such part, or the scales do not fit the tower.
    """
    if "tiny" not in (config.tower, config.llm):
        return _join(config, config.tower, config.llm)
    with tempfile.TemporaryDirectory() as work:
        made = make_tiny(Path(work) / "tiny", config.seed, lambda what, done, total: None, _UNTRAINED)
        places = (
            str(made / name) if part == "tiny" else part
            for name, part in (("tower", config.tower), ("llm", config.llm))
        )
        return _join(config, *places)


def sizes_of(parts: Parts) -> Sizes:
    """Count what there is: the modules are made on the meta device, where weights take no memory.

    The embedding is counted as the config has it, before it grows by the image token.
    """
    text, vision = parts.text, parts.vision
    with torch.device("meta"):
        llm: Any = AutoModelForCausalLM.from_config(text, trust_remote_code=False)
        tower = S2ClipVisionModel(vision)
    linear = [module for module in llm.base_model.modules() if isinstance(module, torch.nn.Linear)]
    heads, width = text.num_attention_heads, text.hidden_size
    channels = getattr(text, "head_dim", None) or width // heads
    return Sizes(
        llm=llm.num_parameters(),
        linear=sum(layer.weight.numel() for layer in linear),
        adapter=sum(layer.in_features + layer.out_features for layer in linear),
        head=llm.get_output_embeddings().weight.numel(),
        layers=text.num_hidden_layers,
        width=width,
        inner=getattr(text, "intermediate_size", None) or 4 * width,
        attention=heads * channels,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * channels,
        heads=heads,
        vocabulary=text.vocab_size,
        connector=connector_parameters(vision.channels, width),
        connector_input=(vision.channels + 1) * width,
        tower=tower.num_parameters(),
        tower_flop=tower_flop(vision),
        tokens=vision.tokens,
        channels=vision.channels,
    )


def tower_flop(config: S2ClipVisionConfig) -> float:
    """Operations of the tower for one image: patches and all blocks but the last, in every tile of every scale."""
    width, words = config.hidden_size, config.tokens + 1
    tiles = sum((scale // config.image_size) ** 2 for scale in config.s2_scales)
    block = 2 * words * (4 * width**2 + 2 * width * config.intermediate_size) + 4 * words**2 * width
    patches = 2 * config.tokens * 3 * config.patch_size**2 * width
    return tiles * (patches + (config.num_hidden_layers - 1) * block)


def _join(config: Any, tower: str, llm: str) -> Parts:
    vision = _vision(tower, config)
    where = HubId(llm, None) if Path(llm).is_dir() else hub_id(llm) or HubId(llm, None)
    local = Path(llm).is_dir() or not _reachable(where)
    given: dict[str, Any] = {"revision": where.revision, "local_files_only": local}
    fix = f"give a folder with --set llm=/path, or one that needs no hub: {', '.join(KNOWN)}, tiny"
    try:
        with reading(lambda reason, _: ConfigError(f"llm {llm}: its config.json could not be read ({reason})", fix)):
            text = AutoConfig.from_pretrained(where.name, trust_remote_code=False, **given)
    except ConfigError:
        if where.name not in KNOWN:
            raise
        note = f"{llm}: sizes from the table, config.json not reached"
        return Parts(vision=vision, text=AutoConfig.for_model(**KNOWN[where.name]), processor=None, notes=(note,))
    try:
        with reading(lambda reason, _: ConfigError(f"{llm}: its tokenizer could not be read ({reason})")):
            tokenizer = AutoTokenizer.from_pretrained(where.name, trust_remote_code=False, **given)
    except ConfigError as error:
        return Parts(vision=vision, text=text, processor=None, notes=(error.what,))
    family = family_of(tokenizer, text.model_type)
    add_tokens(tokenizer)
    return Parts(vision=vision, text=text, processor=make_processor(tokenizer, vision, family, config.fit))


def _vision(tower: str, config: Any) -> S2ClipVisionConfig:
    """The config of a tower by name or of a folder.

    Raises:
        ConfigError: there is neither, or the scales do not fit it.
    """
    name = tower.partition(":")[0]
    if name in TOWERS:
        return _fitting(tower, lambda: TOWERS[name].config(config.scales, config.antialias))
    fix = f"give a folder with a CLIP vision model, or one of {', '.join(TOWERS)}, tiny"
    with reading(lambda reason, error: ConfigError(f"tower {tower}: no such tower, and no such folder", fix)):
        stored = CLIPVisionConfig.from_pretrained(tower, local_files_only=True).to_dict()
    stored.pop("model_type", None)
    scales = {"s2_scales": list(config.scales), "s2_antialias": config.antialias}
    return _fitting(tower, lambda: S2ClipVisionConfig(**stored | scales))


def _fitting(tower: str, make: Callable[[], S2ClipVisionConfig]) -> S2ClipVisionConfig:
    try:
        return make()
    except Exception as error:  # huggingface_hub wraps the ValueError of validate_architecture
        if not isinstance(error.__cause__, ValueError):
            raise
        raise ConfigError(f"tower {tower}: {error.__cause__}", "mend it with --set scales=...") from error


def _reachable(where: HubId) -> bool:
    """Whether the hub answers: asked once, because transformers asks six times over half a minute."""
    try:
        HfApi().model_info(where.name, revision=where.revision, timeout=_REACH_SECONDS)
    except Exception:  # no network, no answer, no such model, an offline mode: all the same here
        return False
    return True
