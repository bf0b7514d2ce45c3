"""The ranks of one run, as they know of each other while it lasts.

They meet in the key-value store of PyTorch's rendezvous, which lives as long as the run and is no collective: a rank
that hangs in one can still be told of.  A thread of every rank writes there how many collectives the rank has begun.
Ranks that wait for one are ahead of the one that they wait for, so when nobody has moved for long, the rank that is
behind is the one that hangs, whichever of the others notices first.  NCCL would only end the ranks that waited.
"""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import distributed_c10d

from medvlm_cli.core.commit import write_text
from medvlm_cli.core.errors import ConfigError, ResourceError

SECONDS_TO_ANSWER = 600.0
"""How long ranks wait for one that does not move; ``MEDVLM_TIMEOUT`` sets another limit."""
SECONDS_TO_LEAVE = 8.0
"""How long a rank may take to end by itself after another one failed."""
SECONDS_TO_SEE = 60.0
"""How long a new file may take to appear on another host: network file systems keep a folder's list about as long."""
STOP = "stop"
"""File in the state folder that asks all ranks to save and end, where no signal reaches them."""
_BEAT_SECONDS = 0.5
_LOST = re.compile(r"gloo|NCCL|ProcessGroup|TCPStore|[Cc]onnection (closed|reset|refused)|Broken pipe")


def limit() -> float:
    """Seconds that ranks wait for one that does not move.

    Raises:
        ConfigError: ``MEDVLM_TIMEOUT`` is no number above 0.
    """
    text = os.environ.get("MEDVLM_TIMEOUT", "")
    try:
        seconds = float(text) if text else SECONDS_TO_ANSWER
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigError(f"MEDVLM_TIMEOUT is {text!r}", "give seconds, for example 600")
    return seconds


class Company:
    """One rank among the others, met as ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` say.

    Raises:
        ResourceError: rank 0 is not to be reached.
    """

    def __init__(self) -> None:
        self.limit = limit()
        waiting = timedelta(seconds=self.limit)
        try:
            store, self.rank, self.world = next(torch.distributed.rendezvous("env://", timeout=waiting))
        except RuntimeError as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            what = f"rank {os.environ['RANK']} on {socket.gethostname()} finds no rank 0 at {where}"
            raise ResourceError(
                what, "did all ranks start? may the hosts connect? MASTER_PORT sets another port"
            ) from error
        self.store = torch.distributed.PrefixStore("medvlm", store)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.state: Path | None = None
        self.who: list[list[str]] = []
        self.handed_out = False
        self._beaten = time.monotonic()
        self.code = 1
        """What this process ends with when it does not end by itself after a failure."""
        self.unwritten: dict[str, Any] = {}
        """The record of this rank's error, where the state folder did not take it."""

    def hand_out(self, message: dict[str, Any]) -> None:
        """Tell all ranks what there is to do; the first rank, once."""
        self.handed_out = True
        self.store.set("job", json.dumps(message))

    def send_home(self, code: int) -> None:
        """Let the others end with a status, where the first rank never came to hand anything out."""
        if not self.handed_out:
            self.hand_out({"code": code})
            self.await_others(SECONDS_TO_LEAVE)

    def receive(self) -> dict[str, Any]:
        """What the first rank hands out, which may first read all inputs of the run."""
        self.store.wait(["job"], timedelta(days=1))
        return json.loads(self.store.get("job"))

    def roll_call(self, file: Path, token: str, seconds: float = SECONDS_TO_SEE) -> None:
        """Have every rank say whether it sees the file of this run's job.

        Args:
            file: JSON with the key ``token``.
            token: of this run; an older file of the same name, on a disk of the host's own, has another.
            seconds: how long the file may take to appear.

        Raises:
            ConfigError: on every rank, where one does not see it; names the hosts.
        """
        until = time.monotonic() + seconds
        while not (seen := _holds(file, token)) and time.monotonic() < until:
            time.sleep(0.2)
        host = socket.gethostname()
        self.store.set(f"who/{self.rank}", f"{int(seen)} {os.getpid()} {host}")
        keys = [f"who/{rank}" for rank in range(self.world)]
        with contextlib.suppress(torch.distributed.DistStoreError):  # too late
            self.store.wait(keys, timedelta(seconds=seconds + self.limit))
        if late := [str(rank) for rank, key in enumerate(keys) if not self.store.check([key])]:
            raise ResourceError(f"rank {', '.join(late)} of {self.world} did not start", "were all ranks started?")
        self.who = [self.store.get(f"who/{rank}").decode().split(" ", 2) for rank in range(self.world)]
        if blind := sorted({host for seen, _, host in self.who if seen == "0"}):
            fix = "put the workspace (-w) and the output (-o) on a file system that all hosts share, under one path"
            raise ConfigError(f"{', '.join(blind)} does not see {file}", fix)

    def watch(self, state: Path) -> None:
        """Begin to look after the other ranks; errors go to ``<state>/errors``."""
        self.state = state
        self.store.set(f"at/{self.rank}", "0")
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def rest(self) -> None:
        """Stop looking; another rank may end first now."""
        self._over.set()
        if self._thread:
            self._thread.join(SECONDS_TO_LEAVE)

    def done(self) -> None:
        """Tell the first rank that this one needs nothing of the state folder any more."""
        self.store.set(f"done/{self.rank}", "")

    def await_others(self, seconds: float) -> None:
        """Wait until the other ranks are ``done``, or gone."""
        with contextlib.suppress(RuntimeError):
            self.store.wait([f"done/{rank}" for rank in range(1, self.world)], timedelta(seconds=seconds))

    def fail(self, error: BaseException) -> None:
        """Leave this rank's error for the launcher, and tell the other ranks that the run is over."""
        code = getattr(error, "code", None)
        told = {
            "type": type(error).__name__,
            "code": code if isinstance(code, int) else None,
            "what": getattr(error, "what", str(error)),
            "fix": getattr(error, "fix", ""),
            "traceback": "".join(traceback.format_exception(error)),
            "lost": isinstance(error, RuntimeError | OSError) and bool(_LOST.search(str(error))),
        }
        self._record(self.rank, socket.gethostname(), told, f"rank-{self.rank}.json")

    def _record(self, rank: int, host: str, told: dict[str, Any], name: str) -> None:
        assert self.state
        told = {"rank": rank, "host": host, "time": time.time(), "lost": False, **told}
        try:
            write_text(self.state / "errors" / name, json.dumps(told))
        except (OSError, ResourceError):
            self.unwritten = told
        answers = time.monotonic() - self._beaten < SECONDS_TO_LEAVE  # or rank 0, which may keep the store, is stopped
        with contextlib.suppress(RuntimeError):
            if told["type"] != "SystemExit" and answers:
                self.store.set("failed", str(rank))

    def _watch(self) -> None:
        assert self.state
        moved, before, stopped = time.monotonic(), [0] * self.world, False
        while not self._over.wait(_BEAT_SECONDS):
            self._beaten = time.monotonic()
            try:
                self.store.set(f"at/{self.rank}", str(_collectives()))
                failed = self.store.check(["failed"])
                keys = [f"at/{rank}" for rank in range(self.world)]
                at = [int(value) for value in self.store.multi_get(keys)] if self.store.check(keys) else before
            except RuntimeError:  # the host of the store is gone, and with it the run
                failed, at = True, before
            if failed:
                return self._leave()
            if not stopped and (self.state / STOP).exists():
                stopped = True
                os.kill(os.getpid(), signal.SIGTERM)
            if at != before:
                moved, before = time.monotonic(), at
            elif len(set(at)) > 1 and time.monotonic() - moved > self.limit:
                self._end_of(at.index(min(at)))

    def _end_of(self, rank: int) -> None:
        """End the run because of a rank that hangs; on its own machine, end that rank too."""
        _, process, host = self.who[rank]
        told = {
            "type": "ResourceError", "code": None, "traceback": "",
            "what": f"it has done nothing for {self.limit:.0f} s while other ranks wait for it",
            "fix": "look at that host (disk, memory, GPU); the same command goes on from the last checkpoint",
        }  # fmt: skip
        self._record(rank, host, told, f"rank-{rank}-by-{self.rank}.json")
        if host == socket.gethostname():  # this rank itself where it is the first to see that it hangs
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)  # one that is stopped takes no other signal

    def _leave(self) -> None:
        """Give this rank's own error a moment, then end: it may wait on a GPU for a rank that is gone."""
        if not self._over.wait(SECONDS_TO_LEAVE):
            os._exit(self.code)


def _holds(file: Path, token: str) -> bool:
    try:
        return json.loads(file.read_text(encoding="utf-8"))["token"] == token
    except (OSError, ValueError, KeyError):
        return False


def _collectives() -> int:
    """Collectives that this rank has begun, over all groups of processes; DeepSpeed uses one of its own."""
    if not torch.distributed.is_initialized():
        return 0
    groups: list[Any] = list(distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)
