"""``eval`` killed again and again, by SIGKILL: at most a batch each is asked again, and the answers are the same.

Compared is everything in the datasets but the seconds that an answer took, which are of the process that gave it.
"""

import os
import random
import signal
import time

import pytest

from medvlm_cli.core.answering import JOURNAL
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import SCORED_ANSWERS
from tests.stages.eval_cases import question, write
from tests.warm import Warm

BATCH = 2


def rows(folder):
    """The rows in the order of the files."""
    return [row | {"seconds": None} for row in open_dataset(folder, SCORED_ANSWERS).rows()]


class Lives:
    """One run of the command, process after process."""

    def __init__(self, warm, questions, checkpoint, out):
        asked = out.with_suffix(".questions")
        write(asked, [question(number) for number in range(questions)])
        self.warm, self.out, self.each = warm, out, questions // BATCH
        self.argv = ["eval", "--bench", asked, "--checkpoint", checkpoint, "-o", out, "-q", "--set", "overlap=false"]
        self.argv += ["--set", f"batch={BATCH}", "--set", "max_new_tokens=6", "--set", "draws=50"]
        self.batches, self.kills = out.with_suffix(".batches"), 0

    def start(self):
        return self.warm.start(self.argv, self.out.with_suffix(".log"), self.batches)

    def live(self, more, then):
        """A process that is killed when it has begun so many batches, and ``then`` seconds later."""
        goal, process = len(self.begun()) + more, self.start()
        while len(self.begun()) < goal and self.warm.is_running(process):
            time.sleep(0.001)
        time.sleep(then)
        os.kill(process, signal.SIGKILL)
        self.kills += self.warm.wait(process) == -signal.SIGKILL

    def finish(self):
        assert self.warm.wait(self.start()) == 0, self.out.with_suffix(".log").read_text()[-3000:]

    def begun(self):
        """Batches that were begun, some of them again."""
        return self.batches.read_text().splitlines() if self.batches.exists() else []


@pytest.fixture(scope="module")
def warm():
    with Warm() as started:
        yield started


@pytest.mark.parametrize(("kills", "questions"), [(3, 24), pytest.param(20, 90, marks=pytest.mark.slow)])
def test_after_kills_the_rows_are_those_of_an_undisturbed_run_and_each_cost_at_most_a_batch(
    warm, tiny_checkpoint, tmp_path, kills, questions
):
    whole, killed = (Lives(warm, questions, tiny_checkpoint, tmp_path / name) for name in ("whole", "killed"))
    chance = random.Random(kills)
    whole.finish()
    for _ in range(kills):
        killed.live(chance.randrange(1, 1 + 2 * whole.each // kills), 0.03 * chance.random())
    killed.finish()
    assert killed.kills == kills
    assert len(whole.begun()) == len(set(whole.begun())) == 2 * whole.each
    assert len(set(killed.begun())) == 2 * whole.each
    assert len(killed.begun()) <= 2 * whole.each + kills
    assert len(rows(killed.out)) == questions
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert rows(tmp_path / "killed-blank") == rows(tmp_path / "whole-blank")
    assert not list(tmp_path.glob(f"*/{JOURNAL}"))


def test_a_line_that_a_kill_cut_off_is_asked_again(warm, tiny_checkpoint, tmp_path):
    run = Lives(warm, 36, tiny_checkpoint, tmp_path / "out")
    run.live(5, 0)
    journal = run.out / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines)[:-10])
    before = len(run.begun())
    run.finish()
    assert len(run.begun()) - before == 2 * run.each - len(lines) + 1
    assert len(rows(run.out)) == 36
