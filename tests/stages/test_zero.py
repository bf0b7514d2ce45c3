"""ZeRO-2 and ZeRO-3 train as plain data parallel training does, and go on as if nothing had happened."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

STAGES = (0, 2, 3)


@pytest.fixture(scope="module")
def out(training_data, pretrained, tmp_path_factory):
    """What ``zero_cases`` leaves: runs under every stage, in two processes."""
    folder = tmp_path_factory.mktemp("zero")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words += ["-m", "tests.stages.zero_cases", training_data, folder, pretrained.path("pretrain"), *STAGES]
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-6000:]
    return folder


def rows(out, name):
    logged = [json.loads(line) for line in (out / name / "steps.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in ("step", "loss", "grad_norm")} for row in logged]


def weights(out, name):
    return load_file(out / name / "out" / "model.safetensors")


@pytest.mark.parametrize("stage", [2, 3])
def test_all_stages_have_the_same_losses_and_gradients(out, stage):
    plain, zero = rows(out, "whole-0"), rows(out, f"whole-{stage}")
    assert len(plain) == len(zero) == 6
    assert [row["loss"] for row in zero] == pytest.approx([row["loss"] for row in plain], abs=2e-6)
    assert [row["grad_norm"] for row in zero] == pytest.approx([row["grad_norm"] for row in plain], rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_goes_on_from_its_checkpoint_ends_in_the_same_bits(out, stage):
    assert rows(out, f"cut-{stage}") == rows(out, f"whole-{stage}")
    whole, cut = weights(out, f"whole-{stage}"), weights(out, f"cut-{stage}")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_saved_keys_are_the_same_under_all_stages(out):
    assert weights(out, "whole-0").keys() == weights(out, "whole-2").keys() == weights(out, "whole-3").keys()


@pytest.mark.parametrize("kind", ["mixed", "text only", "images"])
def test_the_gradients_of_zero_2_are_those_of_plain_data_parallel_training(out, kind):
    assert json.loads((out / "gradients.json").read_text())[kind] < 1e-5
