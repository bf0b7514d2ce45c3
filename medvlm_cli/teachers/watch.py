"""Stands between medvlm and a server that it started, and ends the server and all it started when medvlm is gone.

vLLM is a tree of processes, and what is left of it keeps the memory of the GPU.  Whoever started the tree may be killed
in a way that it cannot answer, so this process does it: it notices that its parent has gone, and as the tree's
subreaper it sees every process of it, those too whose own parent died.

Run by path with the standard library alone: ``python -I watch.py PARENT_PID GRACE_SECONDS COMMAND...``; first process
of its session.  The server has so many seconds to end by itself, a quarter of them where the parent has gone: a new run
may want the memory.  The exit status is the server's, 128 and the signal's number where one ended it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_PDEATHSIG, _SUBREAPER = 1, 36
_LOOK = 0.1


def main() -> int:
    """Start the command, and end it when it is time."""
    parent, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    prctl(_SUBREAPER, 1)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_us)
    while server.poll() is None and os.getppid() == parent and not asked:
        time.sleep(_LOOK)
    _signal_tree(signal.SIGTERM)
    end = time.monotonic() + (grace if os.getppid() == parent else grace / 4)
    while _children() and time.monotonic() < end:
        time.sleep(_LOOK / 5)
    while _children():
        _signal_tree(signal.SIGKILL)
        time.sleep(_LOOK / 5)
    status = server.returncode
    return 0 if status is None else status if status >= 0 else 128 - status


def prctl(option: int, value: int) -> None:
    """Ask the kernel something about this process (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _die_with_us() -> None:
    prctl(_PDEATHSIG, signal.SIGKILL)


def _signal_tree(number: int) -> None:
    """Send a signal to all that was started, in whatever group or session it is by now."""
    if sys.platform != "linux":
        return os.killpg(0, number)  # this process too
    for pid in _tree():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return None


def _tree() -> list[int]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _children() -> bool:
    """Bury the dead; whether anybody of the tree is alive."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
