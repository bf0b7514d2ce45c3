"""Adapters beside the language model's layers: what trains, what is computed, and what is left of them at the end."""

import importlib.util
import json

import pytest
import torch
from torch import nn

from medvlm_cli.core.config import FinetuneConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.model import adapters
from medvlm_cli.core.model.adapters import adapt, check_adapter, merge
from medvlm_cli.core.model.vlm import build_model
from tests.conftest import SCALES

SETTINGS = {"adapter": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "seed": 3}


@torch.no_grad()
def logits(model, training=False):
    """Of two conversations of one image each."""
    random = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=random)
    ids = torch.randint(5, 300, (2, 30), generator=random)
    ids[:, 1:17] = model.config.image_token_index
    return model.train(training)(input_ids=ids, pixel_values=pixels).logits


@torch.no_grad()
def trained(model):
    """As training leaves it: no matrix is zero, and the connector has moved."""
    random = torch.Generator().manual_seed(6)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight += torch.empty_like(weight).normal_(0, 0.05, generator=random)
        assert "vision_tower" not in name or not weight.requires_grad
    return model


def test_a_fresh_adapter_changes_nothing(fresh_model):
    model, _ = fresh_model
    before = logits(model)
    adapt(model, SETTINGS)
    assert torch.equal(logits(model), before)


def test_the_connector_and_the_matrices_train_and_nothing_else(fresh_model):
    model, _ = fresh_model
    linear = {n for n, layer in model.model.language_model.named_modules() if isinstance(layer, nn.Linear)}
    adapt(model, SETTINGS)
    wanted = {f"model.language_model.{name}.lora_{part}.default.weight" for name in linear for part in "AB"}
    wanted |= {name for name, _ in model.named_parameters() if "multi_modal_projector" in name}
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == wanted
    assert len(linear) == 14 and type(model.lm_head) is nn.Linear


def test_the_merged_model_computes_what_the_adapter_did(fresh_model):
    model, _ = fresh_model
    plain, before = set(model.state_dict()), logits(model)
    adapt(model, SETTINGS)
    after = logits(trained(model))
    assert merge(model) is not None
    assert (logits(model) - after).abs().max() <= 1e-6 < (after - before).abs().max()
    assert set(model.state_dict()) == plain and not hasattr(model, "peft_config")


def test_a_model_without_an_adapter_is_left_alone(fresh_model):
    model, _ = fresh_model
    adapt(model, {**SETTINGS, "adapter": "none"})
    assert merge(model) is None and model.lm_head.weight.requires_grad


def test_the_seed_alone_decides_the_matrices(tiny_tower, tiny_llm):
    made = {}
    for name, noise, seed in [("one", 0, 3), ("same", 99, 3), ("other", 0, 4)]:
        model, _ = build_model(tiny_tower, tiny_llm, SCALES)
        torch.manual_seed(noise)
        adapt(model, {**SETTINGS, "seed": seed})
        made[name] = model.get_parameter("model.language_model.layers.0.mlp.up_proj.lora_A.default.weight")
    assert torch.equal(made["one"], made["same"]) and not torch.equal(made["one"], made["other"])


def test_the_random_state_is_as_it_was(fresh_model):
    state = torch.get_rng_state()
    adapt(fresh_model[0], SETTINGS)
    assert torch.equal(torch.get_rng_state(), state)


def test_peft_reads_what_is_kept(fresh_model, tiny_tower, tiny_llm, tmp_path):
    from peft import PeftModel

    model, _ = fresh_model
    adapt(model, SETTINGS)
    after = logits(trained(model))
    merge(model).write(tmp_path / "adapter", "pretrain")
    base, _ = build_model(tiny_tower, tiny_llm, SCALES)
    before = logits(base)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.allclose(logits(adapted), after, atol=1e-6)
    with adapted.disable_adapter():  # of the connector too
        assert torch.equal(logits(adapted), before)
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "pretrain" and told["r"] == 4 and str(tmp_path) not in str(told)


def test_a_language_model_without_linear_layers_is_refused():
    model = nn.Module()
    model.model = nn.Module()
    model.model.language_model = nn.Sequential(nn.LayerNorm(4))
    with pytest.raises(ConfigError, match="has none"):
        adapt(model, SETTINGS)


def test_four_bits_need_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="there is no NVIDIA GPU here"):
        check_adapter("qlora")


def test_four_bits_need_bitsandbytes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        check_adapter("qlora")


def test_an_adapter_needs_peft(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'medvlm\[train\]'"):
        check_adapter("lora")


class Coarse(nn.Linear):
    """A layer whose weights were rounded, as a stand-in for 4 bits where bitsandbytes is missing."""


def test_matrices_stand_beside_the_layers_that_a_quantiser_made(fresh_model, monkeypatch):
    def coarse(words):
        for name, layer in list(words.named_modules()):
            if type(layer) is nn.Linear:
                made = Coarse(layer.in_features, layer.out_features, layer.bias is not None)
                made.weight = nn.Parameter((layer.weight * 16).round() / 16)
                words.set_submodule(name, made)

    monkeypatch.setattr(adapters, "quantise", coarse)
    model, _ = fresh_model
    adapt(model, {**SETTINGS, "adapter": "qlora"})
    assert isinstance(model.model.language_model.layers[0].mlp.up_proj.get_base_layer(), Coarse)
    after = logits(trained(model))
    merge(model)
    assert (logits(model) - after).abs().max() <= 1e-6
    assert not any(isinstance(layer, Coarse) for layer in model.modules())


def test_four_bits_become_plain_weights_with_the_adapter_in_them(fresh_model):
    pytest.importorskip("bitsandbytes")
    model, _ = fresh_model
    exact = logits(model)
    adapt(model, {**SETTINGS, "adapter": "qlora"})
    model.to("cpu")  # quantises
    up = model.model.language_model.layers[0].mlp.up_proj.get_base_layer()
    assert up.weight.dtype == torch.uint8 and up.weight.quant_state.nested
    after = logits(trained(model), training=True)  # for evaluation on the CPU it packs them, 64 columns together
    merge(model)
    assert type(model.model.language_model.layers[0].mlp.up_proj) is nn.Linear
    assert (logits(model) - after).abs().max() <= 1e-5 < (after - exact).abs().max()


def test_an_adapter_has_a_learning_rate_of_its_own():
    assert [FinetuneConfig(adapter=kind).lr for kind in ("none", "lora", "qlora")] == [2e-5, 2e-4, 2e-4]
    assert FinetuneConfig(adapter="lora", lr=3e-5).lr == 3e-5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adapter": "qlora", "zero": 3}, "ZeRO-3 does not split"),
        ({"adapter": "dora"}, "give one of none, lora, qlora"),
        ({"lora_rank": 0}, "lora_rank is 0"),
        ({"lora_dropout": 1.0}, "from 0 to below 1"),
        ({"leaks": "ignore"}, "give one of refuse, drop, keep"),
        ({"parity": "llama3-med", "pack_tokens": 4096}, "weighs every micro-batch alike"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, says):
    with pytest.raises(ConfigError) as error:
        FinetuneConfig(**changes)
    assert says in str(error.value)
