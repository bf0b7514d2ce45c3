"""Worker processes that are killed, hang, crash and swallow memory, and the work of the others beside them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from medvlm_cli.core.crew import MEMORY, SECONDS, Crew, WorkerDiedError
from medvlm_cli.core.errors import ResourceError
from tests.core import crew_cases

BIG = "x" * 200_000
"""More than the pipe to the workers takes at once."""


@pytest.fixture
def crew():
    with Crew(2) as crew:
        yield crew


def gone_within(seconds, pids):
    """Whether all processes end in time."""
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if Path(f"/proc/{pid}/stat").exists() and " Z " not in stat(pid)]:
        if time.monotonic() > end:
            return alive == []
        time.sleep(0.02)
    return True


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return " Z "


@pytest.mark.parametrize(
    "culprit", [crew_cases.kill, crew_cases.segfault, crew_cases.dawdle, crew_cases.hoard], ids=lambda f: f.__name__
)
def test_one_that_kills_its_worker_is_told_and_everything_else_is_done_once(crew, culprit):
    before = [crew.submit(crew_cases.echo, f"{n}{BIG}") for n in range(12)]
    bad = crew.submit(culprit)
    after = [crew.submit(crew_cases.echo, f"{n}{BIG}") for n in range(12, 24)]
    with pytest.raises(WorkerDiedError):
        bad.result(60)
    assert [future.result(60) for future in before + after] == [f"{n}{BIG}" for n in range(24)]


def test_after_a_death_the_crew_goes_on_and_several_culprits_are_all_told(crew):
    for _ in range(2):
        bad = [crew.submit(crew_cases.kill) for _ in range(2)]
        good = [crew.submit(crew_cases.echo, n) for n in range(4)]
        assert {type(one.exception(60)) for one in bad} == {WorkerDiedError}
        assert [one.result(60) for one in good] == list(range(4))


def test_an_exception_of_the_function_is_passed_on(crew):
    with pytest.raises(KeyError, match="mine"):
        crew.submit(crew_cases.raise_key_error).result(60)
    assert crew.submit(crew_cases.echo, 1).result(60) == 1


def test_a_worker_that_has_grown_too_large_hands_its_work_to_a_fresh_one():
    with Crew(1) as crew:
        assert crew.submit(crew_cases.hoard_once, MEMORY // 2).result(60) == 1
        assert crew.submit(crew_cases.hoard_once, MEMORY // 2).result(60) == 1


def test_a_worker_is_bounded_in_time_and_memory_and_leaves_ctrl_c_to_its_parent(crew):
    left, memory, ignores, careful = crew.submit(crew_cases.limits).result(60)
    assert SECONDS - 5 < left <= SECONDS
    assert MEMORY < memory < 2 * MEMORY
    assert (ignores, careful) == (True, False)


def test_deadlines_nest(crew):
    within, after = crew.submit(crew_cases.nested, 50, 5).result(60)
    assert 4 < within <= 5
    assert 49 < after <= 49.7


def test_an_inner_deadline_does_not_lengthen_the_outer_one(crew):
    with pytest.raises(WorkerDiedError):
        crew.submit(crew_cases.outlast_outer).result(60)


def test_futures_keep_the_order_of_their_keys_and_few_run_ahead(crew):
    asked = []

    def keys():
        for n in range(60):
            asked.append(n)
            yield n

    pairs = crew.futures(crew_cases.echo, keys())
    first, future = next(pairs)
    ahead = len(asked)
    assert (first, future.result(60)) == (0, 0)
    assert ahead <= 8 * crew.workers + 1
    assert [(key, one.result(60)) for key, one in pairs] == [(n, n) for n in range(1, 60)]


def test_leaving_with_work_in_flight_does_not_wait_for_it():
    with Crew(2) as crew:
        crew.submit(crew_cases.pid).result(60)
        running = [crew.submit(crew_cases.nap, 100) for _ in range(6)]
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert [type(one.exception(1)) if not one.cancelled() else CancelledError for one in running] == [
        CancelledError
    ] * 6


def test_leaving_while_suspects_are_done_again_does_not_wait_for_them():
    with Crew(1) as crew:
        bad = crew.submit(crew_cases.kill)
        suspects = [crew.submit(crew_cases.nap, 100) for _ in range(3)]
        bad.exception(60)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert all(one.done() for one in suspects)


def test_the_answer_is_awaited_of_work_that_cannot_be_sent_or_returned(crew):
    unsendable = crew.submit(crew_cases.echo, lambda: None)
    unreturnable = crew.submit(crew_cases.unreturnable)
    assert isinstance(unsendable.exception(60), Exception)
    assert isinstance(unreturnable.exception(60), WorkerDiedError)
    assert crew.submit(crew_cases.echo, 1).result(60) == 1


def test_an_exception_that_cannot_be_rebuilt_is_still_an_exception_and_the_worker_goes_on(crew):
    assert isinstance(crew.submit(crew_cases.raise_stubborn).exception(60), TypeError)
    assert [crew.submit(crew_cases.echo, n).result(60) for n in range(4)] == [0, 1, 2, 3]


def test_leaving_while_a_careful_worker_waits_for_a_decoder_that_hangs_does_not_wait_for_it():
    with Crew(1) as crew:
        crew.submit(crew_cases.pid).result(60)
        crew.submit(crew_cases.decode_hostile, b"sleep", 25, True)
        time.sleep(0.5)  # the decoder runs, in a process of its own
        began = time.monotonic()
    assert time.monotonic() - began < 10


def test_workers_end_with_the_crew(crew):
    with Crew(2) as other:
        pids = {other.submit(crew_cases.pid).result(60) for _ in range(4)}
    assert gone_within(5, pids)


def test_workers_die_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-m", "tests.core.crew_cases"], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert len(pids) >= 1
    assert gone_within(10, pids)


def test_one_who_gives_up_waiting_disturbs_nobody(crew):
    async def run():
        futures = [asyncio.wrap_future(crew.submit(crew_cases.nap, 0.2)) for _ in range(6)]
        killing = asyncio.wrap_future(crew.submit(crew_cases.kill))
        for future in futures[::2]:
            future.cancel()
        with pytest.raises(WorkerDiedError):
            await killing
        return [await future for future in futures[1::2]]

    assert asyncio.run(run()) == [0.2] * 3
    assert crew.submit(crew_cases.echo, 1).result(60) == 1


def test_workers_that_cannot_start_are_no_fault_of_the_work(tmp_path):
    script = tmp_path / "stillborn.py"
    script.write_text(
        "import multiprocessing, os\n"
        "if multiprocessing.current_process().name != 'MainProcess':\n"
        "    os._exit(3)\n"
        "from medvlm_cli.core.crew import Crew\n"
        "with Crew(1) as crew:\n"
        "    print(type(crew.submit(os.getpid).exception(100)).__name__)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [ResourceError.__name__]
