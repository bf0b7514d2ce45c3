"""Every operation on the disk at which a run may end: what is there then is whole, and the same command finishes."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.power_cut import MODES

CASES = ("fetch", "synthesize", "eval", "checkpoint")
FAST = [("fetch", "torn"), ("synthesize", "lost"), ("eval", "torn"), ("checkpoint", "torn"), ("checkpoint", "lost")]
SLOW = [pair for pair in itertools.product(CASES, MODES) if pair not in FAST]


def walked(folder, *words):
    """What a walk over all points found; a process of its own, with one thread, that may fork."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.crash_cases", words[0], words[1], str(folder), *words[2:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(("case", "mode"), [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)])
def test_a_run_cut_off_at_any_operation_leaves_nothing_damaged_and_the_same_command_finishes_it(case, mode, tmp_path):
    found = walked(tmp_path, case, mode)
    assert found["damaged"] == []
    assert found["points"] > 60


@pytest.mark.parametrize(
    ("case", "mode", "mutation"),
    [
        ("checkpoint", "torn", "no fsync"),
        ("checkpoint", "lost", "no fsync of the folder"),
        ("fetch", "killed", "no temporary name"),
    ],
)
def test_the_walk_finds_what_is_damaged_without_one_step_of_the_protocol(case, mode, mutation, tmp_path):
    assert walked(tmp_path, case, mode, mutation)["damaged"]


def test_the_variable_of_the_environment_kills_the_command_at_that_operation(tmp_path):
    command = [sys.executable, "-m", "medvlm_cli", "fetch", "phantom", "-o", str(tmp_path / "figures"), "--set", "n=2"]
    done = subprocess.run(command, env=os.environ | {"MEDVLM_CRASH_AT": "9"}, capture_output=True, timeout=120)
    assert done.returncode == -9
    assert not (tmp_path / "figures" / "manifest.json").exists()
