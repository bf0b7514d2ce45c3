"""Low-rank adapters: small matrices beside the linear layers of the language model, trained in their stead.

A layer of weights W computes (W + s B A) x; A has few rows, B few columns, and s is alpha over rank.  Only A,
B and the connector train, so a checkpoint of training holds nothing else.  At the end the product is added to W, and
the model is a plain one again; A and B are kept beside it, in peft's format.

The layers are put into the model itself instead of around it, so everything else sees the model that it knows.

Source: Hu et al. 2021, arXiv:2106.09685; in 4 bits Dettmers et al. 2023, arXiv:2305.14314.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from medvlm_cli.core import commit
from medvlm_cli.core.errors import ConfigError

CONNECTOR = "multi_modal_projector"
_NAME = "default"
"""What peft calls the only adapter."""


@dataclass(frozen=True)
class Adapter:
    """What training an adapter gave, as ``peft.PeftModel.from_pretrained`` reads it."""

    config: Any
    """``peft.LoraConfig``."""
    weights: dict[str, torch.Tensor]
    """The matrices A ``(rank, in)`` and B ``(out, rank)`` of every layer, and the connector, under peft's names."""

    def write(self, folder: Path, base: str) -> None:
        """Make a folder of ``adapter_config.json`` and ``adapter_model.safetensors``, on the disk when it returns.

        Args:
            folder: what to make.
            base: name of the checkpoint that the adapter goes onto; not its path, because adapters travel.

        Raises:
            ResourceError: the disk is full, or refuses otherwise.
        """
        with commit.refusals(folder.parent):
            folder.mkdir(parents=True, exist_ok=True)
            self.config.base_model_name_or_path, self.config.inference_mode = base, True
            self.config.save_pretrained(str(folder))
            save_file(self.weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            for path in folder.iterdir():
                path.chmod((folder / "adapter_config.json").stat().st_mode)
            commit.settle_folder(folder)


def check_adapter(kind: str) -> None:
    """See to it that an adapter of this kind can be trained here, before anything is loaded.

    Args:
        kind: none, lora or qlora.

    Raises:
        ConfigError: a library or a GPU is missing.
    """
    if kind == "none":
        return
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(f"adapter is {kind}, and peft is not installed", "pip install 'medvlm[train]'")
    if kind != "qlora":
        return
    instead = "or --set adapter=lora, which trains the same matrices over weights of 16 bits"
    if not torch.cuda.is_available():
        raise ConfigError("adapter is qlora, and there is no NVIDIA GPU here", f"train on one, {instead}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("adapter is qlora, and bitsandbytes is not installed", f"pip install bitsandbytes, {instead}")


def adapt(model: Any, settings: Mapping[str, Any]) -> None:
    """Put adapters beside all linear layers of the language model; they and the connector train, nothing else.

    The head is left as it is.  B begins as zero, so the model computes what it did before.  A comes from the seed
    alone, so that every process makes the same.

    Args:
        model: a ``MedVLMForConditionalGeneration`` on the CPU.
        settings: of ``finetune``: ``adapter``, ``lora_rank``, ``lora_alpha``, ``lora_dropout`` and ``seed``.

    Raises:
        ConfigError: the language model has no linear layers of PyTorch's kind.
    """
    if settings.get("adapter", "none") == "none":
        return
    from peft import LoraConfig, inject_adapter_in_model

    words = model.model.language_model
    names = {name.rpartition(".")[2] for name, layer in words.named_modules() if isinstance(layer, nn.Linear)}
    if not names:
        raise ConfigError("adapter needs linear layers, and this language model has none", "--set adapter=none")
    if settings["adapter"] == "qlora":
        quantise(words)
    config = LoraConfig(
        r=settings["lora_rank"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules=rf"(.*\.)?language_model\.(.*\.)?({'|'.join(map(re.escape, sorted(names)))})",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        inject_adapter_in_model(config, model, _NAME)
    model.get_submodule(f"model.{CONNECTOR}").requires_grad_(True)  # peft freezes all but its own


def quantise(words: nn.Module) -> None:
    """Give every linear layer weights of 4 bits, whose scales are quantised too; done as they reach the device.

    Args:
        words: the language model without its head.
    """
    import bitsandbytes

    for name, layer in list(words.named_modules()):
        if isinstance(layer, nn.Linear):
            small = bitsandbytes.nn.Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=layer.weight.dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            small.weight = bitsandbytes.nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=small
            )
            small.bias = layer.bias
            words.set_submodule(name, small)


@torch.no_grad()
def merge(model: Any) -> Adapter | None:
    """Add every adapter to the weights it stands beside, and make the layers plain ones again.

    Weights of 4 bits become what they stand for, in the type that was computed in: what was trained is what is kept.
    Under ZeRO-3 all weights must be gathered.

    Args:
        model: what ``adapt`` got; changed in place.

    Returns:
        The adapter, on the CPU; None where the model has none.
    """
    if not hasattr(model, "peft_config"):
        return None
    config = model.peft_config[_NAME]
    config.modules_to_save = [CONNECTOR]
    kept: dict[str, torch.Tensor] = {}
    for name, layer in list(model.named_modules()):
        if not hasattr(layer, "lora_A"):
            continue
        first, second = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
        kept |= {f"{name}.lora_A.weight": first, f"{name}.lora_B.weight": second}
        base = layer.get_base_layer()
        weight = _whole(base)
        product = second.float() @ first.float() * layer.scaling[_NAME]
        plain = nn.Linear(base.in_features, base.out_features, base.bias is not None, device="meta")
        plain.weight = nn.Parameter((weight.float() + product).to(weight.dtype), requires_grad=False)
        plain.bias = base.bias
        model.set_submodule(name, plain)
    connector = model.get_submodule(f"model.{CONNECTOR}")
    kept |= {f"model.{CONNECTOR}.{name}": weight for name, weight in connector.named_parameters()}
    del model.peft_config
    weights = {f"base_model.model.{name}": weight.detach().cpu().clone() for name, weight in kept.items()}
    return Adapter(config, weights)


def _whole(layer: Any) -> torch.Tensor:
    """The weights of a layer as numbers of one element each, ``(out, in)``."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return layer.weight.data
    import bitsandbytes.functional as quantised

    return quantised.dequantize_4bit(layer.weight.data, state)
