"""DeepSpeed's settings: numbers that suit the model, and nothing left to guess."""

import json

import pytest

from medvlm_cli.core import zero
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.zero import zero_config


def config(stage, **more):
    return zero_config(stage, 2, 4, 8, True, 1.0, **more)


@pytest.mark.parametrize("stage", [2, 3])
def test_nothing_is_left_to_guess(stage):
    text = json.dumps(config(stage))
    assert "auto" not in text and json.loads(text)["train_batch_size"] == 64


def test_the_buckets_of_llama_3_8b():
    two, three = (config(stage)["zero_optimization"] for stage in (2, 3))
    assert two["reduce_bucket_size"] == three["reduce_bucket_size"] == 16777216
    assert three["stage3_prefetch_bucket_size"] == 15099494
    assert three["stage3_param_persistence_threshold"] == 40960


def test_the_buckets_go_with_the_width_of_the_language_model():
    three = config(3, hidden=1000)["zero_optimization"]
    assert three["reduce_bucket_size"] == 1_000_000
    assert three["stage3_prefetch_bucket_size"] == 900_000
    assert three["stage3_param_persistence_threshold"] == 10_000


def test_the_width_of_the_files_changes_nothing():
    assert config(3, hidden=4096) == config(3)


@pytest.mark.parametrize("stage", [2, 3])
def test_communication_does_not_overlap_the_backward_pass(stage):
    assert config(stage)["zero_optimization"]["overlap_comm"] is False


def test_a_stage_has_no_setting_of_another():
    assert not [name for name in config(2)["zero_optimization"] if name.startswith("stage3")]


def test_without_deepspeed_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="deepspeed is not installed") as refused:
        config(2)
    assert "--set zero=0" in refused.value.fix
