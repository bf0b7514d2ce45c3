"""Attention conversation by conversation: what it computes, what it leaves to PyTorch's, whom it refuses."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel

from medvlm_cli.core.model import documents
from medvlm_cli.core.model.documents import NAME, attend_by_document

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
LENGTHS = [7, 1, 12, 30]
IDS = torch.tensor(np.random.default_rng(0).integers(0, 64, (1, sum(LENGTHS))))
WISHED = torch.tensor(np.random.default_rng(1).normal(size=(1, sum(LENGTHS), 32)), dtype=torch.float32)
PLACES = torch.cat([torch.arange(length) for length in LENGTHS])[None]


@pytest.fixture
def llama():
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(**TEXT))
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.ndim == 2):
            weight.normal_(0, 0.3)
    return model


def read(model, **given):
    return model(use_cache=False, **given).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("told", [{"documents": LENGTHS}, {}])
def test_conversations_of_a_row_read_as_they_do_alone(llama, told):
    alone = torch.cat([read(llama, input_ids=part) for part in IDS.split(LENGTHS, dim=1)], dim=1)
    assert attend_by_document(llama, 64)
    assert llama.config._attn_implementation == NAME
    assert (read(llama, input_ids=IDS, position_ids=PLACES, **told) - alone).abs().max() <= 1e-5


def test_gradients_are_those_of_the_stock_mask(llama):
    gradients = []
    for change in (lambda: None, lambda: attend_by_document(llama, 64)):
        change()
        llama.zero_grad()
        (read(llama, input_ids=IDS, position_ids=PLACES, documents=LENGTHS) * WISHED).sum().backward()
        gradients.append({name: weight.grad.clone() for name, weight in llama.named_parameters()})
    stock, own = gradients
    assert max((own[name] - stock[name]).abs().max() / stock[name].abs().max() for name in stock) <= 1e-4


@torch.no_grad()
def test_padded_rows_keep_their_mask(llama):
    ids, mask = IDS[:, :40].view(2, 20), torch.ones(2, 20, dtype=torch.int64)
    mask[1, :8] = 0  # on the left, where leaving the mask out would show
    expected = read(llama, input_ids=ids, attention_mask=mask)
    attend_by_document(llama, 64)
    assert torch.equal(read(llama, input_ids=ids, attention_mask=mask), expected)


@torch.no_grad()
def test_a_row_of_one_conversation_is_read_as_before(llama):
    expected = read(llama, input_ids=IDS)
    attend_by_document(llama, 64)
    assert torch.equal(read(llama, input_ids=IDS), expected)


@torch.no_grad()
def test_no_mask_is_made_for_a_row_of_several(llama, monkeypatch):
    attend_by_document(llama, 64)
    monkeypatch.setattr(documents, "sdpa_mask", None)  # calling it would raise
    read(llama, input_ids=IDS, position_ids=PLACES, documents=LENGTHS)


@pytest.mark.parametrize(("window", "taken"), [(None, True), (64, True), (63, False)])
def test_a_model_that_looks_back_less_far_stays_as_it_is(window, taken):
    model = MistralModel(MistralConfig(**TEXT, sliding_window=window))
    assert attend_by_document(model, 64) is taken
    assert (model.config._attn_implementation == NAME) is taken


def test_a_model_with_another_attention_keeps_it(llama):
    llama.set_attn_implementation("eager")
    assert not attend_by_document(llama, 64)
    assert llama.config._attn_implementation == "eager"
