"""Parts of one piece of work in processes side by side, each with a GPU of its own where there are GPUs.

The parts do not talk to each other.  Their progress is told as one; the first that fails ends all, and is named.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from medvlm_cli.core import errors
from medvlm_cli.core.tell import Tell

TELL_SECONDS = 0.1
"""A part tells its progress no more often than this, but for the end of a phase."""


def gpus_of(count: int, there: int) -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` says in each of ``count`` processes.

    Args:
        count: processes.
        there: GPUs that this process sees; of none, every process gets the processor.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    if count < 1 or (there and count > there):
        raise errors.ConfigError(f"--gpus {count}, and this machine has {there}", f"give 1 to {max(there, 1)}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()] or [str(number) for number in range(there)]
    return names[:count] if there else [""] * count


def run(function: Callable[..., Any], calls: Sequence[tuple], gpus: Sequence[str], tell: Tell) -> list[Any]:
    """Call a function of a module once a process, all at the same time.

    Args:
        function: called with the arguments of one of ``calls``, and a ``Tell`` behind them.
        calls: arguments of each process; they are pickled.
        gpus: of each process, what it sees; "" is none.
        tell: told the sum of what the processes tell of each phase.

    Returns:
        What each call returned.

    Raises:
        MedVLMError: of the class, and with the text, of the part that failed first.
        ResourceError: a part was killed.
        RuntimeError: a part hit a bug; holds its traceback.
    """
    team = [_Part(function, arguments, gpu) for arguments, gpu in zip(calls, gpus, strict=True)]
    try:
        told: dict[str, dict[int, tuple[int, int | None]]] = {}
        running = {part.pipe: number for number, part in enumerate(team)}
        while running:
            for pipe in wait(list(running)):
                number = running[pipe]  # type: ignore[index]
                who = f"part {number} of {len(team)}"
                message = team[number].receive(who)
                if message[0] == "tell":
                    _, what, done, total = message
                    told.setdefault(what, {})[number] = done, total
                    totals = [of for _, of in told[what].values()]
                    tell(what, sum(part for part, _ in told[what].values()), _sum(totals))
                else:
                    team[number].value = message[1]
                    del running[pipe]  # type: ignore[arg-type]
        return [part.value for part in team]
    finally:
        for part in team:
            part.end()


def _sum(totals: Sequence[int | None]) -> int | None:
    known = [total for total in totals if total is not None]
    return sum(known) if known else None


class _Part:
    """One process, and the parent's end of its pipe."""

    def __init__(self, function: Callable[..., Any], arguments: tuple, gpu: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.value: Any = None
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, function, arguments), daemon=True)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        try:
            if gpu:
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            self.process.start()  # with the environment as it is now
        finally:
            if gpu:
                os.environ.pop("CUDA_VISIBLE_DEVICES")
                os.environ |= {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
        theirs.close()

    def receive(self, who: str) -> tuple:
        """Its next message.

        Raises:
            MedVLMError: it failed.
            RuntimeError: it hit a bug.
        """
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            what = f"{who} ended with status {self.process.exitcode}: it was killed"
            raise errors.ResourceError(what, "is there memory for all? the same command goes on from here") from None
        if message[0] != "error":
            return message
        _, kind, what, fix = message
        if kind is None:
            raise RuntimeError(f"{who}:\n{what}")
        raise getattr(errors, kind)(f"{who}: {what}", fix)

    def end(self) -> None:
        """End it, where it has not ended."""
        if self.value is None:
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    """A process of a part."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    last = 0.0

    def tell(what: str, done: int, total: int | None) -> None:
        nonlocal last
        if done == total or not done or time.monotonic() - last > TELL_SECONDS:
            last = time.monotonic()
            pipe.send(("tell", what, done, total))

    try:
        message: tuple = ("done", function(*arguments, tell))
    except errors.MedVLMError as error:
        message = ("error", type(error).__name__, error.what, error.fix)
    except Exception:
        message = ("error", None, traceback.format_exc(), "")
    pipe.send(message)


def _end_with(sentinel: int) -> None:
    """End with a parent that is killed."""
    wait([sentinel])
    os._exit(1)
