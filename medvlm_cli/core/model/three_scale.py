"""The tower at several scales as medvlm runs it: ``standalone``'s, with a faster path beside the plain one.

Two paths give the same features but for rounding.  ``reference`` is the composition as ``standalone`` says it, and
knows every kind of tower.  ``fused`` is for CLIP with QuickGELU: it takes the pixels as bytes, folds the weights once
and encodes all tiles of all scales together, each different one once; there the features of a figure do not depend, to
the last bit, on which figures it is encoded with.

Legend: B figures, S pixels at the largest scale, T tokens of a figure (patches of one tile), K scales, C channels of
the tower.
"""

import os
from typing import Any, Literal

import torch
from medvlm_kernels import BACKENDS, Geometry
from medvlm_kernels.fold import fold
from medvlm_kernels.tower import FusedTower
from transformers import AutoConfig, AutoModel

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.model import standalone
from medvlm_cli.core.model.standalone import S2ClipVisionConfig


class S2ClipVisionModel(standalone.S2ClipVisionModel):
    """The frozen tower: pixels in, one ``(B, T, C)`` a scale out, by whichever path is faster."""

    def __init__(self, config: S2ClipVisionConfig) -> None:
        super().__init__(config)
        self._fused: tuple[Any, FusedTower] | None = None

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features of figures, the scales joined: ``(B, T, K * C)`` of ``pixel_values`` as ``forward`` takes them."""
        if self.path(pixel_values) == "fused":
            return self._folded(pixel_values.device).encode(pixel_values)
        return super().encode(pixel_values)

    def _scales(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.path(pixel_values) == "fused":
            features = self._folded(pixel_values.device).encode(pixel_values)
            return features.split(self.config.hidden_size, dim=-1)
        return super()._scales(pixel_values)

    def path(self, pixel_values: torch.Tensor) -> Literal["fused", "reference"]:
        """Which way these pixels go.

        ``fused`` reads bytes of the full size and knows CLIP with QuickGELU.  It needs the weights whole, which
        ZeRO-3's are not, and there is nothing to gain in float64.  ``MEDVLM_KERNELS=off`` turns it off.
        """
        config = self.config
        fused = (
            pixel_values.device.type in ("cpu", "cuda")
            and pixel_values.dtype == torch.uint8
            and tuple(pixel_values.shape[-2:]) == (max(config.s2_scales),) * 2
            and config.s2_tower == "clip"
            and config.hidden_act == "quick_gelu"
            and all(weight.numel() > 0 for weight in self.clip.parameters())  # ZeRO-3 leaves the small ones whole
            and self.dtype in (torch.float32, torch.bfloat16, torch.float16)
            and os.environ.get("MEDVLM_KERNELS") != "off"
        )
        return "fused" if fused else "reference"

    def _folded(self, device: torch.device) -> FusedTower:
        """The fused tower of the present weights, made when it is first needed and when they have changed.

        ``MEDVLM_ATTENTION`` names the attention backend, of ``medvlm_kernels.BACKENDS``.

        Raises:
            ConfigError: there is no such backend.
        """
        backend = os.environ.get("MEDVLM_ATTENTION", "auto")
        if backend not in BACKENDS:
            raise ConfigError(f"MEDVLM_ATTENTION is {backend!r}", f"give one of {', '.join(BACKENDS)}")
        state = self.clip.state_dict()
        versions = [0 if weight.is_inference() else weight._version for weight in state.values()]
        now = device, backend, versions, [(weight.data_ptr(), weight.dtype) for weight in state.values()]
        if self._fused is None or self._fused[0] != now:
            config = self.config
            geometry = Geometry(config.image_size, config.patch_size, config.factors, config.s2_antialias)
            weights = fold(
                state, heads=config.num_attention_heads, eps=config.layer_norm_eps, mean=tuple(config.image_mean),
                std=tuple(config.image_std), geometry=geometry, dtype=self.dtype,
            )  # fmt: skip
            self._fused = now, FusedTower(weights, geometry, device, backend)
        return self._fused[1]


AutoConfig.register(S2ClipVisionConfig.model_type, S2ClipVisionConfig, exist_ok=True)
AutoModel.register(S2ClipVisionConfig, S2ClipVisionModel, exist_ok=True)
