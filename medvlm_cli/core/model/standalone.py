"""A vision-language model whose tower reads each figure at several scales, in PyTorch and transformers alone.

A copy of this file lies in every folder that medvlm saves, so that ``trust_remote_code=True`` opens the folder where
medvlm is not installed.  medvlm itself runs the classes of its own package, which are these and a faster tower.

The tower: the figure is resized to every scale and cut into tiles of the tower's own size; the tiles are encoded, sewn
together, averaged down to the grid of one tile, and the scales are joined in channels: the composition S2 (Shi et al.
2024, arXiv:2403.13043) as LLaVA uses it, with the patch tokens of the second last block (no class token, no last norm).

The model is ``LlavaForConditionalGeneration`` with three differences.  ``image_features`` may stand for
``pixel_values``, so that features of the frozen tower can be cached.  A training batch without images still runs the
connector, inside the forward pass, so that every rank of a parallel run calls the same modules in the same order.  The
loss looks at target positions only, in float32.

Legend: B rows or figures, L tokens of a row, N images of the batch, S pixels at the largest scale, T tokens of an image
(patches of one tile), K scales, C channels of the tower, H width of the language model, V words of the vocabulary.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from medvlm_kernels.reference import merge_scale, split_scale
from torch import nn
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    PreTrainedModel,
    SiglipVisionModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import (
    LlavaCausalLMOutputWithPast,
    LlavaModelOutputWithPast,
    LlavaMultiModalProjector,
    LlavaPreTrainedModel,
)

TILES_PER_CALL = 32
"""Tiles that go through the tower together: bounds the memory, changes its features by rounding at most."""


@strict
class S2ClipVisionConfig(CLIPVisionConfig):
    """A CLIP vision config with the scales it is used at, and what uint8 pixels are normalised with."""

    model_type = "medvlm_s2_clip"

    image_size: int = 224
    patch_size: int = 32
    s2_tower: Literal["clip", "vit", "siglip"] = "clip"
    """Kind of the tower at one scale: ``clip``; ``vit``, a CLIP without the norm before its blocks; or ``siglip``."""
    s2_scales: list[int] | tuple[int, ...] = (224,)
    """Pixels; the tower's own size first, then multiples of it."""
    s2_antialias: bool = False
    """Antialias when reducing to a smaller scale; the published code does not."""
    image_mean: list[float] | tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: list[float] | tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    vision_use_head: bool = False
    """SigLIP's own setting: its pooling head, which patch tokens do not need."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.s2_scales = list(self.s2_scales)
        self.image_mean, self.image_std = list(self.image_mean), list(self.image_std)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse scales that the tower's tiles do not fill.

        Raises:
            ValueError: the first scale is not the tower's size, another is no multiple of it, or the patches of a tile
                leave pixels over.
        """
        super().validate_architecture()
        scales, tile, patch = self.s2_scales, self.image_size, self.patch_size
        if not scales or scales[0] != tile or any(scale <= 0 or scale % tile for scale in scales):
            raise ValueError(f"scales {scales} do not fit a tower of {tile} pixels: give {tile} first, then multiples")
        if tile % patch:
            whole = tile - tile % patch
            raise ValueError(f"a tile of {tile} pixels does not divide into patches of {patch}; {whole} pixels would")

    @property
    def tokens(self) -> int:
        """T, tokens of one figure."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def channels(self) -> int:
        """K * C, channels of one token: all scales joined."""
        return len(self.s2_scales) * self.hidden_size

    @property
    def factors(self) -> tuple[int, ...]:
        """Tiles along one side of a figure at each scale."""
        return tuple(scale // self.image_size for scale in self.s2_scales)


class S2ClipVisionModel(PreTrainedModel):
    """The frozen tower: pixels in, one ``(B, T, C)`` a scale out.

    Stock LLaVA joins these by taking them for its feature layers ``[-K, ..., -1]`` with strategy ``full``.  Nothing in
    here ever gets a gradient or leaves evaluation mode.
    """

    config_class = S2ClipVisionConfig
    config: S2ClipVisionConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    base_model_prefix = "clip"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: S2ClipVisionConfig) -> None:
        super().__init__(config)
        kind: Any = SiglipVisionModel if config.s2_tower == "siglip" else CLIPVisionModel
        self.clip = kind(config)
        if config.s2_tower == "vit":
            self.clip.pre_layrnorm = nn.Identity()  # Hugging Face's spelling
        self.post_init()
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and frozen: loading makes new parameters, which want gradients again."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).requires_grad_(False)  # (model, info) when info is asked
        return loaded

    def train(self, mode: bool = True) -> "S2ClipVisionModel":
        """Stays in evaluation mode whatever the model around it does."""
        return super().train(False)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Features of each scale.

        Args:
            pixel_values: ``(B, 3, S, S)``, uint8 or normalised float.
            kwargs: what LLaVA passes to any tower; not used.

        Returns:
            ``hidden_states``, a tuple of K tensors ``(B, T, C)`` in the order of ``s2_scales`` and the tower's dtype.
        """
        return BaseModelOutputWithPooling(hidden_states=self._scales(pixel_values))

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features of figures, the scales joined: ``(B, T, K * C)`` of ``pixel_values`` as ``forward`` takes them."""
        return torch.cat(self._reference(pixel_values), dim=-1)

    def _scales(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._reference(pixel_values)

    @torch.no_grad()
    def _reference(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        config = self.config
        images = self._normalised(pixel_values)
        tiles = [split_scale(images, factor, config.image_size, config.s2_antialias) for factor in config.factors]
        patches = torch.cat([self._patches(chunk) for chunk in torch.cat(tiles).split(TILES_PER_CALL)])
        side = config.image_size // config.patch_size
        grids = patches.view(-1, side, side, config.hidden_size).split([len(scale) for scale in tiles])
        pairs = zip(grids, config.factors, strict=True)
        return tuple(merge_scale(grid, factor).flatten(1, 2) for grid, factor in pairs)

    def _normalised(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """uint8 as float32, normalised; floats are taken as normalised already."""
        if pixel_values.dtype != torch.uint8:
            return pixel_values
        mean = torch.tensor(self.config.image_mean, device=pixel_values.device).view(3, 1, 1)
        std = torch.tensor(self.config.image_std, device=pixel_values.device).view(3, 1, 1)
        return (pixel_values.float() / 255 - mean) / std

    def _patches(self, tiles: torch.Tensor) -> torch.Tensor:
        """Patch tokens ``(tiles, T, C)`` of the second last block; the last block and norm are not run."""
        hidden = self.clip.embeddings(tiles)
        if self.config.s2_tower != "siglip":
            hidden = self.clip.pre_layrnorm(hidden)
        for layer in self.clip.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        return hidden if self.config.s2_tower == "siglip" else hidden[:, 1:]  # SigLIP has no class token to drop


@strict
class MedVLMConfig(LlavaConfig):
    """LLaVA's config, with what the model was made of."""

    model_type = "medvlm"

    vision_config: Any = None
    text_config: Any = None
    fit: str = "squash"
    """How an image is made square: squash, pad or crop."""
    llm_family: str = "generic"
    """How the language model chats: llama3, mistral, own or generic."""
    base_tower: str = ""
    base_llm: str = ""
    base_llm_revision: str = ""
    """The commit of a language model from the hub."""

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vision_config, dict):  # here, because a class from a folder is in no registry
            self.vision_config = S2ClipVisionConfig(**self.vision_config)
        super().__post_init__(**kwargs)


class MedVLMModel(LlavaModel):
    """Tower, connector and language model without its head."""

    config: MedVLMConfig
    tower_class: type[S2ClipVisionModel] = S2ClipVisionModel

    def __init__(self, config: MedVLMConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.vision_tower = self.tower_class._from_config(config.vision_config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config, trust_remote_code=False)
        self.post_init()

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
    model_class: type[MedVLMModel] = MedVLMModel
    accepts_loss_kwargs = True  # Trainer then passes num_items_in_batch

    def __init__(self, config: MedVLMConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = self.model_class(config)
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
