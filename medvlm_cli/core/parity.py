"""``--parity llama3-med``: what published training of this shape does and medvlm by itself does not.

Published is what LLaVA's code and Llama3-Med's, which descends from it, do with the paper's settings.  Their bugs are
not copied: labels are as exact as always, and images, figures and special tokens in the data are treated as always.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import LlavaProcessor

from medvlm_cli.core import prompts
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.prompts import IGNORED

SYSTEM = "You are a helpful language and vision assistant. "
"""What opens every published conversation: of three sentences in the source only the first takes effect."""
DIFFERS = {
    "fit": "images are cropped: the shorter side is resized, the middle is cut out",
    "antialias": "smaller scales are made without antialiasing",
    "prompt": "stage 1 sees <image>, caption and a line end, without a question and without an end token",
    "system": f"later stages begin with the system prompt {SYSTEM!r}",
    "loss": "mean over the target words of a micro-batch, then over micro-batches and devices",
    "truncation": "a conversation that is too long loses its end, wherever a turn ends",
}
"""What differs under ``llama3-med``, in words."""

Encode = Callable[..., dict[str, Any]]


def semantics(parity: str) -> dict[str, Any]:
    """What ``run.json`` says of the semantics of a run.

    Args:
        parity: none or llama3-med.
    """
    if parity == "none":
        return {"semantics": "medvlm"}
    return {"semantics": parity, "semantics_differ": dict(DIFFERS)}


def published(model: Any, processor: LlavaProcessor) -> None:
    """Let a model's chat template open with ``SYSTEM`` where no system prompt is given; it is saved with the model.

    So whoever asks the model later asks as it was trained.

    Args:
        model: what is trained.
        processor: its processor; changed in place, before anything is encoded.

    Raises:
        ConfigError: the language model is not of Llama 3's family, or its images are not cropped.
    """
    if model.config.llm_family != "llama3":
        what = f"parity is llama3-med, and the language model is of the family {model.config.llm_family}"
        raise ConfigError(what, "leave --parity out, or train a Llama 3")
    if model.config.fit != "crop":
        what = f"parity is llama3-med, which crops images, and this model was made to {model.config.fit} them"
        raise ConfigError(what, "run `medvlm pretrain --parity llama3-med` first, or leave --parity out")
    header = f"<|start_header_id|>system<|end_header_id|>\\n\\n{SYSTEM}<|eot_id|>"
    opening = "{%- if messages[0]['role'] != 'system' -%}{{- '" + header + "' }}{%- endif -%}"
    begin = "{{- bos_token }}"
    processor.chat_template = prompts.LLAMA3.replace(begin, begin + opening, 1)


def encoder(stage: str, parity: str) -> Encode:
    """What makes token ids and labels of a conversation; called as ``prompts.encode``, which it is by default.

    Args:
        stage: pretrain or finetune.
        parity: none or llama3-med.
    """
    if parity == "none":
        return prompts.encode
    return _plain if stage == "pretrain" else _cut_anywhere


def _plain(
    processor: LlavaProcessor,
    turns: Sequence[Mapping[str, str]],
    images: int = 1,
    max_length: int | None = None,
    where: str = "conversation",
) -> dict[str, Any]:
    """``<image>``, the caption and a line end; what was asked is not shown.

    Raises:
        DataError: there is no caption, or no room for one.
    """
    caption = prompts.neutral(processor, turns[-1]["text"])
    if turns[-1]["role"] != "assistant" or not caption.strip():
        raise DataError(f"{where}: it has no caption", "drop it")
    tokenizer: Any = processor.tokenizer
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    begin += [processor.image_token_id] * (prompts.tokens_per_image(processor) * images)
    words = tokenizer(f"{caption}\n", add_special_tokens=False)["input_ids"]
    return _shortened([*begin, *words], [IGNORED] * len(begin) + words, max_length, where)


def _cut_anywhere(
    processor: LlavaProcessor,
    turns: Sequence[Mapping[str, str]],
    images: int = 1,
    max_length: int | None = None,
    where: str = "conversation",
) -> dict[str, Any]:
    """As ``prompts.encode``, but what is too long loses its end.

    Raises:
        DataError: as there.
    """
    whole = prompts.encode(processor, turns, images, None, where)
    return _shortened(whole["input_ids"], whole["labels"], max_length, where)


def _shortened(ids: list[int], labels: list[int], max_length: int | None, where: str) -> dict[str, Any]:
    kept = labels[:max_length]
    if all(label == IGNORED for label in kept):
        what = f"{where}: in its first {max_length} tokens there is nothing to learn"
        raise DataError(what, "raise it with --set max_length, or drop the conversation")
    return {"input_ids": ids[:max_length], "labels": kept, "cut": int(len(kept) < len(labels))}


def divisor(labels: torch.Tensor, micro_batches: int, world: int) -> torch.Tensor:
    """What the summed loss of a micro-batch is divided by, so that all of a step add up to the mean of their means.

    Args:
        labels: int64 ``(B, L)``, of one micro-batch of one device.
        micro_batches: of this step on this device.
        world: devices.

    Returns:
        A count, int64; a micro-batch without a target adds nothing.
    """
    targets = (labels[:, 1:] != IGNORED).sum()
    return targets.clamp(min=1) * (micro_batches * world)
