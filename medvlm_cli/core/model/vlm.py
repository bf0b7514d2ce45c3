"""The model: a tower at several scales, a connector, a language model; LLaVA's shape, trained and read as ours.

What it computes is in ``standalone``; here it gets medvlm's own tower and is put together from its parts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    GenerationConfig,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.llava.image_processing_llava import LlavaImageProcessor
from transformers.utils import logging as transformers_logging

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.images import Fit
from medvlm_cli.core.model import standalone
from medvlm_cli.core.model.connector import init_connector
from medvlm_cli.core.model.hub_id import pinned_llm
from medvlm_cli.core.model.llms import LLMS, load_llm, stop_ids
from medvlm_cli.core.model.loss import target_loss
from medvlm_cli.core.model.standalone import MedVLMConfig, S2ClipVisionConfig, forget_conversions
from medvlm_cli.core.model.three_scale import S2ClipVisionModel
from medvlm_cli.core.model.towers import load_tower

transformers_logging.disable_progress_bar()  # it draws on the terminal, which only render.py may


class MedVLMModel(standalone.MedVLMModel):
    """Tower, connector and language model without its head."""

    tower_class = S2ClipVisionModel


class MedVLMForConditionalGeneration(standalone.MedVLMForConditionalGeneration):
    """The model that answers questions about images."""

    model_class = MedVLMModel

    def _loss(self, hidden: torch.Tensor, labels: torch.Tensor, items: int | torch.Tensor | None) -> torch.Tensor:
        """As in ``standalone``, with less memory."""
        return target_loss(self.lm_head, hidden, labels, items)


def freeze(model: MedVLMForConditionalGeneration, stage: str) -> None:
    """Let a stage train what it trains: ``pretrain`` the connector, ``finetune`` also the language model.

    The tower never trains.
    """
    model.requires_grad_(stage == "finetune")
    model.model.multi_modal_projector.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)


def build_model(
    tower: str,
    llm: str,
    scales: Sequence[int],
    dtype: torch.dtype = torch.float32,
    fit: Fit = "squash",
    antialias: bool = False,
    seed: int = 0,
) -> tuple[MedVLMForConditionalGeneration, LlavaProcessor]:
    """Join a tower and a language model by a fresh connector.

    Args:
        tower: name or folder, as ``load_tower`` takes it.
        llm: folder or hub id of a causal language model, as ``load_llm`` takes it.
        scales: pixels, the tower's own size first, then multiples of it.
        dtype: of all weights.
        fit: how an image is made square.
        antialias: antialias the reduction to the smaller scales.
        seed: of the connector.

    Returns:
        The model, on the CPU, and its processor.

    Raises:
        ConfigError: a part is not what it must be, or they do not fit together.
        RemoteError: a part could not be fetched.
    """
    vision: Any = load_tower(tower, scales, antialias)
    named = pinned_llm(llm)
    words, tokenizer, family = load_llm(str(named or llm), dtype)
    processor = make_processor(tokenizer, vision.config, family, fit)
    config = make_config(vision.config, words.config, processor.image_token_id, fit, family)
    config.base_tower, config.base_llm = _public(tower.partition(":")[0]), named.name if named else _public(llm)
    config.base_llm_revision = (named and named.revision) or ""
    with torch.device("meta"):
        model: Any = MedVLMForConditionalGeneration(config)
    model.model.vision_tower = vision.to(dtype)
    model.model.language_model = words.base_model
    model.lm_head = words.get_output_embeddings()
    model.model.multi_modal_projector.to_empty(device="cpu")
    init_connector(model.model.multi_modal_projector, seed)
    model.to(dtype)
    forget_conversions(model)
    model.generation_config = GenerationConfig(  # not the language model's own, which may sample
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids(tokenizer, family),
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[processor.image_token_id],
    )
    _check_same_words(llm, words, model.eval())
    return model, processor


def _public(name: str) -> str:
    """What a checkpoint calls a part: of a folder only its name, because checkpoints travel and paths tell."""
    return Path(name).name if Path(name).exists() else name


@torch.no_grad()
def _check_same_words(name: str, words: PreTrainedModel, model: MedVLMForConditionalGeneration) -> None:
    """Refuse a language model whose logits are more than its head's product, because LLaVA would drop the rest."""
    ids = torch.arange(8)[None] % words.config.vocab_size
    alone, joined = words(input_ids=ids).logits, model(input_ids=ids).logits
    if getattr(model.lm_head, "bias", None) is not None or not torch.equal(alone, joined):
        raise ConfigError(
            f"llm {name}: its head is more than a linear map (a bias, a scale or a cap), which LLaVA's shape has not",
            "take another language model, for example of the families Llama, Mistral or Qwen",
        )


def make_config(vision: S2ClipVisionConfig, text: Any, image_token_id: int, fit: Fit, family: str) -> MedVLMConfig:
    """The config of a model: the tower's scales are the feature layers -K to -1 of LLaVA, taken whole."""
    vision._name_or_path = text._name_or_path = ""  # folders of this machine
    return MedVLMConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=vision.tokens,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full",
        vision_feature_layer=list(range(-len(vision.s2_scales), 0)),
        tie_word_embeddings=text.tie_word_embeddings,
        fit=fit,
        llm_family=family,
    )


def make_processor(
    tokenizer: PreTrainedTokenizerBase, vision: S2ClipVisionConfig, family: str, fit: Fit
) -> LlavaProcessor:
    """The stock processor that writes T placeholders an image: its patch covers one token at the largest scale.

    42 pixels for patches of 14 at three scales, so 27 x 27 = 729 placeholders for 1134 pixels.
    """
    side = max(vision.s2_scales)
    whole = {"height": side, "width": side}
    kind = LlavaImageProcessor if fit == "pad" else CLIPImageProcessor
    images = kind(
        size={"shortest_edge": side} if fit == "crop" else whole,
        crop_size=whole,
        do_center_crop=fit == "crop",
        do_pad=fit == "pad",
        image_mean=list(vision.image_mean),
        image_std=list(vision.image_std),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.patch_size * side // vision.image_size,
        vision_feature_select_strategy="full",
        chat_template=LLMS[family].template or tokenizer.chat_template,
    )


AutoConfig.register(MedVLMConfig.model_type, MedVLMConfig, exist_ok=True)
AutoModel.register(MedVLMConfig, MedVLMModel, exist_ok=True)
AutoModelForImageTextToText.register(MedVLMConfig, MedVLMForConditionalGeneration, exist_ok=True)
