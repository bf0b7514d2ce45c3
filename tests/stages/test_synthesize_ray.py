"""``synthesize --engine ray``: Llama asked by the actors of a Ray that runs on this machine alone, over two servers.

The rows are those of the local engine.  The files are not: a row says when it was answered, and how many tokens a
server found in its cache, which depends on what it was asked before.
"""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medvlm_cli.core import cluster
from tests import synthesis
from tests.anthropic_server import serving
from tests.openai_server import MODEL, OpenAIServer, alive_below, gone_within

pytest.importorskip("ray", reason="Ray is not installed: pip install 'medvlm[cluster]'")

COUNT = 150
BY_CHANCE = ("replied", "input_tokens", "cache_read_tokens")
SETTINGS = {"connections": 100, "pause": 0.1}
"""More requests at a time than one actor has; and a run that gives up after 2 s in which everything fails."""


@dataclass
class Run:
    """A command under way, or at its end."""

    out: Path
    process: subprocess.Popen
    seen: set = field(default_factory=set)
    """Every process that it ever had below it."""
    holders: set = field(default_factory=set)
    """Every process of this machine that ever had its ledger open."""

    def look(self):
        self.seen.update(alive_below(self.process.pid))
        self.holders.update(holders(self.out / ".instruct.state" / "ledger.sqlite"))
        time.sleep(0.05)
        return self.process.poll() is None

    def until(self, true):
        """Look on until something is so."""
        end = time.monotonic() + 60
        while not true():
            assert self.look() and time.monotonic() < end, self.stderr()

    def stderr(self):
        return (self.out.parent / "stderr").read_text()

    def actors(self):
        return [pid for pid in alive_below(self.process.pid) if b"ray::_Actor" in read(f"/proc/{pid}/cmdline")]


def read(path):
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    return b""


def holders(path):
    """Processes that have a file open, or one that SQLite keeps beside it."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended meanwhile
            links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
            if any(link.startswith(str(path)) for link in links):
                found.add(int(pid))
    return found


def begin(figures, folder, servers, engine="ray", more=None, **settings):
    """Start the command; ``more`` goes into its environment."""
    folder.mkdir()
    endpoints = [word for server in servers for word in ("--llama-endpoint", server.url)]
    given = (*synthesis.FREE, "--engine", engine, *endpoints)
    ours = synthesis.environment(HOME=str(folder))  # Ray leaves a token in the home folder
    ours.pop("RAY_ADDRESS", None)
    ours |= more or {}
    command = synthesis.command(figures, folder / "out", None, *given, **SETTINGS | settings)
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        return Run(folder / "out", subprocess.Popen(command, stdout=out, stderr=err, cwd=synthesis.ROOT, env=ours))


def finish(run):
    while run.look():
        pass
    assert run.process.returncode == 0, run.stderr()


def asked(server):
    return len(server.asked("POST /v1/chat/completions"))


def without(row, names):
    return {name: value for name, value in row.items() if name not in names}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("figures") / "figures", COUNT)


@pytest.fixture(scope="module")
def ran(figures, tmp_path_factory):
    """A whole run, and how often either server was asked."""
    with serving(latency=0.05, refusals=0.03) as first, serving(latency=0.05, refusals=0.03) as second:
        run = begin(figures, tmp_path_factory.mktemp("ray") / "run", (first, second))
        finish(run)
        return run, asked(first), asked(second)


@pytest.fixture(scope="module")
def troubled(figures, tmp_path_factory):
    """A run that loses an actor and then one of its servers; how often that one was asked, and the other."""
    with contextlib.ExitStack() as stack, serving(latency=0.2) as good:
        dying = stack.enter_context(serving(latency=0.2))
        run = begin(figures, tmp_path_factory.mktemp("ray") / "run", (dying, good))
        run.until(lambda: len(dying.answered) >= 5)
        os.kill(run.actors()[0], signal.SIGKILL)
        had = asked(dying)
        run.until(lambda: asked(dying) > had)
        stack.close()
        finish(run)
        return run, asked(dying), asked(good)


def test_actors_make_the_rows_that_one_process_makes(figures, ran, tmp_path):
    with serving(latency=0.05, refusals=0.03) as first, serving(latency=0.05, refusals=0.03) as second:
        local = begin(figures, tmp_path / "local", (first, second), "local")
        finish(local)
    by_ray, by_one = (synthesis.rows(run.out) for run in (ran[0], local))
    assert len(by_ray) > 0.8 * COUNT
    assert [without(row, BY_CHANCE) for row in by_ray] == [without(row, BY_CHANCE) for row in by_one]
    assert [row["input_tokens"] + row["cache_read_tokens"] for row in by_ray] == [
        row["input_tokens"] + row["cache_read_tokens"] for row in by_one
    ]
    assert synthesis.rejects(ran[0].out) == synthesis.rejects(local.out)


def test_every_request_is_asked_once_and_the_servers_share_them(ran):
    run, first, second = ran
    assert first + second == COUNT == len(synthesis.replies(run.out))
    assert min(first, second) > 0.25 * COUNT


def test_nobody_but_the_driver_opens_the_ledger(ran):
    run, _, _ = ran
    assert len(run.seen) > 5, "Ray's processes"
    assert run.holders == {run.process.pid}


def test_no_process_of_ray_is_left(ran):
    assert gone_within(ran[0].seen, 10)


def test_a_killed_actor_and_a_dead_server_cost_no_row(troubled):
    run, dead, alive = troubled
    replies = synthesis.replies(run.out)
    assert {(one["figure_id"], one["outcome"]) for one in replies} == {
        (f"PMC{number}/fig1", "answered") for number in range(COUNT)
    }
    assert max(one["attempts"] for one in replies) > 1, "what was under way is asked again"
    assert 5 <= dead < alive


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_when_all_that_was_answered_is_written_down(figures, tmp_path, number):
    with serving(latency=0.3) as server:
        run = begin(figures, tmp_path / "run", [server], connections=20)
        run.until(lambda: len(server.answered) >= 30)
        run.process.send_signal(number)
        run.process.wait(60)
        told = synthesis.told(synthesis.synthesize("x", run.out, None, "--status", "--json"))
    assert run.process.returncode > 0, "it ended by itself"
    assert told["requests"]["llama"]["answered"] == len(server.answered) < COUNT
    assert gone_within(run.seen, 10)


@pytest.mark.slow
def test_a_cluster_that_was_there_before_gets_the_key_of_the_servers(tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    figures = synthesis.write_figures(tmp_path / "figures", 5)
    with OpenAIServer() as server, cluster.connected():
        address = ray.get_runtime_context().gcs_address
        more = {"HOME": str(tmp_path), "RAY_ADDRESS": address, "VLLM_API_KEY": "sk-of-the-servers"}
        run = begin(figures, tmp_path / "run", [server], more=more, llama_model=MODEL)
        finish(run)
    assert {sent.get("Authorization") for sent in server.headers} == {"Bearer sk-of-the-servers"}
    assert len(server.bodies) == 5
