"""The command with a real vLLM: it starts the server, or loads the model itself, asks, writes, and leaves no process.

The model's weights are random, so its answers are no conversations: every figure ends as a reject, its words kept.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from medvlm_cli.teachers.launch import PROGRAM, served_name
from tests import synthesis
from tests.openai_server import alive_below, gone_within
from tests.served.tiny_llama import NEEDS_VLLM

pytestmark = NEEDS_VLLM
COUNT = 12
ASKED = (*synthesis.FREE, "--json")
SHORT = {"llama_max_tokens": 64, "timeout": 120}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("figures") / "figures", COUNT)


@pytest.fixture(scope="module")
def settings(environment, tmp_path_factory):
    """The environment of a command; what vLLM compiles goes into a folder that ends with the tests."""
    return synthesis.environment(**environment, VLLM_CACHE_ROOT=str(tmp_path_factory.mktemp("cache")))


def begin(command, folder, settings):
    """A command under way; what it prints goes to files of ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, cwd=synthesis.ROOT, env=settings)


def whole(command, folder, settings):
    """A command from its beginning to its end: the process, and every process that it ever had below it."""
    run, seen = begin(command, folder, settings), set()
    while run.poll() is None:
        seen.update(alive_below(run.pid))
        time.sleep(0.1)
    return run, seen


def until(path, words, run, seconds=300):
    """Wait until a file holds some words; whether it does, and the command still runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.poll() is None:
        if path.exists() and words in path.read_text(errors="replace"):
            return True
        time.sleep(0.1)
    return False


def offline(figures, out, llama):
    """The command in the Python of vLLM's own environment, which has not medvlm but its folder."""
    command = synthesis.command(figures, out, None, *ASKED, "--launch", llama, offline="true", **SHORT)
    return [os.environ[PROGRAM], *command[1:]]


@pytest.fixture(scope="module")
def killed(figures, llama, settings, tmp_path_factory):
    """A run that is killed while its server serves: its folder, its command, and what it had below it then."""
    folder = tmp_path_factory.mktemp("launched")
    command = synthesis.command(figures, folder / "out", None, *ASKED, "--launch", llama, **SHORT)
    run = begin(command, folder, settings)
    log = folder / "out" / ".instruct.state" / "vllm.log"
    assert until(log, "Application startup complete", run), (folder / "stderr").read_text()[-3000:]
    tree = alive_below(run.pid)
    run.send_signal(signal.SIGKILL)
    run.wait()
    return folder, command, tree, gone_within(tree, 30)


@pytest.fixture(scope="module")
def launched(killed, settings):
    """The same command again, to its end: its folder, its process, and every process below it."""
    folder, command, _, _ = killed
    began = time.monotonic()
    run, seen = whole(command, folder, settings)
    print(f"the command took {time.monotonic() - began:.1f} s")
    return folder, run, seen


@pytest.fixture(scope="module")
def loaded(figures, llama, settings, tmp_path_factory):
    """A run that loads the model into its own process; as ``launched``."""
    folder = tmp_path_factory.mktemp("loaded")
    began = time.monotonic()
    run, seen = whole(offline(figures, folder / "out", llama), folder, settings)
    print(f"the command took {time.monotonic() - began:.1f} s")
    return folder, run, seen


@pytest.fixture(params=["launched", "loaded"])
def ran(request):
    return request.getfixturevalue(request.param)


def test_no_process_outlives_a_command_that_is_killed(killed):
    _, _, tree, gone = killed
    assert len(tree) >= 3, "the watcher, the server and its engine"
    assert gone, "none of them is left after the seconds that the server has to end by itself"


def test_every_figure_is_a_row_or_a_reject_with_what_was_said(ran, llama):
    folder, run, _ = ran
    assert run.returncode == 0, (folder / "stderr").read_text()[-3000:]
    rejects, replies = synthesis.rejects(folder / "out"), synthesis.replies(folder / "out")
    kept = {row["figure_id"]: row["raw_response"] for row in synthesis.rows(folder / "out")}
    dropped = {reject["id"]: reject["raw"] for reject in rejects}
    assert len(kept) + len(dropped) == COUNT and not kept.keys() & dropped.keys()
    assert {one["figure_id"]: one["raw_response"] for one in replies} == kept | dropped
    assert all(one["raw_response"].strip() for one in replies)
    assert {(one["outcome"], one["served_model"], one["attempts"]) for one in replies} == {
        ("answered", served_name(llama), 1)
    }
    assert str(Path(llama).parent).encode() not in b"".join(
        path.read_bytes() for path in (folder / "out").rglob("*.arrow")
    )


def test_tokens_are_counted_and_what_all_requests_begin_with_is_read_from_the_cache(ran):
    replies = synthesis.replies(ran[0] / "out")
    read, cached, written = (
        sum(one[name] for one in replies) for name in ("input_tokens", "cache_read_tokens", "output_tokens")
    )
    assert COUNT <= written <= COUNT * SHORT["llama_max_tokens"]
    assert cached > read > 0


def test_no_process_is_left_when_the_command_has_ended(ran):
    _, _, seen = ran
    assert gone_within(seen, 5)


def test_the_command_had_a_watcher_a_server_and_its_engine(launched):
    _, _, seen = launched
    assert len(seen) >= 3


def test_the_log_of_the_server_is_beside_the_ledger(launched):
    assert "Application startup complete" in (launched[0] / "out" / ".instruct.state" / "vllm.log").read_text()


def test_without_a_server_standard_output_is_the_summary_alone(loaded):
    told = synthesis.told(subprocess.CompletedProcess([], 0, (loaded[0] / "stdout").read_text()))
    assert told["instruct"]["conversations"] + told["instruct"]["rejected"] == COUNT


def test_without_a_server_the_same_run_says_the_same_words_again(figures, loaded, llama, settings, tmp_path):
    run, _ = whole(offline(figures, tmp_path / "out", llama), tmp_path, settings)
    assert run.returncode == 0, (tmp_path / "stderr").read_text()[-3000:]
    first, second = (synthesis.replies(folder / "out") for folder in (loaded[0], tmp_path))
    assert {one["figure_id"]: one["raw_response"] for one in first} == {
        one["figure_id"]: one["raw_response"] for one in second
    }
    assert len({one["raw_response"] for one in first}) == COUNT, "it says something else of every figure"
