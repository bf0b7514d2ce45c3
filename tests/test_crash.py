"""Every operation on the disk at which a run may end: what is there then is whole, and the same command finishes."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests import mutants
from tests.power_cut import MODES

pytestmark = pytest.mark.timeout(1600)  # a walk takes a minute, on a busy machine several
CASES = ("fetch", "synthesize", "eval", "checkpoint")
FAST = [
    ("fetch", "torn", 1), ("synthesize", "lost", 2), ("eval", "torn", 5), ("checkpoint", "torn", 1),
    ("checkpoint", "lost", 1),
]  # fmt: skip
"""With the step from one operation to the next; in ``make test-slow`` it is 1 for all."""
SLOW = [(*pair, 1) for pair in itertools.product(CASES, MODES) if (*pair, 1) not in FAST]


def process(module, *words):
    """A walk over all points: a process of its own, with one thread, that may fork."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.mark.parametrize(
    ("case", "mode", "stride"), [*FAST, *(pytest.param(*walk, marks=pytest.mark.slow) for walk in SLOW)]
)
def test_a_run_cut_off_at_any_operation_leaves_nothing_damaged_and_the_same_command_finishes_it(
    case, mode, stride, tmp_path
):
    done = process("tests.crash_cases", case, mode, tmp_path, stride)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["damaged"] == []
    assert found["points"] > 60


QUICK = {
    "_settled: _sync(file.fileno(), path)": [("checkpoint", "torn")],
    "rename: sync_folder(new.parent)": [("checkpoint", "lost")],
    "settle: _sync(self._file.fileno(), self.tmp)": [("fetch", "torn")],
    mutants.NO_TEMPORARY_NAME: [("fetch", "killed")],
}
"""Statements and the walk that soon misses them."""
LOCK = "acquire: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
"""Is missed by faults/test_races.py::test_without_the_lock_both_would_write."""


def test_the_statements_that_are_taken_away_are_all():
    assert {LOCK, *QUICK} - {mutants.NO_TEMPORARY_NAME} < set(mutants.statements())
    assert len(mutants.statements()) >= 15


@pytest.mark.parametrize(
    "statement",
    [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in mutants.statements() if one not in (LOCK, *QUICK))],
)
def test_without_any_statement_that_settles_or_names_a_walk_finds_damage(statement, tmp_path):
    walks = QUICK.get(statement, list(itertools.product(("checkpoint", "fetch"), ("torn", "lost"))))
    for number, (case, mode) in enumerate(walks):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = process("tests.mutants", statement, case, mode, folder)
        if done.returncode:  # not even an undisturbed run comes to its end
            assert "AssertionError" in done.stderr, done.stderr[-3000:]
            return
        if json.loads(done.stdout)["damaged"]:
            return
    pytest.fail(f"no walk of {walks} found anything")


def test_the_variable_of_the_environment_kills_the_command_at_that_operation(tmp_path):
    command = [sys.executable, "-m", "medvlm_cli", "fetch", "phantom", "-o", str(tmp_path / "figures"), "--set", "n=2"]
    done = subprocess.run(command, env=os.environ | {"MEDVLM_CRASH_AT": "9"}, capture_output=True, timeout=120)
    assert done.returncode == -9
    assert not (tmp_path / "figures" / "manifest.json").exists()
