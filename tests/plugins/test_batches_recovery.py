"""Message Batches after a crash: whatever the moment, every request is answered and no batch is paid for twice."""

import asyncio
import random

import pytest

from medvlm_cli.core import commit
from medvlm_cli.core.errors import LockedError
from medvlm_cli.teachers.budget import Budget, CapError
from medvlm_cli.teachers.ledger import Ledger, Money
from medvlm_cli.teachers.status import status
from tests.anthropic_server import serving
from tests.plugins import batch_cases
from tests.plugins.batch_cases import (
    CREATE,
    LIST,
    LOOK,
    Death,
    Killed,
    go,
    in_turn,
    left_under_way,
    nano,
    process,
    strangers,
    wrong,
)

# ---------------------------------------------------------------------- whether a batch exists


def paid_once(ran, server, count):
    """Everything is answered, rightly, and spent is what was billed, once."""
    assert (ran.error, wrong(ran), len(ran.answers)) == (None, [], count)
    assert (server.billed_twice(), len(server.billed)) == ({}, count)
    assert ran.money == (nano(server), 0, 0)
    return True


@pytest.mark.parametrize("fault", ["drop after accept", "hang after accept"])
def test_a_batch_whose_making_was_not_confirmed_is_found_and_adopted(tmp_path, fault):
    with serving(batch_seconds=0.05, fault=in_turn(CREATE, fault)) as server:
        ran = go(tmp_path, server, timeout=0.5)
        assert paid_once(ran, server, 20)
        assert len(server.batches) == len(ran.shards) == 3


@pytest.mark.parametrize("skew", [-100, 100])
def test_it_is_found_where_the_clocks_differ_by_a_hundred_seconds(tmp_path, skew):
    with serving(batch_seconds=0.05, skew=skew, fault=in_turn(CREATE, "drop after accept")) as server:
        assert paid_once(go(tmp_path, server), server, 20)


def test_it_is_found_where_it_is_not_listed_at_the_first_look(tmp_path):
    with serving(batch_seconds=0.05, listing_lag=0.3, fault=in_turn(CREATE, "drop after accept")) as server:
        ran = go(tmp_path, server, settle=0.6)
        assert paid_once(ran, server, 20)
        assert len(server.asked(LIST)) == 2


def test_it_is_found_on_a_later_page_of_the_list(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn(CREATE, "hang after accept")) as server:
        assert go(tmp_path, server, until=lambda: server.batches) is None
        strangers(server, 130, 3)
        assert paid_once(go(tmp_path, server), server, 20)
        assert len(server.asked(LIST)) == 2


def test_a_batch_that_was_never_made_is_made_after_a_second_look(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn(CREATE, "connect", "500")) as server:
        ran = go(tmp_path, server)
        assert paid_once(ran, server, 20)
        assert [shard.state for shard in ran.shards][:2] == ["void", "void"]
        assert len(server.asked(LIST)) == 4


@pytest.mark.parametrize("fault", ["429", "529", "503"])
def test_one_that_was_turned_away_is_made_again_without_a_look(tmp_path, fault):
    with serving(batch_seconds=0.05, fault=in_turn(CREATE, fault)) as server:
        ran = go(tmp_path, server)
        assert paid_once(ran, server, 20)
        assert (server.asked(LIST), ran.shards[0].state) == ([], "void")


def test_somebody_elses_batch_of_the_same_size_is_adopted_and_then_rejected_by_its_ids(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn("POST", "", "connect")) as server:
        (theirs,) = strangers(server, 1, 10)
        ran = go(tmp_path, server)
        assert paid_once(ran, server, 20)
        assert set(ran.attempts.values()) == {1}
    assert [shard.state == "void" for shard in ran.shards] == [True, *[False] * (len(ran.shards) - 1)]
    assert theirs not in {shard.batch_id for shard in ran.shards}
    with Ledger(tmp_path) as ledger:
        assert ledger.fact(f"foreign {theirs}") == "1"


def test_between_two_batches_of_the_same_size_the_right_one_is_found_in_the_end(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn("POST", "", "drop after accept")) as server:
        (theirs,) = strangers(server, 1, 10)
        ran = go(tmp_path, server)
        assert paid_once(ran, server, 20)
        assert set(ran.attempts.values()) == {1}
        assert set(server.batches) == {theirs} | {shard.batch_id for shard in ran.shards}


def test_a_ledger_is_written_by_one_process_at_a_time(tmp_path):
    with serving() as server, Ledger(tmp_path), pytest.raises(LockedError) as caught:
        go(tmp_path, server)
    assert (caught.value.exit_code, server.requests) == (7, [])


# ---------------------------------------------------------------------- runs that share a ledger


def test_what_an_earlier_run_has_under_way_counts_below_the_cap_of_the_run_that_reads_it(tmp_path):
    worst = batch_cases.TEACHER.worst(None)
    with serving(batch_seconds=0.4, adversarial=True) as server:
        left_under_way(tmp_path, server, 10)
        ran = go(tmp_path, server, range(5, 30), run="other", cap=22 * worst)
        assert nano(server) == ran.money.spent == ran.budget.spent <= 22 * worst
        assert (ran.money.reserved, ran.budget.reserved) == (0, 0)
        assert "the cap of" in str(ran.error)
        assert server.billed_twice() == {}


def test_a_batch_that_holds_nothing_of_this_run_is_left_to_the_run_whose_it_is(tmp_path):
    with serving(batch_seconds=0.3) as server:
        left_under_way(tmp_path, server, 10)
        (first,) = server.batches
        assert len(go(tmp_path, server, range(50, 60), run="other").answers) == 10
        assert server.asked(first) == []
        assert len(go(tmp_path, server, 10).answers) == 10
        assert (server.billed_twice(), len(server.billed)) == ({}, 20)


def test_results_of_another_run_that_are_gone_are_no_trouble_of_this_one(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn(CREATE, "archived")) as server:
        assert "are gone" in str(go(tmp_path, server, 10).error)
        ran = go(tmp_path, server, range(50, 60), run="other")
    assert (ran.error, len(ran.answers), ran.money.reserved) == (None, 10, 0)


def test_a_request_alone_does_not_wait_below_the_cap_for_batches_that_nobody_reads_meanwhile():
    budget = Budget(100, Money(spent=0, lost=0, reserved=90))
    with pytest.raises(CapError):
        asyncio.run(asyncio.wait_for(budget.reserve(20), 5))
    assert budget.admit(10)


# ---------------------------------------------------------------------- a process that dies at any moment

COUNT = 5
SMALL = {"rows": 2, "poll": 0.005, "settle": 0.02}
TROUBLE = {
    "expired": 0.3, "errored": 0.1,
    "faults": {"drop after accept": (0.4, CREATE), "malformed line": 0.1, "cut results": 0.1, "drop results": 0.1,
               "500": (0.1, LOOK), "529": (0.1, CREATE)},
}  # fmt: skip


def sweep(tmp_path, monkeypatch, options, kills):
    """Have requests answered again and again, each time in a new ledger; ``kills`` says when its processes die.

    Returns what every last process left, with the server's bill, and the moments of an undisturbed one.
    """
    death = Death()
    monkeypatch.setattr(commit, "remove", death.remove)
    ledger, ended = death.ledger(), []

    async def one(server, claude, folder, moments):
        for at in moments:
            death.set(at)
            try:
                await process(folder, claude, COUNT, kind=ledger, **SMALL)
            except Killed:
                status(folder)
        death.set(None)
        ran = await process(folder, claude, COUNT, kind=ledger, **SMALL)
        if len(ran.answers) + len(ran.failures) < COUNT:  # results came spoilt every time: the next process reads them
            ran = await process(folder, claude, COUNT, kind=ledger, **SMALL)
        ended.append((moments, ran, nano(server), server.billed_twice(), list((folder / "results").iterdir())))

    async def every(server):
        async with batch_cases.client(server, death.claude()) as claude:
            await one(server, claude, tmp_path / "whole", [])
            whole = death.moments
            for number, moments in enumerate(kills(whole)):
                for seen in (server.batches, server.billed, server.answered, server.requests):
                    seen.clear()
                await one(server, claude, tmp_path / str(number), moments)
            return whole

    with serving(batch_seconds=0.005, **options) as server:
        whole = asyncio.run(every(server))
    return ended, whole


def everything_is_answered_and_paid_once(ended):
    for moments, ran, billed, twice, left in ended:
        assert (ran.error, twice, left, wrong(ran)) == (None, {}, [], []), moments
        assert len(ran.answers) + len(ran.failures) == COUNT, moments
        assert (*ran.money, ran.budget.spent, ran.budget.reserved) == (billed, 0, 0, billed, 0), moments


def test_a_process_may_die_before_and_after_everything_that_it_does_to_disk_or_network(tmp_path, monkeypatch):
    ended, whole = sweep(tmp_path, monkeypatch, {}, lambda whole: [[at] for at in range(1, whole + 1)])
    assert (len(ended), whole > 40) == (whole + 1, True)
    assert {len(ran.answers) for _, ran, *_ in ended} == {COUNT}
    everything_is_answered_and_paid_once(ended)


def twice_at_random(count):
    chance = random.Random(count)
    return lambda whole: [[chance.randint(1, whole), chance.randint(1, whole // 2)] for _ in range(count)]


@pytest.mark.parametrize("count", [15, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_and_a_second_time_while_it_recovers_from_the_first_one_and_the_api_is_in_trouble(tmp_path, monkeypatch, count):
    ended, _ = sweep(tmp_path, monkeypatch, TROUBLE, twice_at_random(count))
    assert len(ended) == count + 1
    assert sum(len(ran.answers) for _, ran, *_ in ended) > 0.9 * COUNT * (count + 1)
    everything_is_answered_and_paid_once(ended)
