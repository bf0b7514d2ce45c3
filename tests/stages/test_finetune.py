"""The second training stage as it is called; what it shares with the first is tested there."""

import json
import subprocess
import sys

import pytest
import torch

from medvlm_cli.core.arrow import Harvest, write_all
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.three_scale import S2ClipVisionModel
from medvlm_cli.core.schemas import CONVERSATIONS
from tests.training_cases import ROWS, conversation, quiet


def test_language_model_and_connector_change_and_the_tower_never(bench, pretrained):
    bench.finetune("finetune", pretrained.path("pretrain"))
    before, after = pretrained.weights("pretrain"), bench.weights("finetune")
    assert before.keys() == after.keys()
    kept = {name for name in after if torch.equal(before[name], after[name])}
    assert kept == {name for name in after if name.startswith("model.vision_tower.")}


def test_both_stages_find_the_same_features(bench, monkeypatch):
    bench.pretrain("pretrain", cache_features=True)
    monkeypatch.setattr(S2ClipVisionModel, "encode", None)  # calling it would raise
    bench.finetune("finetune", bench.path("pretrain"), cache_features=True)
    assert len(list((bench.root / "features").glob("*/*"))) == 1


def test_cached_features_train_as_the_images_do_to_the_last_bit(bench, pretrained):
    bench.finetune("plain", pretrained.path("pretrain"), epochs=1)
    bench.finetune("cached", pretrained.path("pretrain"), epochs=1, cache_features=True)
    assert bench.steps("cached") == bench.steps("plain")


def test_the_flag_sets_the_setting(training_data, tiny_checkpoint, tmp_path):
    inputs = [training_data / "instruct", "--figures", training_data / "figures", "--from", tiny_checkpoint]
    command = [sys.executable, "-m", "medvlm_cli", "finetune", *map(str, inputs), "--set", "cache_features=false"]
    told = subprocess.check_output([*command, "--cache-features", "--dry-run", "--json"], cwd=tmp_path, text=True)
    assert json.loads(told)["settings"]["cache_features"] is True


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


def taught_by(folder, tag):
    """Conversations that carry the licence tag of a teacher."""

    def taught(key):
        made = conversation(key, "instruct")
        return Harvest(1, [row | {"license_tags": ["CC0-1.0", tag]} for row in made.rows], [])

    keys = [str(number) for number in range(ROWS)]
    write_all(folder, CONVERSATIONS, taught, stage="synthesize", config={}, keys=keys, tell=quiet)
    return folder


def test_a_student_that_a_teachers_terms_forbid_is_warned_of(bench, mistral_llm, tmp_path, caplog):
    bench.parts["llm"] = mistral_llm
    bench.pretrain("pretrain")
    bench.instruct = taught_by(tmp_path / "taught", "llama3-community-license")
    bench.finetune("finetune", bench.path("pretrain"))
    said = [record.message for record in caplog.records if "1.b.v" in record.message]
    assert len(said) == 1
    assert said[0].startswith("Meta Llama 3 Community License") and "mistral" in said[0]


@pytest.mark.parametrize("tag", ["llama3-community-license", "anthropic-commercial-terms", "CC-BY-4.0"])
def test_a_student_built_on_llama_3_is_not_warned_of(bench, pretrained, tmp_path, caplog, tag):
    bench.instruct = taught_by(tmp_path / "taught", tag)
    bench.finetune("finetune", pretrained.path("pretrain"))
    assert [record.message for record in caplog.records if "may not be" in record.message] == []
