"""Several processes for one training run on this machine: started, listened to, ended together.

``torch.distributed.run`` starts this module once a rank.  The first rank's progress comes over standard output, lines
that begin with ``MARK``; everything else that any library prints goes to ``launch.log`` in the state folder.  A rank
that fails leaves its error in a file, with the time: the earliest is the cause, the others only lost their partner.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from medvlm_cli.core import errors
from medvlm_cli.core.commit import write_text
from medvlm_cli.core.steps import Job
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.train import fit

MARK = "\x1emedvlm "
SECONDS_TO_SAVE = 120
"""How long the ranks may take to save and end when they are asked to."""
_TELL_SECONDS = 0.1


def run_processes(job: Job, world: int, tell: Tell) -> dict[str, Any]:
    """Do a job in ``world`` processes.

    Args:
        job: what every rank does.
        world: ranks.
        tell: progress of the first rank.

    Returns:
        The first rank's outcome.

    Raises:
        MedVLMError: of the class, and with the text, of the rank that failed first.
        ResourceError: a rank was killed.
        RuntimeError: a rank hit a bug; holds its traceback.
        SystemExit: SIGTERM came, here or to a rank; the state was saved.
    """
    state = Path(job.state)
    shutil.rmtree(state / "errors", ignore_errors=True)
    (state / "errors").mkdir()
    write_text(state / "job.json", json.dumps(asdict(job)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    command += ["--shutdown_timeout", str(SECONDS_TO_SAVE), "-m", __name__, str(state / "job.json")]
    threads = max(1, len(os.sched_getaffinity(0)) // world)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (state / "launch.log").open("w", encoding="utf-8") as log, _sigterm_raises():
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            outcome = None
            for message in _messages(process, log):
                if "tell" in message:
                    tell(*message["tell"])
                else:
                    outcome = message["outcome"]
            if process.wait() or outcome is None:
                raise cause(state, world)
            return outcome
        finally:
            _end(process)


def _messages(process: subprocess.Popen, log: Any) -> Iterator[dict[str, Any]]:
    assert process.stdout
    for line in process.stdout:
        if line.startswith(MARK):
            yield json.loads(line.removeprefix(MARK))
        else:
            log.write(line)
            log.flush()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the ``with`` like Ctrl-C does, so that the ranks are ended with it."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen) -> None:
    """Ask the ranks to save and end; kill what is left of them."""
    if process.poll() is None:
        process.terminate()
        try:
            process.communicate(timeout=SECONDS_TO_SAVE + 10)
        except BaseException:  # out of patience, or a second Ctrl-C; they die with their parent
            process.kill()
            raise


def cause(state: Path, world: int) -> BaseException:
    """The error of the rank that failed first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (state / "errors").glob("rank-*.json")]
    log = state / "launch.log"
    if not found:
        text = log.read_text(encoding="utf-8", errors="replace")
        killed = re.search(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", text, re.DOTALL)
        who = (
            f"rank {killed[1]} of {world} ended with status {killed[2]}" if killed else f"the {world} ranks ended early"
        )
        return errors.ResourceError(f"{who}, see {log}", "is there memory for all? the same command goes on from here")
    first = min(found, key=lambda error: error["time"])
    if first["type"] == "SystemExit":
        return SystemExit(first["code"])
    kind = getattr(errors, first["type"], None)
    if kind is None:
        return RuntimeError(f"rank {first['rank']} of {world}:\n{first['traceback']}")
    return kind(f"rank {first['rank']} of {world}: {first['what']}", first["fix"])


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, however that dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _speak(message: dict[str, Any]) -> None:
    os.write(1, f"\n{MARK}{json.dumps(message)}\n".encode())  # one write: lines of ranks do not mix


def main() -> None:
    """One rank."""
    die_with_parent()
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    rank, last = int(os.environ["RANK"]), 0.0

    def tell(what: str, done: int, total: int | None) -> None:
        nonlocal last
        if rank == 0 and (done == total or not done or time.monotonic() - last > _TELL_SECONDS):
            last = time.monotonic()
            _speak({"tell": [what, done, total]})

    try:
        outcome = fit(job, tell)
        if rank == 0:
            _speak({"outcome": outcome})
        torch.distributed.destroy_process_group()
        os._exit(0)  # the ordinary way out aborts now and then, in a thread of gloo that the interpreter did not stop
    except BaseException as error:
        told = {
            "rank": rank,
            "time": time.time(),
            "type": type(error).__name__,
            "code": getattr(error, "code", None),
            "what": getattr(error, "what", str(error)),
            "fix": getattr(error, "fix", ""),
            "traceback": traceback.format_exc(),
        }
        write_text(Path(job.state) / "errors" / f"rank-{rank}.json", json.dumps(told))
        raise


if __name__ == "__main__":
    main()
