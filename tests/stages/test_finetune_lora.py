"""Finetuning with adapters, from the outside: what trains, what is kept, and what a checkpoint of training holds."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.model.checkpoint import load
from tests.training_cases import cut_at

LORA = {"adapter": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1}


def stop():
    raise KeyboardInterrupt


@torch.no_grad()
def logits(model):
    """Of a conversation of one image."""
    random = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=random)
    ids = torch.randint(5, 300, (1, 30), generator=random)
    ids[:, 1:17] = model.config.image_token_index
    return model.eval()(input_ids=ids, pixel_values=pixels).logits


@pytest.fixture(scope="module")
def trained(training_data, pretrained, tmp_path_factory, tiny_tower, tiny_llm):
    """A finetuning with adapters that nothing disturbed: its ``Bench``, with the checkpoint ``lora``."""
    from tests.training_cases import Bench

    bench = Bench(training_data, tmp_path_factory.mktemp("lora"), tiny_tower, tiny_llm)
    bench.finetune("lora", pretrained.path("pretrain"), **LORA)
    return bench


def test_the_linear_layers_and_the_connector_change_and_nothing_else(trained, pretrained):
    before, after = pretrained.weights("pretrain"), trained.weights("lora")
    assert before.keys() == after.keys()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    layers = {name for name in after if name.startswith("model.language_model.layers.") and "norm" not in name}
    assert moved == layers | {name for name in after if name.startswith("model.multi_modal_projector.")}


def test_the_plain_model_computes_what_the_base_with_the_kept_adapter_does(trained, pretrained):
    from peft import PeftModel

    base, _ = load(pretrained.path("pretrain"), "cpu", torch.float32)
    adapted = PeftModel.from_pretrained(base, trained.path("lora") / "adapter")
    plain, _ = load(trained.path("lora"), "cpu", torch.float32)
    assert (logits(plain) - logits(adapted)).abs().max() <= 1e-6


def test_what_is_kept_names_its_base_and_no_path(trained):
    folder = trained.path("lora") / "adapter"
    told = json.loads((folder / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "pretrain" and str(trained.root) not in json.dumps(told)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_no_other_training_keeps_an_adapter(pretrained):
    assert not (pretrained.path("pretrain") / "adapter").exists()


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(bench, pretrained, trained):
    """With dropout, so the random numbers must go on too; its checkpoint holds the matrices and the connector."""
    with pytest.raises(KeyboardInterrupt):
        bench.finetune("lora", pretrained.path("pretrain"), cut_at(3, stop), **LORA)
    (kept,) = bench.state("lora").glob("step-*/trainable.safetensors")
    assert {name.split(".")[-3] for name in load_file(kept)} == {"lora_A", "lora_B", "multi_modal_projector"}
    bench.finetune("lora", pretrained.path("pretrain"), **LORA)
    assert bench.steps("lora") == trained.steps("lora")
    assert (bench.path("lora") / "adapter" / "adapter_model.safetensors").read_bytes() == (
        trained.path("lora") / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_in_bfloat16_small_steps_are_not_lost(bench, pretrained):
    bench.finetune("lora", pretrained.path("pretrain"), **LORA, precision="bf16", lr=1e-6)
    kept = load_file(bench.path("lora") / "adapter" / "adapter_model.safetensors")
    second = [weight for name, weight in kept.items() if "lora_B" in name]
    assert all(weight.dtype == torch.float32 and weight.any() for weight in second)
    assert {weight.dtype for weight in bench.weights("lora").values()} == {torch.bfloat16}


@pytest.mark.parametrize("zero", [3, pytest.param(0, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_two_devices_train_what_one_does(bench, pretrained, zero):
    """Also where every weight lies in parts on both until the adapter is merged."""
    settings = LORA | {"lora_dropout": 0.0, "epochs": 1.0}
    bench.finetune("one", pretrained.path("pretrain"), **settings)
    bench.finetune("two", pretrained.path("pretrain"), gpus=2, zero=zero, **settings)
    losses = [[row["loss"] for row in bench.steps(name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    one, two = bench.weights("one"), bench.weights("two")
    assert one.keys() == two.keys() and all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert (bench.path("two") / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so it would train")
def test_four_bits_are_refused_before_anything_is_made(bench, pretrained):
    with pytest.raises(ConfigError, match="no NVIDIA GPU"):
        bench.finetune("qlora", pretrained.path("pretrain"), **LORA | {"adapter": "qlora"})
    assert not bench.root.joinpath("checkpoints").exists()


def test_the_models_that_train_whole_never_load_peft():
    code = "import sys, medvlm_cli.core.launch, medvlm_cli.stages.finetune; print('peft' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
