"""``synthesize`` killed again and again, by SIGKILL: the datasets come out the same and no batch is paid for twice."""

import random
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import CONVERSATIONS
from medvlm_cli.teachers.status import status
from tests import synthesis
from tests.anthropic_server import AnthropicServer, serving

GIVEN = ("--accept-terms", "claude,llama3", "--max-cost", "1000", "--mix", "claude=60,llama=40", "--json")
OURS_ALONE = {"provider_id", "replied", "attempts"}
"""Columns in which two runs differ: the answer's id, when it came, and how many requests it took, cut-off ones too."""
CREATE = "POST .*/batches$"
LATENCY = 0.01
CONNECTIONS = 8


@dataclass
class Moment:
    """When a process is killed: at the first of these that is given, and ``then`` seconds later."""

    clock: float = 60.0
    """Seconds after its start, at the latest."""
    request: str = ""
    """The server has answered so many ...: "METHOD /path" has this pattern in it."""
    count: int = 1
    accepted: bool = False
    """The server has made a batch, and does not say so."""
    path: str = ""
    """This is in the output folder."""
    then: float = 0.0


@dataclass
class Lives:
    """A run of the command, process after process, against a server of its own."""

    figures: object
    out: object
    server: AnthropicServer
    settings: dict
    kills: int = 0
    hangs: bool = field(default=False)

    def fault(self, number, method, path):
        return "hang after accept" if self.hangs and re.search(CREATE, f"{method} {path}") else None

    def start(self):
        argv = synthesis.command(self.figures, self.out, self.server, *GIVEN, **self.settings)
        log = self.out.with_suffix(".log").open("ab")
        with log:
            return subprocess.Popen(
                argv, cwd=synthesis.ROOT, env=synthesis.environment(), stdout=subprocess.DEVNULL, stderr=log
            )

    def come(self, moment, start, requests, batches):
        """Whether a moment is there."""
        if time.monotonic() - start >= moment.clock:
            return True
        if moment.request:
            seen = self.server.requests[requests:]
            return sum(bool(re.search(moment.request, f"{one[1]} {one[2]}")) for one in seen) >= moment.count
        if moment.accepted:
            return len(self.server.batches) > batches
        return bool(moment.path) and (self.out / moment.path).exists()

    def live(self, moment):
        """One process that is killed at a moment; False if it ended before."""
        self.hangs = moment.accepted
        requests, batches, start = len(self.server.requests), len(self.server.batches), time.monotonic()
        process = self.start()
        while not self.come(moment, start, requests, batches) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moment.then)
        process.send_signal(signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        self.hangs = False
        self.kills += killed
        self.look()
        return killed

    def look(self):
        """Status can be told whatever was left."""
        try:
            assert status(self.out / ".instruct.state")["verb"] == "synthesize"
        except DataError as error:
            assert re.search("no ledger at|nothing was asked yet", str(error))

    def finish(self):
        """The last process, which is left alone."""
        process = self.start()
        assert process.wait(200) == 0, self.out.with_suffix(".log").read_text()[-3000:]

    def losses(self):
        """How many requests the ledger counts as paid for without an answer, and their dollars."""
        with closing(sqlite3.connect(self.out / ".instruct.state" / "ledger.sqlite")) as db:
            count, cost = db.execute("SELECT COUNT(*), COALESCE(SUM(cost), 0) FROM losses").fetchone()
        return count, cost / 1e9


def datasets(out):
    """What the datasets hold, but for what is told of one run alone."""
    conversations = [{k: v for k, v in row.items() if k not in OURS_ALONE} for row in synthesis.rows(out)]
    captions = list(open_dataset(out / "captions", CONVERSATIONS).rows())
    said = [{k: v for k, v in row.items() if k not in OURS_ALONE} for row in synthesis.replies(out)]
    return {"instruct": conversations, "rejects": synthesis.rejects(out), "captions": captions, "replies": said}


def differing(one, other):
    """How many rows two runs have that are not in both, of all datasets together."""
    return sum(
        len(one[name]) != len(other[name]) or sum(a != b for a, b in zip(one[name], other[name], strict=True))
        for name in one
    )


def whole(figures, out, **settings):
    """An undisturbed run: what it wrote, and how long it took."""
    with serving(latency=LATENCY, batch_seconds=0.3, malformed=0.03, refusals=0.03) as server:
        start = time.monotonic()
        Lives(figures, out, server, settings).finish()
        return datasets(out), time.monotonic() - start


def alive(figures, out, faults, **settings):
    """A run that is to be killed."""
    lives = Lives(figures, out, None, settings)
    options = {"latency": LATENCY, "batch_seconds": 0.3, "malformed": 0.03, "refusals": 0.03}
    lives.server = AnthropicServer(**options, faults=faults, fault=lives.fault)
    return lives


def check_batches(lives, expected):
    """The datasets are the undisturbed run's, and of what was billed all was kept once but canaries cut off."""
    server, found = lives.server, datasets(lives.out)
    batched = [one for one in server.billed if one.batch_id]
    alone = [one for one in server.billed if not one.batch_id]
    told = status(lives.out / ".instruct.state")
    losses, lost = lives.losses()
    assert set(Counter(one.custom_id for one in batched).values()) == {1}
    assert set(Counter(one.sha256 for one in batched).values()) == {1}
    assert not {one.sha256 for one in batched} & {one.sha256 for one in alone}
    assert len({one.sha256 for one in alone}) == 1  # the first request of all, sent by itself
    assert told["spent_usd"] == pytest.approx(sum(one.usd for one in (*batched, alone[0])), abs=1e-6)
    assert len(alone) - 1 <= losses <= lives.kills
    assert server.billed_usd <= told["spent_usd"] + lost + 1e-6
    assert (told["reserved_usd"], told["under way"]) == (0, [])
    assert differing(found, expected) == 0
    return len(batched), losses


# ---------------------------------------------------------------------- some kills, in the default suite


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("figures") / "figures", 80)


SHORT = (
    Moment(path=".instruct.state/ledger.sqlite"),
    Moment(accepted=True),  # made, and not noted
    Moment(request=CREATE, count=2),
    Moment(request="GET .*/results$", then=0.01),
    Moment(request="GET .*/results$", count=2, then=0.05),
    Moment(path="replies/manifest.json"),
    Moment(path="instruct/manifest.json"),
)


def test_after_seven_kills_the_datasets_are_those_of_an_undisturbed_run_and_no_batch_was_paid_twice(figures, tmp_path):
    settings = {"batch_rows": 12, "connections": CONNECTIONS}
    expected, _ = whole(figures, tmp_path / "whole", **settings)
    lives = alive(figures, tmp_path / "killed", {"drop after accept": (0.3, CREATE)}, **settings)
    with serving(lives.server):
        assert [lives.live(moment) for moment in SHORT] == [True] * len(SHORT)
        lives.finish()
    batched, _ = check_batches(lives, expected)
    assert batched > 30


def test_one_by_one_a_kill_costs_at_most_as_many_answers_as_there_are_connections_and_says_so(figures, tmp_path):
    lives = alive(figures, tmp_path / "killed", {}, claude_mode="sync", connections=CONNECTIONS)
    with serving(lives.server):
        assert lives.live(Moment(request="POST /v1/messages$", count=25))
        assert lives.live(Moment(request="POST /v1/messages$", count=20, then=0.005))
        lives.finish()
    check_alone(lives, 80)


def check_alone(lives, count):
    """What was billed twice is counted as lost, and is no more than what was under way at the kills."""
    billed = lives.server.billed
    repaid = len(billed) - len({one.sha256 for one in billed})
    told = status(lives.out / ".instruct.state")
    losses, lost = lives.losses()
    assert repaid <= losses <= CONNECTIONS * lives.kills
    assert lives.server.billed_usd <= told["spent_usd"] + lost + 1e-6
    assert told["lost_usd_at_most"] == pytest.approx(lost, abs=1e-6)
    assert len(synthesis.rows(lives.out)) + len(synthesis.rejects(lives.out)) == count
    return repaid, losses


# ---------------------------------------------------------------------- a hundred kills, for a night

LONG = {"batch_rows": 15, "connections": CONNECTIONS}
WRITTEN = ("captions/run.json", ".instruct.state/ledger.sqlite", "replies/run.json", "replies/manifest.json",
           "instruct/run.json", "instruct/data", "instruct/manifest.json", "instruct/stats.json")  # fmt: skip


def drawn(chance, lives, seconds):
    """A moment at random: of the clock, or with something that the server sees, or that appears on disk."""
    absent = [path for path in WRITTEN if not (lives.out / path).exists()]
    then = chance.choice((0.0, 0.05 * chance.random(), chance.random()))
    return chance.choice(
        (
            Moment(clock=chance.uniform(0.3, seconds)),
            Moment(clock=chance.uniform(0.3, seconds)),
            Moment(clock=seconds, accepted=True),
            Moment(clock=seconds, request=CREATE, count=chance.randint(1, 4), then=then),
            Moment(clock=seconds, request=r"GET .*/msgbatch_\w+$", count=chance.randint(1, 10), then=then),
            Moment(clock=seconds, request="GET .*/results$", count=chance.randint(1, 3), then=then),
            Moment(clock=seconds, request="GET .*/batches$", count=chance.randint(1, 2), then=then),
            Moment(clock=seconds, request="POST /v1/messages$|count_tokens", count=chance.randint(1, 30), then=then),
            Moment(clock=seconds, path=chance.choice(absent or WRITTEN), then=then),
        )
    )


def drawn_alone(chance, lives, seconds):
    """A moment at random of a run without batches."""
    answers = Moment(
        clock=seconds, request="POST /v1/messages$", count=chance.randint(1, 80), then=0.02 * chance.random()
    )
    return chance.choice((Moment(clock=chance.uniform(0.3, seconds)), answers, answers, answers))


def killed_until(kills, chance, tmp_path, run, drawn=drawn):
    """Runs of the command, each killed until it is over, until there were so many kills; ``run`` makes one."""
    number = done = 0
    while done < kills:
        number += 1
        lives, seconds, check = run(tmp_path / f"killed-{number}")
        with serving(lives.server):
            while done + lives.kills < kills and lives.live(drawn(chance, lives, seconds)):
                pass
            lives.finish()
        done += lives.kills
        yield lives, check(lives)


def report(name, found, words):
    """The figures of a part, for whoever runs it with ``-s``."""
    kills, first, lost = (sum(numbers) for numbers in zip(*((lives.kills, *two) for lives, two in found), strict=True))
    print(f"\n{name}: {kills} kills in {len(found)} runs, {first} {words}, {lost} counted as lost")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(5))
def test_after_a_hundred_kills_at_random_over_2000_figures_nothing_differs_and_no_batch_was_paid_twice(tmp_path, part):
    figures = synthesis.write_figures(tmp_path / "figures", 400, first=400 * part)
    expected, seconds = whole(figures, tmp_path / "whole", **LONG)
    faults = {"drop after accept": (0.5 * (part % 2), CREATE)}

    def run(out):
        return alive(figures, out, faults, **LONG), seconds, lambda lives: check_batches(lives, expected)

    found = list(killed_until(20, random.Random(part), tmp_path, run))
    report(f"part {part}", found, "batched rows billed once, 0 billed twice, 0 rows differ")
    assert sum(lives.kills for lives, _ in found) == 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_by_one_no_kill_of_thirty_costs_more_answers_than_there_are_connections(tmp_path):
    figures = synthesis.write_figures(tmp_path / "figures", 400)
    settings = {"claude_mode": "sync", "connections": CONNECTIONS}
    _, seconds = whole(figures, tmp_path / "whole", **settings)

    def run(out):
        return alive(figures, out, {}, **settings), seconds, lambda lives: check_alone(lives, 400)

    found = list(killed_until(30, random.Random(7), tmp_path, run, drawn_alone))
    report("one by one", found, "answers paid again")
    assert sum(repaid for _, (repaid, _) in found) > 0
