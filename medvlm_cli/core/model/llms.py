"""Language models: a family -> its chat template and the tokens that end an answer.

Any causal language model of Hugging Face will do.  Code that a model brings along is never run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from medvlm_cli.core import prompts
from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.model.foreign import reading
from medvlm_cli.core.model.hub_id import HubId, hub_id

VOCABULARY_MULTIPLE = 64
"""The embedding grows to a multiple of this, which matrix units like; the rows beyond the tokenizer are never used."""


@dataclass(frozen=True)
class LLMFamily:
    """How a family chats.  An empty ``template`` means the tokenizer's own."""

    template: str
    stops: tuple[str, ...]
    """Tokens that end an answer, besides the model's own end token."""


LLMS: dict[str, LLMFamily] = {
    "llama3": LLMFamily(prompts.LLAMA3, ("<|eot_id|>", "<|end_of_text|>")),
    "mistral": LLMFamily(prompts.MISTRAL, ("</s>",)),
    "own": LLMFamily("", ()),
    "generic": LLMFamily(prompts.GENERIC, ()),
}


def family_of(tokenizer: PreTrainedTokenizerBase, model_type: str) -> str:
    """Name of the family in ``LLMS``: by the header tokens of Llama 3, by Mistral's model type as long as its
    tokenizer has no ``[INST]`` token (from v0.3 on it has, and another spacing), else by whether there is a template.
    """
    added = tokenizer.get_added_vocab()
    if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= set(added):
        return "llama3"
    if model_type == "mistral" and "[INST]" not in added:
        return "mistral"
    return "own" if tokenizer.chat_template else "generic"


def load_llm(name_or_path: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load a language model and make room for images.

    The tokenizer gets ``<image>`` and, where it lacks one, a padding token.  The embedding grows by that one token and
    up to a multiple of ``VOCABULARY_MULTIPLE``; new rows are the mean of the old ones, so that none stands out.

    Args:
        name_or_path: folder, or hub id, with ``@`` and a commit where it is to be the same for ever.
        dtype: of the weights.

    Returns:
        The model, its tokenizer, the name of its family in ``LLMS``.

    Raises:
        ConfigError: there is no such folder, or it is no causal language model in safetensors, or has no end token or
            fast tokenizer.
        RemoteError: the hub did not give it.
    """
    local = Path(name_or_path).is_dir()
    where = HubId(name_or_path, None) if local else hub_id(name_or_path)
    if where is None:
        raise ConfigError(
            f"llm {name_or_path}: no such folder",
            "check the path, or give `tiny` or a hub id: OWNER/NAME, or OWNER/NAME@REVISION (40 hex digits)",
        )

    def refused(reason: str, error: Exception) -> ConfigError | RemoteError:
        if local or not isinstance(error, OSError):
            return ConfigError(
                f"llm {name_or_path}: not a causal language model of transformers ({reason})",
                "take another one; weights must be safetensors, because a pickle runs code when it is opened",
            )
        return RemoteError(
            f"llm {name_or_path}: no such folder, and the hub did not give it ({reason})",
            "accept its terms on the hub and set HF_TOKEN, or give a folder: --set llm=/path, or --set llm=tiny",
        )

    with reading(refused):
        tokenizer = AutoTokenizer.from_pretrained(where.name, revision=where.revision, trust_remote_code=False)
        llm = AutoModelForCausalLM.from_pretrained(
            where.name, revision=where.revision, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    if not tokenizer.is_fast or tokenizer.eos_token is None:
        raise ConfigError(f"llm {name_or_path}: its tokenizer is not a fast one, or has no end token", "take another")
    family = family_of(tokenizer, llm.config.model_type)
    add_tokens(tokenizer)
    _untie(llm)
    _grow(llm, len(tokenizer))
    return llm, tokenizer, family


def add_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer ``<image>`` and, where it lacks one, a padding token."""
    image = AddedToken(prompts.IMAGE, normalized=False, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [image]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _untie(llm: PreTrainedModel) -> None:
    """Give the head weights of its own where LLaVA could not tie them: it knows embeddings as ``embed_tokens`` only."""
    if llm.config.tie_word_embeddings and not hasattr(llm.base_model, "embed_tokens"):
        head = llm.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        llm.config.tie_word_embeddings = False


@torch.no_grad()
def _grow(llm: Any, tokens: int) -> None:
    """Rows for ``tokens`` tokens, if there are not enough."""
    rows = llm.get_input_embeddings().weight.size(0)
    if tokens <= rows:
        return
    llm.resize_token_embeddings(tokens, pad_to_multiple_of=VOCABULARY_MULTIPLE, mean_resizing=False)
    for weight in (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight):
        weight[rows:] = weight[:rows].float().mean(0)


def stop_ids(tokenizer: PreTrainedTokenizerBase, family: str) -> list[int]:
    """Ids that end an answer."""
    known = tokenizer.get_vocab()
    stops = [known[token] for token in LLMS[family].stops if token in known]
    return list(dict.fromkeys([tokenizer.eos_token_id, *stops]))
