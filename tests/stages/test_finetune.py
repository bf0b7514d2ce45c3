"""The second training stage as it is called; what it shares with the first is tested there."""

import json

import pytest
import torch

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.model.checkpoint import load


def test_language_model_and_connector_change_and_the_tower_never(bench, pretrained):
    bench.finetune("finetune", pretrained.path("pretrain"))
    before, after = pretrained.weights("pretrain"), bench.weights("finetune")
    assert before.keys() == after.keys()
    kept = {name for name in after if torch.equal(before[name], after[name])}
    assert kept == {name for name in after if name.startswith("model.vision_tower.")}


def test_both_stages_find_the_same_features(bench):
    bench.pretrain("pretrain", cache_features=True)
    bench.finetune("finetune", bench.path("pretrain"), cache_features=True)
    assert len(list((bench.root / "features").iterdir())) == 1


def test_captions_are_refused(bench, pretrained):
    bench.instruct = bench.captions
    with pytest.raises(DataError, match=r"kind is 'caption', this stage learns 'instruct'"):
        bench.finetune("finetune", pretrained.path("pretrain"))


def test_a_base_that_is_no_checkpoint_is_refused(bench, tmp_path):
    with pytest.raises(DataError, match="no checkpoint"):
        bench.finetune("finetune", tmp_path / "nothing")


def test_small_steps_are_not_lost_in_bfloat16(bench, pretrained):
    """A step of 1e-6 is nothing to most bfloat16 weights; 48 of them must move many all the same."""
    bench.finetune("finetune", pretrained.path("pretrain"), precision="bf16", lr=1e-6, epochs=16)
    before, after = pretrained.weights("pretrain"), bench.weights("finetune")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    moved = (before[name].bfloat16() != after[name]).float().mean()
    assert after[name].dtype == torch.bfloat16 and moved > 0.1


def test_the_checkpoint_answers_and_names_its_base(bench, pretrained):
    bench.finetune("finetune", pretrained.path("pretrain"))
    model, _ = load(bench.path("finetune"), "cpu", torch.float32)
    assert not model.training and model.config.text_config.use_cache
    run = json.loads((bench.path("finetune") / "run.json").read_text())
    assert set(run["inputs"]) == {"conversations", "figures 0", "checkpoint"} and run["finished"]
