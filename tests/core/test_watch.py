"""Ranks that meet, that see each other fail, and that name the one that hangs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from medvlm_cli.core.errors import ConfigError, DataError, ResourceError
from medvlm_cli.core.processes import cause
from medvlm_cli.core.watch import STOP, limit


@pytest.fixture
def state(tmp_path):
    (tmp_path / "errors").mkdir()
    (tmp_path / "job.json").write_text(json.dumps({"token": "this"}))
    return tmp_path


@pytest.fixture
def start(state):
    """Starts ranks of ``company_cases`` over one port; whatever is left of them at the end is killed."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    started = []

    def ranks(fault, tokens=("this", "this")):
        common = {**os.environ, "WORLD_SIZE": str(len(tokens)), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        common |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MEDVLM_TIMEOUT": "2", "OMP_NUM_THREADS": "1"}
        for rank, token in enumerate(tokens):
            words = [sys.executable, "-m", "tests.core.company_cases", str(state), token, fault]
            own = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen(words, env=own, stderr=subprocess.DEVNULL))
        return started

    yield ranks
    for process in started:
        process.kill()
        process.wait()


def ended(processes):
    """The statuses of all, each of which ends by itself or by another's hand."""
    return [process.wait(timeout=120) for process in processes]


def test_the_error_of_the_rank_that_raised_is_told_and_not_that_of_its_partner(state, start):
    assert 0 not in ended(start("raise_it"))
    error = cause(state, 2)
    assert isinstance(error, DataError) and error.what == "rank 1 of 2: figure 9: not a readable image"


def test_a_rank_that_was_killed_is_named_by_what_the_others_say(state, start):
    assert ended(start("kill", ["this"] * 3))[2] == -signal.SIGKILL
    error = cause(state, 3)
    assert isinstance(error, ResourceError) and "rank 2 of 3 left no word" in error.what


@pytest.mark.parametrize("fault", ["stop", "hang", "see_itself"])
def test_a_rank_that_hangs_is_named_and_ended_with_the_others(state, start, fault):
    assert ended(start(fault, ["this"] * 3))[2] == -signal.SIGKILL
    error = cause(state, 3)
    assert isinstance(error, ResourceError) and "rank 2 of 3: it has done nothing for 2 s" in error.what


def test_a_rank_that_sees_another_file_ends_all_with_the_name_of_its_host(state, start):
    assert 0 not in ended(start("nothing", ["this", "another"]))
    error = cause(state, 2)
    assert isinstance(error, ConfigError) and "all hosts share" in error.fix
    assert re.search(re.escape(f"{socket.gethostname()} does not see {state}"), error.what)


def test_a_file_asks_all_ranks_to_stop_where_no_signal_reaches_them(state, start):
    processes = start("nothing")
    (state / STOP).touch()
    assert 0 not in ended(processes)
    assert cause(state, 2).code == 128 + signal.SIGTERM


def test_the_limit_is_a_setting_of_the_environment(monkeypatch):
    assert limit() == 600
    monkeypatch.setenv("MEDVLM_TIMEOUT", "12.5")
    assert limit() == 12.5
    monkeypatch.setenv("MEDVLM_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="MEDVLM_TIMEOUT is 'soon'"):
        limit()
