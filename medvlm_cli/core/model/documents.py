"""Attention for rows that hold several conversations end to end: each is computed for itself.

The stock way is one mask over the whole row, and its cost is the square of the row's length.  Here every conversation
is a causal attention of its own, so a row costs what its conversations cost alone, and no mask is made.

Legend: L tokens of the row, h heads, d channels of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "medvlm_documents"


def attend_by_document(language_model: Any, max_length: int) -> bool:
    """Let a language model compute attention conversation by conversation where a row holds several.

    What else it is given, padded rows among it, it reads as with PyTorch's own attention.

    Args:
        language_model: of transformers.
        max_length: tokens of the longest conversation.

    Returns:
        Whether it does now.  A model stays as it is if it looks back less far than ``max_length``, or if it does
        anything to its scores that PyTorch's attention cannot.
    """
    config = language_model.config
    window = getattr(config, "sliding_window", None)
    if config._attn_implementation != "sdpa" or (window and window < max_length):
        return False
    language_model.set_attn_implementation(NAME)
    return True


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """``(B, L, h, d)`` of query, key and value ``(B, h, L, d)``, as transformers calls it."""
    places = more.get("position_ids")
    lengths = more.pop("documents", None)
    if lengths is None and attention_mask is None and places is not None:
        lengths = _lengths(places)
    if lengths is None or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    parts = zip(*(whole.split(list(lengths), dim=2) for whole in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, q, k, v, None, **more)[0] for q, k, v in parts], dim=1), None


def _lengths(places: torch.Tensor) -> Sequence[int] | None:
    """Lengths of a row's conversations where its positions ``(1, L)`` begin again; None for any other."""
    if len(places) > 1 or not bool((places[0, 1:] == 0).any()):
        return None
    starts = (places[0] == 0).nonzero().flatten().tolist()
    return [end - start for start, end in zip(starts, [*starts[1:], places.shape[1]], strict=True)]


def _mask(*given: Any, **more: Any) -> torch.Tensor | None:
    """No mask for a row of several conversations, else PyTorch's."""
    # Only for such rows, transformers forbids to leave a mask out although none was given.
    if more.get("attention_mask") is None and not more.get("allow_is_causal_skip", True):
        return None
    return sdpa_mask(*given, **more)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
