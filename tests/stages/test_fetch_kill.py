"""``fetch pmc`` killed again and again: nothing is lost, hardly anything is asked for twice, the rows are the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import ARTICLE_FIGURES
from tests.bucket import serving
from tests.corpus import Article, objects_of

LATENCY = 0.05
FEW = 8
"""Connections: so few that there are seconds between the kills, beside which the wait of a busy processor is short."""
ROOT = Path(__file__).parents[2]


def start(folder, server, out, connections):
    """The command as a user starts it, in a process group of its own."""
    command = [sys.executable, "-m", "medvlm_cli", "fetch", "pmc", "--pmcids", str(folder / "ids.txt"), "-q"]
    command += ["--set", f"bucket={server.url}", "--set", f"connections={connections}", "-o", str(out)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)


def kill_after(process, server, answers, seconds):
    """End the process and its workers without a word some time after the server has given so many more answers.

    Returns the moment: what the server answers after it, to nobody, is no object that was finished.
    """
    goal = len(server.log) + answers
    while len(server.log) < goal and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds)
    moment = time.monotonic()
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return moment


def finished_before(kill, server):
    """Objects that were answered whole before a moment."""
    return {path for moment, path in server.answered if "?" not in path and moment < kill}


def rows_of(folder):
    return sorted(open_dataset(folder, ARTICLE_FIGURES).rows(), key=lambda row: row["figure_id"])


@pytest.mark.parametrize(("kills", "count"), [(3, 220), pytest.param(10, 700, marks=pytest.mark.slow)])
def test_after_kills_the_rows_are_those_of_an_undisturbed_run_and_at_most_one_object_in_a_hundred_came_twice(
    tmp_path, kills, count
):
    articles = [Article(number) for number in range(1, count + 1)]
    (tmp_path / "ids.txt").write_text("\n".join(article.id for article in articles))
    chance = random.Random(7)
    finished, again = set(), 0
    with serving(objects_of(articles), latency=LATENCY) as server:
        for _ in range(kills):
            process = start(tmp_path, server, tmp_path / "killed", FEW)
            kill = kill_after(process, server, chance.randrange(200, 400), 0.3 * chance.random())
            again += sum(path in finished for _, path, _ in server.log)
            finished |= finished_before(kill, server)
            server.answered.clear()
            server.log.clear()
        assert start(tmp_path, server, tmp_path / "killed", FEW).wait() == 0
        again += sum(path in finished for _, path, _ in server.log)
        server.log.clear()
        assert start(tmp_path, server, tmp_path / "killed", FEW).wait() == 0
        assert server.log == []
        assert start(tmp_path, server, tmp_path / "whole", 64).wait() == 0
    assert len(finished) > 200 * kills
    assert again <= len(finished) / 100
    rows = rows_of(tmp_path / "killed")
    assert len(rows) == 3 * count
    assert rows == rows_of(tmp_path / "whole")
