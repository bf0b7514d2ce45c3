"""What tests with a real vLLM share: their marks, and a model that is made here, without a download."""

import os

import pytest

from medvlm_cli.teachers.launch import PROGRAM

NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(PROGRAM not in os.environ, reason="needs an environment with vLLM: make test-vllm"),
]
POSITIONS = 8192
"""As many as Llama 3 has: our prompt takes 6,300 of them in the pieces of so small a vocabulary."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def make(folder):
    """A random Llama of 0.5 million weights that knows Llama 3's turns."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from medvlm_cli.core.model.tiny import GENERAL_TEXT, make_tokenizer

    tokenizer = make_tokenizer(GENERAL_TEXT)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=POSITIONS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
