"""A CLIP tower that reads each figure at several scales, as a Hugging Face model.

The figure is resized to every scale and cut into tiles of the tower's own size; the tiles are encoded, sewn together,
averaged down to the grid of one tile, and the scales are joined in channels: the composition S2 (Shi et al. 2024,
arXiv:2403.13043) as LLaVA uses it, with the patch tokens of the second last block (no class token, no last norm).

Legend: B figures, S pixels at the largest scale, P pixels of a tile, T tokens of a figure (patches of one tile), K
scales, C channels of the tower.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from medvlm_kernels import merge_scale, split_scale
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, CLIPVisionModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

TILES_PER_CALL = 32
"""Tiles that go through the tower together: bounds the memory, changes the features by rounding at most."""


@strict
class S2ClipVisionConfig(CLIPVisionConfig):
    """A CLIP vision config with the scales it is used at, and what uint8 pixels are normalised with."""

    model_type = "medvlm_s2_clip"

    image_size: int = 224
    patch_size: int = 32
    s2_scales: list[int] | tuple[int, ...] = (224,)
    """Pixels; the tower's own size first, then multiples of it."""
    s2_antialias: bool = False
    """Antialias when reducing to a smaller scale; the published code does not."""
    image_mean: list[float] | tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: list[float] | tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

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
        scales, tile = self.s2_scales, self.image_size
        if not scales or scales[0] != tile or any(scale <= 0 or scale % tile for scale in scales):
            raise ValueError(f"scales {scales} do not fit a tower of {tile} pixels: give {tile} first, then multiples")
        if tile % self.patch_size:
            raise ValueError(f"a tile of {tile} pixels does not divide into patches of {self.patch_size}")

    @property
    def tokens(self) -> int:
        """T, tokens of one figure."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def channels(self) -> int:
        """K * C, channels of one token: all scales joined."""
        return len(self.s2_scales) * self.hidden_size


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
        self.clip = CLIPVisionModel(config)
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
        return torch.cat(self._scales(pixel_values), dim=-1)

    @torch.no_grad()
    def _scales(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        config = self.config
        factors = [scale // config.image_size for scale in config.s2_scales]
        images = self._normalised(pixel_values)
        tiles = [split_scale(images, factor, config.image_size, config.s2_antialias) for factor in factors]
        patches = torch.cat([self._patches(chunk) for chunk in torch.cat(tiles).split(TILES_PER_CALL)])
        side = config.image_size // config.patch_size
        grids = patches.view(-1, side, side, config.hidden_size).split([len(scale) for scale in tiles])
        return tuple(merge_scale(grid, factor).flatten(1, 2) for grid, factor in zip(grids, factors, strict=True))

    def _normalised(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """uint8 as float32, normalised; floats are taken as normalised already."""
        if pixel_values.dtype != torch.uint8:
            return pixel_values
        mean = torch.tensor(self.config.image_mean, device=pixel_values.device).view(3, 1, 1)
        std = torch.tensor(self.config.image_std, device=pixel_values.device).view(3, 1, 1)
        return (pixel_values.float() / 255 - mean) / std

    def _patches(self, tiles: torch.Tensor) -> torch.Tensor:
        """Patch tokens ``(tiles, T, C)`` of the second last block; the last block and norm are not run."""
        hidden = self.clip.pre_layrnorm(self.clip.embeddings(tiles))
        for layer in self.clip.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        return hidden[:, 1:]


AutoConfig.register(S2ClipVisionConfig.model_type, S2ClipVisionConfig, exist_ok=True)
AutoModel.register(S2ClipVisionConfig, S2ClipVisionModel, exist_ok=True)
