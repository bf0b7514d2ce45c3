"""Every verb killed again and again at moments of its own progress: what comes out is what an undisturbed run makes."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.verbs import VERBS
from tests.synthesis import environment

DATA, TRAINING = ("fetch", "synthesize", "eval"), ("pretrain", "finetune")
FAST = [*((name, 25) for name in DATA), *((name, 10) for name in TRAINING)]
SLOW = [*((name, 200) for name in DATA), *((name, 50) for name in TRAINING)]
MOST_SECONDS = 0.3
"""Longest time between the operation that a kill waits for and the kill; most are shorter than a run."""


def killed(bench, name, root, kills, chance):
    """Runs of a verb, each killed until it ends before it is, until there were so many kills.

    Yields the folder of each finished run, and the number of kills that it went through.
    """
    verb, _, operations = bench.verb(name)
    left, number = kills, 0
    while left:
        number, out, before = number + 1, root / f"run-{number}", left
        while left:
            fork = bench.start(verb, out)
            fork.follow(chance.randrange(1, operations), MOST_SECONDS * chance.random() ** 4)
            status = fork.end(signal.SIGKILL)
            assert status in (0, 128 + signal.SIGKILL), bench.said(out)
            if not status:
                break
            left -= 1
        else:
            bench.finish(verb, out)
        yield out, before - left


@pytest.mark.parametrize(("name", "kills"), [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)])
def test_a_verb_that_is_killed_again_and_again_ends_with_the_rows_of_an_undisturbed_run(bench, tmp_path, name, kills):
    verb, wanted, _ = bench.verb(name)
    runs = list(killed(bench, name, tmp_path, kills, random.Random(kills)))
    assert sum(count for _, count in runs) == kills
    assert [out.name for out, _ in runs if verb.found(out) != wanted] == []


def size(folder):
    """Bytes of all files in a folder that is being written."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def really_killed(verb, out, most, chance):
    """A start of the command as a user types it, killed with its workers at some size of what it writes.

    Returns:
        Its exit status.
    """
    command = [sys.executable, "-m", "medvlm_cli", *map(str, verb.argv(out))]
    process = subprocess.Popen(command, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL)
    goal = chance.randrange(1, most)
    while size(out) < goal and process.poll() is None:
        time.sleep(0.002)
    time.sleep(MOST_SECONDS * chance.random() ** 4)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_a_process_group_that_is_killed_three_times_ends_with_the_rows_of_an_undisturbed_run(bench, tmp_path, name):
    verb, wanted, _ = bench.verb(name)
    (tmp_path / "out").mkdir()
    chance, most = random.Random(3), size(bench.root / name)
    assert [really_killed(verb, tmp_path / "out", most // 2, chance) for _ in range(3)] == [-signal.SIGKILL] * 3
    command = [sys.executable, "-m", "medvlm_cli", *map(str, verb.argv(tmp_path / "out"))]
    assert subprocess.run(command, env=environment(), capture_output=True, timeout=300).returncode == 0
    assert verb.found(tmp_path / "out") == wanted


def test_every_verb_that_writes_a_result_is_killed():
    assert set(VERBS) == {*DATA, *TRAINING}
