"""The ledger of requests: what is written is there after a kill, counted once, and never paid twice."""

import os
import signal
import subprocess
import sys

import pytest

from medvlm_cli.core.errors import DataError, LockedError, ResourceError
from medvlm_cli.teachers.ledger import NAME, Ask, Ledger
from medvlm_cli.teachers.replies import Reply, Usage


def ask(number, teacher="claude", purpose="teach"):
    return Ask(f"{number:064d}", f"PMC{number}/fig1", purpose, teacher, "model-1")


def reply(text="User: a\nAssistant: b"):
    usage = Usage(input_tokens=7, output_tokens=5, cache_write_5m=1, cache_write_1h=2, cache_read=3, thinking_tokens=4)
    return Reply(text=text, stop_reason="end_turn", usage=usage, served_model="model-1", provider_id="msg_1")


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "state") as opened:
        opened.begin("run-1", [ask(number) for number in range(4)])
        yield opened


def states(ledger):
    return [state for _, state, _, _ in ledger.asks()]


def test_an_answer_comes_back_as_it_was(ledger):
    said = reply("Übel: <image>\u2028 \U0001f600")
    ledger.answer([(ask(1).key, said, 1234, True, 2)])
    (answered,) = ledger.answered()
    assert (answered.ask, answered.reply, answered.cost, answered.batch, answered.attempts) == (
        ask(1),
        said,
        1234,
        True,
        2,
    )
    assert ledger.answer_to(ask(1).key) == answered
    assert [one.key for one in ledger.open_asks("claude")] == [ask(number).key for number in (0, 2, 3)]


def test_a_lone_surrogate_in_an_answer_is_written_out(ledger):
    ledger.answer([(ask(1).key, reply("a\ud800b"), 0, False, 1)])
    assert ledger.answer_to(ask(1).key).reply.text == "a\\ud800b"


def test_of_two_answers_the_first_counts_and_both_are_paid(ledger):
    ledger.answer([(ask(1).key, reply("first"), 10, False, 1), (ask(1).key, reply("second"), 20, False, 1)])
    assert [one.reply.text for one in ledger.answered()] == ["first"]
    assert ledger.money()[:2] == (10, 20)


def test_what_is_under_way_is_reserved_until_it_is_answered(ledger):
    ledger.send([(ask(0).key, 100), (ask(1).key, 50)])
    assert ledger.money() == (0, 0, 150)
    ledger.answer([(ask(0).key, reply(), 30, False, 1)])
    assert ledger.money() == (30, 0, 50)
    assert ledger.money().at_most == 80


def test_what_a_dead_process_left_under_way_counts_as_lost_and_is_open_again(tmp_path):
    with Ledger(tmp_path) as first:
        first.begin("run-1", [ask(0), ask(1)])
        first.send([(ask(0).key, 100)])
    with Ledger(tmp_path) as second:
        second.begin("run-1")
        assert second.money() == (0, 100, 0)
        assert len(second.open_asks("claude")) == 2


def test_a_failure_is_tried_again_in_the_next_run_and_is_final_in_the_one_after(ledger):
    ledger.fail(ask(0).key, "unavailable", "status 500", final=False)
    assert states(ledger)[0] == "waiting"
    ledger.begin("run-1")
    assert states(ledger)[0] == "open"
    ledger.fail(ask(0).key, "unavailable", "status 500", final=False)
    assert states(ledger)[0] == "failed"
    assert ledger.failures_about("PMC0/fig1") == [("unavailable", "status 500")]


def test_another_run_finds_the_answers_of_an_earlier_one_and_spends_nothing(ledger):
    ledger.answer([(ask(1).key, reply(), 1234, False, 1)])
    ledger.begin("run-2", [ask(1), ask(9)])
    assert [one.ask for one in ledger.answered()] == [ask(1)]
    assert [one.key for one in ledger.open_asks("claude")] == [ask(9).key]
    assert ledger.money() == (0, 0, 0)


def test_the_requests_of_a_shard_are_reserved_and_known_by_it(ledger):
    shard = ledger.plan_shard([(ask(0).key, 10), (ask(2).key, 20)], "00")
    assert (shard.number, shard.rows, shard.reserved, ledger.money().reserved) == (1, 2, 30, 30)
    ledger.move_shard(1, "submitting")
    ledger.move_shard(1, "submitted", "batch_1")
    assert [(row.key, row.attempts, row.reserved) for row in ledger.rows_of(1)] == [
        (ask(0).key, 1, 10),
        (ask(2).key, 1, 20),
    ]
    assert ledger.batch_ids() == {"batch_1"}
    assert [one.batch_id for one in ledger.shards("submitted")] == ["batch_1"]


def test_a_transaction_that_fails_leaves_nothing(ledger):
    with pytest.raises(KeyError), ledger.transaction():
        ledger.answer([(ask(1).key, reply(), 5, False, 1)])
        raise KeyError
    assert list(ledger.answered()) == []


def test_the_pages_of_a_long_ledger_hold_every_answer_once_while_it_is_written(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.begin("run", [ask(number) for number in range(2500)])
        ledger.answer((ask(number).key, reply(str(number)), 0, False, 1) for number in range(2500))
        seen = []
        for one in ledger.unjudged("rules"):
            seen.append(one.reply.text)
            ledger.judge("rules", [(one.ask.key, "[]")])
        assert sorted(map(int, seen)) == list(range(2500))
        assert list(ledger.unjudged("rules")) == []
        assert len(list(ledger.unjudged("other rules"))) == 2500


def test_a_second_process_is_told_who_has_it(ledger):
    with pytest.raises(LockedError, match=f"process {os.getpid()}@"), Ledger(ledger.folder):
        pass


def test_a_damaged_file_is_named_and_what_to_do(tmp_path):
    (tmp_path / NAME).write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    with pytest.raises(DataError, match=r"ledger.sqlite: damaged .*\n.*asked, and paid, again"), Ledger(tmp_path):
        pass


WRITER = """
import sys
from pathlib import Path
from tests.plugins.test_teacher_ledger import Ledger, ask, reply
with Ledger(Path(sys.argv[1])) as ledger:
    ledger.begin("run", [ask(n) for n in range(100000)])
    for n in range(100000):
        ledger.answer([(ask(n).key, reply(), 1, False, 1)])
        print(n, flush=True)
"""


def test_what_was_written_before_a_kill_is_there_after_it(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told = [process.stdout.readline() for _ in range(200)][-1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Ledger(tmp_path) as ledger:
        ledger.begin("run")
        assert len(list(ledger.answered())) >= int(told) + 1


def test_a_disk_that_refuses_is_a_matter_of_resources(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.plugins.test_teacher_ledger import Ledger, ask, reply\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700000, 700000))\n"
        "with Ledger(Path(sys.argv[1])) as ledger:\n"
        "    ledger.begin('run', [ask(n) for n in range(10)])\n"
        "    for n in range(10): ledger.answer([(ask(n).key, reply('x' * 100000), 1, False, 1)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert ResourceError.__name__ in done.stderr.splitlines()[-2]
    assert "cannot write to" in done.stderr
    with Ledger(tmp_path) as ledger:
        ledger.begin("run")
        assert 0 < len(list(ledger.answered())) < 10
