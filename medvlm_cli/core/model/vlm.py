"""The model: a three-scale tower, a connector, a language model; LLaVA's shape, trained and read as ours.

It is ``LlavaForConditionalGeneration`` with three differences.  ``image_features`` may stand for ``pixel_values``, so
that features of the frozen tower can be cached.  A training batch without images still runs the connector, inside the
forward pass, so that every rank of a parallel run calls the same modules in the same order.  The loss looks at target
positions only, in float32.

Legend: B rows, L tokens of a row, N images of the batch, S pixels at the largest scale, T tokens of an image, K scales,
C channels of the tower, H width of the language model, V words of the vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.image_processing_llava import LlavaImageProcessor
from transformers.models.llava.modeling_llava import (
    LlavaCausalLMOutputWithPast,
    LlavaModelOutputWithPast,
    LlavaPreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.model.connector import init_connector
from medvlm_cli.core.model.llms import LLMS, load_llm, stop_ids
from medvlm_cli.core.model.three_scale import S2ClipVisionConfig
from medvlm_cli.core.model.towers import load_tower

Fit = Literal["squash", "pad", "crop"]

transformers_logging.disable_progress_bar()  # it draws on the terminal, which only render.py may


@strict
class MedVLMConfig(LlavaConfig):
    """LLaVA's config, with what the model was made of."""

    model_type = "medvlm"

    vision_config: Any = None
    text_config: Any = None
    fit: str = "squash"
    """How an image is made square: squash, pad or crop."""
    llm_family: str = "generic"
    """Key of ``core.model.llms.LLMS``."""
    base_tower: str = ""
    base_llm: str = ""


class MedVLMModel(LlavaModel):
    """Tower, connector and language model without its head."""

    config: MedVLMConfig

    def forward(  # noqa: PLR0913  transformers' own signature, and image_features
        self,
        input_ids: Any = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        """Hidden states ``(B, L, H)``; the arguments are those of ``MedVLMForConditionalGeneration``."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        images = self._images(pixel_values, image_features, mm_encoder_outputs)
        if images is not None:
            images = images.to(inputs_embeds.device, inputs_embeds.dtype)
            places = self.get_placeholder_mask(input_ids, inputs_embeds=inputs_embeds, image_features=images)
            inputs_embeds = inputs_embeds.masked_scatter(places, images)
        elif self.training and past_key_values is None:
            # Never into the loss instead: ranks with and without images would then run the backward pass in another
            # order, and ZeRO-2 adds the gradients of different weights together without a word.
            nothing = inputs_embeds.new_zeros(1, 1, self.config.vision_config.channels)
            inputs_embeds = inputs_embeds + 0 * self.multi_modal_projector(nothing).sum()
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return LlavaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=images,
        )

    def _images(
        self,
        pixel_values: torch.Tensor | None,
        image_features: torch.Tensor | None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None,
    ) -> torch.Tensor | None:
        """Embeddings ``(N, T, H)`` of the images, from whichever of the three there is."""
        ready: Any = (mm_encoder_outputs or {}).get("image")  # what generate() makes of pixel_values beforehand
        if sum(given is not None for given in (pixel_values, image_features, ready)) > 1:
            raise ValueError("give only one of pixel_values, image_features and mm_encoder_outputs")
        if ready is not None:
            return torch.stack(list(ready.pooler_output))
        if pixel_values is not None:
            image_features = self.vision_tower.encode(pixel_values)
        if image_features is None:
            return None
        return self.multi_modal_projector(image_features.to(self.multi_modal_projector.linear_1.weight.dtype))


class MedVLMForConditionalGeneration(LlavaForConditionalGeneration):
    """The model that answers questions about images."""

    config_class = MedVLMConfig
    config: MedVLMConfig
    accepts_loss_kwargs = True  # Trainer then passes num_items_in_batch

    def __init__(self, config: MedVLMConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = MedVLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with the tower frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # (model, info) when info is asked for
        model.model.vision_tower.requires_grad_(False)
        forget_conversions(model)
        return loaded

    def forward(  # noqa: PLR0913  transformers' own signature, and image_features
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_features: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """Logits, or with labels the loss.

        Args:
            input_ids: ``(B, L)``, with T placeholders for every image.
            pixel_values: ``(N, 3, S, S)``, uint8 or normalised float, in the order of the placeholders.
            attention_mask: ``(B, L)``, 0 on padding.
            position_ids: ``(B, L)``; None counts.
            past_key_values: cache of what came before.
            inputs_embeds: ``(B, L, H)`` in place of ``input_ids``.
            labels: ``(B, L)``, -100 where the loss does not look.
            logits_to_keep: last positions to give logits for, or their indices; 0 for all.
            image_features: ``(N, T, K * C)``, what ``vision_tower.encode`` gave for the pixels, in their place.
            mm_encoder_outputs: transformers' own way to hand over encoded images.
            num_items_in_batch: targets of the whole optimiser step; the loss is the sum over this batch's targets
                divided by it.  None takes the mean over this batch's.
            kwargs: for the language model.

        Returns:
            ``logits`` ``(B, L, V)`` without labels.  With labels ``loss``, in nats and float32, and no logits: those of
            a vocabulary of 128,000 at every position would take more memory than all activations.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            image_features=image_features,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return LlavaCausalLMOutputWithPast(
            loss=None if labels is None else self._loss(hidden, labels, num_items_in_batch),
            logits=self.lm_head(hidden[:, kept]) if labels is None else None,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def _loss(self, hidden: torch.Tensor, labels: torch.Tensor, items: int | torch.Tensor | None) -> torch.Tensor:
        """Cross entropy where there is a target; 0, with a gradient, where there is none."""
        targets = labels[:, 1:].to(hidden.device)
        learned = targets != -100
        logits = self.lm_head(hidden[:, :-1][learned]).float()
        total = F.cross_entropy(logits, targets[learned], reduction="sum")
        return total / (max(int(learned.sum()), 1) if items is None else items)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which drops ``pixel_values`` after the first step, and ``image_features`` with them."""
        stock: Any = super()
        inputs = stock.prepare_inputs_for_generation(*args, **kwargs)
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            inputs.pop("image_features", None)
        return inputs


def forget_conversions(model: nn.Module) -> None:
    """Save weights under the names they have in memory.

    Loading under ZeRO-3 remembers every renaming of old checkpoints, used or not, and saving would undo them all:
    ``language_model.model.model.*``.  Our checkpoints need none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module._weight_conversions = []  # type: ignore[assignment]


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
        llm: hub id or folder of a causal language model.
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
    words, tokenizer, family = load_llm(llm, dtype)
    processor = make_processor(tokenizer, vision.config, family, fit)
    config = make_config(vision.config, words.config, processor.image_token_id, fit, family)
    config.base_tower, config.base_llm = _public(tower.partition(":")[0]), _public(llm)
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
