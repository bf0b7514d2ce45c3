"""The paper's model at full size, on shapes alone: no weight of it is ever held."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import LlamaConfig

from medvlm_cli.core.model.towers import TOWERS
from medvlm_cli.core.model.vlm import MedVLMForConditionalGeneration, freeze, make_config

LLAMA3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
"""Meta-Llama-3-8B-Instruct, config.json."""
WORDS = 56
"""Tokens of a row beside the 729 of its image."""


@pytest.fixture(params=[("pretrain", 32_514_048), ("finetune", 32_514_048 + 8_030_261_248)], ids=lambda stage: stage[0])
def traced(request):
    """A model in a stage, the parameters that stage trains, and two rows of one training step; all of it fake."""
    stage, learning = request.param
    vision = TOWERS["dfn5b-vit-h-14-378"].config((378, 756, 1134))
    with FakeTensorMode(shape_env=ShapeEnv()):
        config = make_config(vision, LlamaConfig(**LLAMA3_8B), 128255, "squash", "llama3")
        model = MedVLMForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        freeze(model, stage)
        ids = torch.zeros(2, 729 + WORDS, dtype=torch.long)
        rows = {
            "input_ids": ids,
            "labels": ids.clone(),
            "pixel_values": torch.empty(2, 3, 1134, 1134, dtype=torch.bfloat16),
        }
        yield model.train(), learning, rows


def test_one_training_step_has_the_shapes_of_the_paper(traced):
    model, learning, rows = traced
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, foreach=False)
    out = model(**rows, num_items_in_batch=2 * WORDS)
    out.loss.backward()
    optimizer.step()
    assert sum(weight.numel() for weight in trained) == learning
    assert (out.loss.shape, out.loss.dtype) == ((), torch.float32)
    assert out.image_hidden_states.shape == (2, 729, 4096)
    assert [weight.grad.shape for weight in trained] == [weight.shape for weight in trained]
    assert {weight.grad is None for weight in model.model.vision_tower.parameters()} == {True}
    assert len(optimizer.state) == len(trained)
