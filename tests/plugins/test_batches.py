"""The life of Message Batches against a loopback API: cut, made, waited for, read, and what is asked again of them."""

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import DataError, LockedError, RemoteError
from medvlm_cli.teachers import calls
from medvlm_cli.teachers.ledger import Ledger
from medvlm_cli.teachers.prices import NANO
from medvlm_cli.teachers.replies import AgainError
from medvlm_cli.teachers.status import cancel, seen, status
from tests.anthropic_server import serving
from tests.plugins.batch_cases import (
    CREATE,
    LOOK,
    PATIENCE,
    RESULTS,
    TEACHER,
    ask,
    body,
    client,
    end_all,
    go,
    in_turn,
    keyed,
    left_under_way,
    nano,
    wrong,
)

WORST = TEACHER.worst(None)
SPOILT = ["cut results", "drop results", "malformed line", "unknown type", "duplicate custom_id", "foreign custom_id"]


def fates(server):
    """Of each request the kinds of its results, batch after batch."""
    found = {}
    for batch in server.batches.values():
        for entry in map(json.loads, batch.lines):
            result = entry["result"]
            kind = result["error"]["error"]["type"] if result["type"] == "errored" else result["type"]
            found.setdefault(entry["custom_id"].rpartition("-")[2], []).append(kind)
    return found


# ---------------------------------------------------------------------- cutting and making


def test_every_request_gets_its_own_answer_and_what_was_spent_is_what_was_billed(tmp_path):
    with serving(batch_seconds=0.05) as server:
        ran = go(tmp_path, server, 75)
        assert (ran.error, wrong(ran), len(ran.answers)) == (None, [], 75)
        assert ran.money == (nano(server), 0, 0)
        assert (ran.budget.spent, ran.budget.reserved) == (nano(server), 0)
        assert server.billed_twice() == {}
        assert ran.told[-1] == ("claude", 75, 75)


def test_no_batch_is_as_large_as_its_neighbours(tmp_path):
    with serving(batch_seconds=0.05) as server:
        go(tmp_path, server, 150)
        sizes = [len(batch.custom_ids) for batch in server.batches.values()]
    assert (sum(sizes), max(sizes), len(sizes) > 20) == (150, 10, True)
    assert [here for here, there in itertools.pairwise(sizes) if here == there > 1] == []


def test_an_id_is_64_characters_at_most_of_letters_digits_and_dashes_and_no_two_are_alike(tmp_path):
    with serving(batch_seconds=0.05, expired=0.3) as server:
        go(tmp_path, server, 60)
        ids = [one for batch in server.batches.values() for one in batch.custom_ids]
    assert len(ids) > 60
    assert len(set(ids)) == len(ids)
    assert [one for one in ids if not re.fullmatch("[A-Za-z0-9_-]{1,64}", one)] == []


def test_a_batch_is_never_larger_than_allowed_in_bytes(tmp_path):
    with serving(batch_seconds=0.05, most_bytes=1500) as server:
        ran = go(tmp_path, server, 40, bytes=1450)
        assert (ran.error, len(ran.answers), server.billed_twice()) == (None, 40, {})
        sizes = [len(batch.custom_ids) for batch in server.batches.values()]
    assert 2 <= max(sizes) <= 6
    assert [here for here, there in itertools.pairwise(sizes) if here == there > 1] == []
    assert calls.BYTES < 256_000_000


def test_a_request_that_is_too_large_alone_is_refused_by_the_api_and_not_left_out_in_silence(tmp_path):
    with serving(most_bytes=100) as server:
        ran = go(tmp_path, server, 40, bytes=100)
    assert isinstance(ran.error, RemoteError)
    assert "413" in str(ran.error)
    assert (len(ran.shards), ran.money) == (1, (0, 0, 0))


@pytest.mark.parametrize("refused", ["413", "400"])
def test_a_batch_that_is_refused_is_void_and_its_requests_are_open_again(tmp_path, refused):
    with serving(faults={refused: (1.0, CREATE)}) as server:
        ran = go(tmp_path, server)
        assert f"Anthropic refuses the batch: {refused} " in str(ran.error)
        assert ([shard.state for shard in ran.shards], ran.money, ran.budget.reserved) == (["void"], (0, 0, 0), 0)
        assert len(server.asked(CREATE)) == 1
    with serving(batch_seconds=0.05) as server:
        assert len(go(tmp_path, server).answers) == 20
        assert len(server.billed) == 20


@pytest.mark.parametrize("fault", ["401", "402", "403", "spend limit"])
def test_a_key_or_an_account_that_is_refused_ends_the_run_at_once(tmp_path, fault):
    with serving(faults={fault: 1.0}) as server:
        ran = go(tmp_path, server)
        assert isinstance(ran.error, RemoteError)
        assert (len(server.requests), ran.money, ran.budget.reserved) == (1, (0, 0, 0), 0)


UNSURE = ["500", "502", "504", "408", "connect", "drop after accept", "html as json", "empty 200"]
TURNED_AWAY = ["429", "529", "503"]


@pytest.mark.parametrize("fault", UNSURE + TURNED_AWAY)
def test_only_what_turns_a_batch_away_for_certain_says_that_it_was_not_made(fault):
    async def make(server):
        async with client(server) as claude:
            await claude.create([{"custom_id": "one", "params": body(ask(0))}])

    with serving(faults={fault: 1.0}) as server, pytest.raises(AgainError) as caught:
        asyncio.run(make(server))
    assert caught.value.billed == (fault in UNSURE)


def test_a_cap_is_never_passed_even_where_every_answer_is_as_long_as_it_may_be(tmp_path):
    with serving(batch_seconds=0.05, adversarial=True) as server:
        ran = go(tmp_path, server, 60, cap=33 * WORST)
        assert "the cap of" in str(ran.error)
        assert 30 * WORST < nano(server) + WORST <= 34 * WORST
        assert ran.money == (nano(server), 0, 0)
        again = go(tmp_path, server, 60, cap=100 * WORST)
        assert (again.error, len(again.answers), server.billed_twice()) == (None, 60, {})


# ---------------------------------------------------------------------- what was not answered


def test_only_what_expired_failed_or_was_canceled_is_asked_again_and_twice_at_most(tmp_path):
    with serving(batch_seconds=0.05, expired=0.3, errored=0.05, canceled=0.02, invalid=0.04) as server:
        ran = go(tmp_path, server, 300, rows=60)
        seen = fates(server)
        assert ran.money == (nano(server), 0, 0)
    assert (ran.error, wrong(ran), len(seen)) == (None, [], 300)
    assert len(ran.answers) + len(ran.failures) == 300
    before, last = Counter(), Counter()
    for kinds in seen.values():
        before.update(kinds[:-1])
        last[len(kinds) if kinds[-1] not in ("succeeded", "invalid_request_error") else kinds[-1]] += 1
    assert set(before) == {"expired", "api_error", "overloaded_error", "canceled"}
    assert set(last) == {"succeeded", "invalid_request_error", 3}
    assert last["succeeded"] == len(ran.answers)
    assert {
        ran.attempts[ask(n).figure_id] == len(seen[ask(n).key[:32]])
        for n in range(300)
        if ask(n).figure_id in ran.attempts
    } == {True}
    codes = Counter(code for code, _ in ran.failures.values())
    assert codes["invalid_request"] == last["invalid_request_error"] > 3
    assert codes.total() - codes["invalid_request"] == last[3] > 3


def test_what_failed_for_good_is_not_asked_by_the_next_process_either(tmp_path):
    with serving(batch_seconds=0.05, expired=1.0) as server:
        first = go(tmp_path, server, 10)
        made = len(server.batches)
        second = go(tmp_path, server, 10)
        assert len(server.batches) == made
        assert set(map(tuple, fates(server).values())) == {("expired",) * 3}
    assert {code for code, _ in first.failures.values()} == {"expired"}
    assert (second.failures, second.money) == (first.failures, (0, 0, 0))


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize("fault", SPOILT)
def test_results_that_come_spoilt_once_are_fetched_again_and_nothing_is_asked_again(tmp_path, fault):
    with serving(batch_seconds=0.05, fault=in_turn(RESULTS, fault, fault)) as server:
        ran = go(tmp_path, server)
        assert (ran.error, wrong(ran), len(ran.answers)) == (None, [], 20)
        assert (ran.money, len(server.billed)) == ((nano(server), 0, 0), 20)
    assert list((tmp_path / "results").iterdir()) == []


def test_results_that_one_process_could_not_read_are_read_by_the_next(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn(RESULTS, *["malformed line"] * PATIENCE.tries)) as server:
        assert len(go(tmp_path, server, 10).answers) == 9
        ran = go(tmp_path, server, 10)
        assert (wrong(ran), len(ran.answers), set(ran.attempts.values())) == ([], 10, {1})
        assert (ran.money, len(server.billed)) == ((nano(server), 0, 0), 10)


@pytest.mark.parametrize("created", ["", "drop after accept"])
def test_an_answer_that_can_never_be_read_is_paid_for_lost_and_not_bought_again(tmp_path, created):
    with serving(batch_seconds=0.05, faults={"malformed line": 1.0}, fault=in_turn(CREATE, created)) as server:
        first = go(tmp_path, server, 10)
        assert (first.error, len(first.answers), first.failures) == (None, 9, {})
        assert (first.money.reserved, first.budget.reserved) == (WORST, WORST)
        second = go(tmp_path, server, 10)
        assert (len(second.answers), [code for code, _ in second.failures.values()]) == (9, ["unreadable_result"])
        assert (second.money.lost, second.money.reserved, second.budget.reserved) == (WORST, 0, 0)
        assert nano(server) <= second.money.at_most
        assert len(server.billed) == 10
        assert len(go(tmp_path, server, 10).shards) == len(server.batches) == 1


def test_what_has_a_result_of_an_unknown_kind_in_the_end_is_asked_again_and_counted_as_lost(tmp_path):
    always = ["unknown type"] * PATIENCE.tries
    with serving(batch_seconds=0.05, fault=in_turn(RESULTS, *always)) as server:
        ran = go(tmp_path, server, 10)
        assert (ran.error, len(ran.answers), len(server.billed)) == (None, 10, 11)
        assert (ran.money.lost, ran.money.reserved) == (WORST, 0)
        assert nano(server) <= ran.money.at_most


@pytest.mark.parametrize("repay", [False, True])
def test_results_that_are_gone_are_told_as_lost_and_asked_again_only_where_the_user_pays_again(tmp_path, repay):
    with serving(batch_seconds=0.05, fault=in_turn(CREATE, "archived", "", "archived")) as server:
        first = go(tmp_path, server, 25)
        gone = sum(shard.rows for shard in first.shards if shard.state == "lost")
        assert "are gone" in str(first.error)
        assert "repay=true" in first.error.fix
        assert (len(first.answers), first.money.reserved) == (25 - gone, gone * WORST)
        made = len(server.batches)
        second = go(tmp_path, server, 25, repay=repay)
        assert (len(server.batches) > made, len(second.answers) == 25, second.error is None) == (repay,) * 3
        assert second.money[1:] == ((gone * WORST, 0) if repay else (0, gone * WORST))
        assert len(server.billed_twice()) == (gone if repay else 0)
        assert nano(server) <= second.money.at_most


def test_a_batch_that_is_not_there_any_more_is_told_as_lost(tmp_path):
    with serving(batch_seconds=5) as server:
        left_under_way(tmp_path, server, 10)
        server.batches.clear()
        ran = go(tmp_path, server, 10)
        assert "the results of batch" in str(ran.error)
        assert ([shard.state for shard in ran.shards], server.batches) == (["lost"], {})


def test_a_batch_that_is_not_known_everywhere_yet_is_not_taken_for_lost(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn(LOOK, "404")) as server:
        ran = go(tmp_path, server, 10, settle=5)
        assert (ran.error, len(ran.answers), len(server.billed)) == (None, 10, 10)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ([CREATE], "its results are said to be at http://127.0.0.1"),
        ([LOOK, ""], "is not at http://127.0.0.1"),  # said to the SDK only, which looks once more before it downloads
    ],
)
def test_results_that_are_said_to_be_on_another_host_are_refused_and_it_hears_nothing(tmp_path, turn, words):
    with serving(batch_seconds=0, fault=in_turn(*turn, "results on another host")) as server:
        ran = go(tmp_path, server, 10)
        assert isinstance(ran.error, RemoteError)
        assert words in str(ran.error)
        assert server.elsewhere == []
        (batch,) = server.batches.values()
        batch.elsewhere = False
        assert len(go(tmp_path, server, 10).answers) == len(server.billed) == 10


# ---------------------------------------------------------------------- cancelling


def test_cancel_ends_what_is_under_way_and_the_next_run_keeps_what_was_answered(tmp_path):
    with serving(batch_seconds=40, cancel_seconds=0.2) as server:
        left_under_way(tmp_path, server, 40, rows=30)
        under_way = status(tmp_path)["under way"]
        for batch in server.batches.values():
            batch.created -= 20  # half of it is answered
        assert go(tmp_path, server, 40, end="cancel").told == [2]
        assert under_way == list(server.batches)
        assert {batch.status for batch in server.batches.values()} == {"canceling"}
        ran = go(tmp_path, server, 40, until=lambda: end_all(server, but=2))
        kept = sum(batch.counts.get("succeeded", 0) for batch in list(server.batches.values())[:2])
        assert 0 < kept < 40
        assert (ran.error, wrong(ran), len(ran.answers), len(server.billed)) == (None, [], 40, 40)
        assert ran.money == (nano(server), 0, 0)


def test_cancel_leaves_alone_what_has_ended_and_goes_on_with_the_rest(tmp_path):
    with serving(batch_seconds=5) as server:
        left_under_way(tmp_path, server, 20)
        first, second, third = server.batches.values()
        server._in_loop(lambda: server._end(first))
        del server.batches[second.id]
        assert go(tmp_path, server, 20, end="cancel").told == [1]
        assert (first.status, third.status) == ("ended", "canceling")


def test_cancel_finds_a_batch_whose_making_was_not_confirmed(tmp_path):
    with serving(batch_seconds=5, fault=in_turn(CREATE, "hang after accept")) as server:
        assert go(tmp_path, server, until=lambda: server.batches) is None
        assert go(tmp_path, server, end="cancel").told == [1]
        assert [batch.status for batch in server.batches.values()] == ["canceling"]


def test_the_command_to_cancel_needs_nothing_but_the_ledger_and_tells_how_many_were_ended(tmp_path):
    with serving(batch_seconds=5) as server, keyed():
        config = SynthesizeConfig(claude_url=server.url, pause=0.01, settle=0.1)
        with pytest.raises(DataError, match="no ledger at"):
            cancel(tmp_path, config)
        left_under_way(tmp_path, server, 20)
        told = cancel(tmp_path, config)
        assert (told["cancelled"], told["batches"]) == (3, {"submitted": 3})
        assert {batch.status for batch in server.batches.values()} <= {"canceling", "ended"}
        with Ledger(tmp_path), pytest.raises(LockedError):
            cancel(tmp_path, config)


# ---------------------------------------------------------------------- telling


def test_status_tells_the_batches_under_way_and_what_they_may_cost(tmp_path):
    with serving(batch_seconds=5) as server:
        left_under_way(tmp_path, server, 20)
        told = status(tmp_path)
        assert told["under way"] == list(server.batches)
    assert told["batches"] == {"submitted": 3}
    assert told["reserved_usd"] == pytest.approx(20 * WORST / NANO, abs=1e-6)
    assert (told["spent_usd"], told["lost_usd_at_most"]) == (0, 0)


def test_status_of_a_ledger_whose_maker_died_at_once_says_so(tmp_path):
    (tmp_path / "ledger.sqlite").touch()
    with pytest.raises(DataError, match="nothing was asked yet"):
        status(tmp_path)
    assert seen(tmp_path, "run") == {}


def test_status_takes_back_what_a_process_left_half_done(tmp_path):
    """A hot journal: SQLite's own, from before the ledger has its write-ahead log."""
    code = """if True:
        import os, sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("PRAGMA cache_size = 1")
        db.execute("CREATE TABLE one (n)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO one VALUES (?)", [("x" * 1000,)] * 500)
        os._exit(9)
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "ledger.sqlite")], check=False)
    assert (done.returncode, (tmp_path / "ledger.sqlite-journal").exists()) == (9, True)
    with pytest.raises(DataError, match="nothing was asked yet"):
        status(tmp_path)


def test_an_api_that_does_not_answer_ends_the_run_and_nothing_is_forgotten(tmp_path):
    with serving(batch_seconds=0.05, fault=in_turn(LOOK, *["500"] * PATIENCE.failures)) as server:
        ran = go(tmp_path, server)
        assert f"{PATIENCE.failures} failures in a row, the last: status 500" in str(ran.error)
        assert len(go(tmp_path, server).answers) == len(server.billed) == 20
