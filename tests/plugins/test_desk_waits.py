"""A desk by a clock that leaps: what a host asks to wait for, outages of hours, and a line for whoever looks on."""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import RemoteError
from medvlm_cli.teachers.budget import Budget, Halt
from medvlm_cli.teachers.calls import Calls
from medvlm_cli.teachers.desk import STALE, WAIT, Desk, Teacher
from medvlm_cli.teachers.ledger import Ask, Ledger
from medvlm_cli.teachers.replies import AgainError, Reply, Usage
from medvlm_cli.teachers.work import QUIET, _told_again, patience_of
from tests import leap
from tests.anthropic_faults import chances

MANY = 1000


class Sometimes:
    """Fails a share of the tries, as the key and the number of the try have it; every try takes a second."""

    def __init__(self, share, error=None):
        self.share, self.error, self.tries = share, error, Counter()

    async def ask(self, ask):
        self.tries[ask.key] += 1
        await asyncio.sleep(1)
        if chances(0, f"{ask.key} {self.tries[ask.key]}")[0] < self.share:
            raise self.error()
        return Reply(text=f"about {ask.figure_id}", stop_reason="end_turn", usage=Usage(output_tokens=1))


def busy(status, after=0.0):
    return lambda: AgainError(f"status {status}", after, busy=True)


def late():
    return AgainError("no answer in time", billed=True)


@pytest.fixture
def clock(monkeypatch):
    clock = leap.Clock()
    monkeypatch.setattr("medvlm_cli.teachers.desk.time", clock)
    monkeypatch.setattr("medvlm_cli.teachers.calls.time", clock)
    random.seed(0)
    return clock


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as opened:
        opened.begin("run", [Ask(f"{n:04d}", f"f{n}", "teach", "claude", "m") for n in range(MANY)])
        yield opened


def at_desk(clock, ledger, teacher, connections=64):
    """Ask what is open, with the patience of the settings; when something was told, and what stopped it."""
    told, halt = [(clock.now, "begin")], Halt()
    asked = Teacher(name="claude", ask=teacher.ask, worst=lambda ask: 100, cost=lambda usage: 30)
    patience, asks = patience_of(SynthesizeConfig()), ledger.open_asks("claude")

    async def go():
        desk = Desk(asked, ledger, Budget(10**9, ledger.money()), halt, patience, connections)
        await desk.run(asks, len(asks), lambda phase, done, total: told.append((clock.now, phase)))

    leap.run(clock, go())
    return told, halt.error


def longest_silence(told, clock):
    times = [when for when, _ in told] + [clock.now]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("after", [1, 30])
def test_a_tenth_of_429_is_waited_for_as_the_host_asks_and_everything_is_answered(clock, ledger, after):
    told, error = at_desk(clock, ledger, Sometimes(0.1, busy(429, after)))
    assert error is None
    assert {one.ask.figure_id: one.reply.text for one in ledger.answered()} == {
        f"f{n}": f"about f{n}" for n in range(MANY)
    }
    assert f"claude: waits {after} s (status 429; it asks for {after} s)" in {phase for _, phase in told}
    assert longest_silence(told, clock) <= after + 60


def test_a_host_that_asks_for_a_day_is_asked_again_every_five_minutes_and_a_line_says_so(clock, ledger):
    told, _ = at_desk(clock, ledger, Sometimes(0.1, busy(429, 99999)))
    assert "claude: waits 300 s (status 429; it asks for 99,999 s)" in {phase for _, phase in told}
    assert clock.now > 10 * WAIT
    assert longest_silence(told, clock) <= WAIT + 1


@pytest.mark.parametrize("connections", [1, 64])
def test_a_host_that_always_asks_for_a_day_is_left_after_ten_minutes(clock, ledger, connections):
    told, error = at_desk(clock, ledger, Sometimes(1.0, busy(429, 99999)), connections)
    assert isinstance(error, RemoteError)
    assert "the last: status 429; it asks to wait 99,999 s" in str(error)
    assert clock.now <= STALE + 60
    assert longest_silence(told, clock) <= WAIT + 1


@pytest.mark.parametrize("connections", [1, 4, 64])
@pytest.mark.parametrize("error", [busy(529), busy(529, 30), late])  # fmt: skip
def test_twenty_529_in_a_row_end_the_run_within_ten_minutes_and_it_resumes(clock, ledger, error, connections):
    _, stopped = at_desk(clock, ledger, Sometimes(1.0, error), connections)
    assert isinstance(stopped, RemoteError)
    assert "failures in a row" in str(stopped) and "run the same command again later" in str(stopped)
    assert clock.now <= STALE
    assert len(ledger.open_asks("claude")) == MANY
    ledger.begin("run")
    assert at_desk(clock, ledger, Sometimes(0.0))[1] is None
    assert len(list(ledger.answered())) == MANY


def test_an_outage_over_many_runs_costs_no_request_its_place(clock, ledger):
    """The host is at fault, not the requests: none of them has failed for good when it comes back."""
    for _ in range(4):
        ledger.begin("run")
        assert at_desk(clock, ledger, Sometimes(1.0, lambda: AgainError("status 503")))[1] is not None
    ledger.begin("run")
    assert at_desk(clock, ledger, Sometimes(0.0))[1] is None
    assert len(list(ledger.answered())) == MANY


def test_what_fails_while_others_are_answered_has_failed_itself(clock, ledger):
    class Picky(Sometimes):
        async def ask(self, ask):
            self.share = 1.0 if ask.key in ("0007", "0500") else 0.0
            share, self.share = self.share, 0.0
            await asyncio.sleep(1)
            if share:
                raise AgainError("status 500")
            return await super().ask(ask)

    for _ in range(2):
        ledger.begin("run")
        assert at_desk(clock, ledger, Picky(0.0))[1] is None
    assert [ledger.failures_about(f"f{n}") for n in (7, 500)] == [[("unavailable", "status 500")]] * 2
    assert len(list(ledger.answered())) == MANY - 2


def test_after_an_answer_that_used_up_a_limit_nobody_asks_until_it_is_full_again(clock, ledger):
    class Tired(Sometimes):
        async def ask(self, ask):
            began.append(clock.now)
            reply = await super().ask(ask)
            return replace(reply, rest=40.0) if len(began) % 100 == 0 else reply

    began = []
    told, error = at_desk(clock, ledger, Tired(0.0), connections=1)
    gaps = {round(later - earlier) for earlier, later in itertools.pairwise(began)}
    assert (error, gaps) == (None, {1, 1 + 40})
    assert "claude: waits 40 s (its limit is used up; it asks for 40 s)" in {phase for _, phase in told}


def give_up(clock, after):
    """What is told while a call about a batch fails until it is given up."""
    told = [(clock.now, "begin")]

    async def fails():
        raise AgainError("status 529", after, busy=True)

    calls = Calls(patience_of(SynthesizeConfig()), Halt(), lambda *now: told.append((clock.now, now[0])))
    with pytest.raises(RemoteError, match="failures in a row, the last: status 529"):
        leap.run(clock, calls.patiently(fails))
    return told


@pytest.mark.parametrize("after", [0, 30, 99999])
def test_a_call_about_a_batch_is_given_up_within_ten_minutes(clock, after):
    give_up(clock, after)
    assert clock.now <= STALE + 60  # what is looked at before each pause, of a minute at most


def test_a_call_about_a_batch_that_is_to_wait_for_a_day_says_so_every_five_minutes(clock):
    told = give_up(clock, 99999)
    assert "claude: waits 300 s (status 529; it asks to wait 99,999 s)" in {phase for _, phase in told}
    assert longest_silence(told, clock) <= WAIT


def test_what_was_told_last_is_told_again_every_half_minute_of_silence(clock):
    told = []

    async def wait():
        async with _told_again(lambda phase, done, total: told.append((round(clock.now), phase, done))) as tell:
            tell("claude", 3, 9)
            await asyncio.sleep(100)

    leap.run(clock, wait())
    assert told == [(seconds, "claude", 3) for seconds in (0, QUIET, 2 * QUIET, 3 * QUIET)]
