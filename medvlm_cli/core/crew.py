"""Worker processes for files of strangers: limited in memory and time, and replaced when one of them dies.

Decoders crash, hang and swallow memory on hostile files.  Each worker has a pipe and a thread of its own and does one
piece of work at a time, so that a death has one culprit.  The culprit is done again by a fresh worker that is
*careful*: it decodes every image in a child process of its own (see ``core.decoding``), so that the image which kills
its decoder is known and rejected, and everything else survives.  Not ``concurrent.futures``: there one death breaks the
whole pool and names nobody, and a piece of work costs four times the processor time.
"""

import contextlib
import multiprocessing
import os
import queue
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from medvlm_cli.core import decoding
from medvlm_cli.core.errors import ResourceError

MEMORY = 2 << 30
"""Bytes of address space that a worker may add to what it starts with."""
SECONDS = 300
"""Longest that one piece of work may take."""
MOST_WORKERS = 16


class WorkerDiedError(Exception):
    """A piece of work killed its worker, or took all its memory, twice, the second time with all care."""


@dataclass(frozen=True, slots=True)
class _Work:
    promise: Future
    function: Callable[..., Any]
    arguments: tuple


class Crew:
    """Worker processes; a context manager.  They start with the first piece of work.

    Args:
        workers: how many; None takes one a processor, up to ``MOST_WORKERS``.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS)
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._processes: set[SpawnProcess] = set()
        self._lock = threading.Lock()
        self._left = False

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End at once: nobody wants what is still in work, and it may take minutes."""
        with self._lock:
            self._left = True
            for process in self._processes:
                process.kill()
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Have a worker call a function of a module; its result, its exception, or ``WorkerDiedError``."""
        promise: Future = Future()
        self._work.put(_Work(promise, function, arguments))
        if len(self._threads) < self.workers:
            self._threads.append(threading.Thread(target=self._serve, daemon=True))
            self._threads[-1].start()
        return promise

    def futures(self, function: Callable[[str], Any], keys: Iterable[str]) -> Iterator[tuple[str, Future]]:
        """A future for each key, in order; only a few run ahead, because a result may be large."""
        ahead: deque[tuple[str, Future]] = deque()
        for key in keys:
            ahead.append((key, self.submit(function, key)))
            if len(ahead) > 8 * self.workers:
                yield ahead.popleft()
        yield from ahead

    def _serve(self) -> None:
        """One thread: hand pieces of work to its worker, and take what comes back."""
        worker: _Worker | None = None
        while (work := self._work.get()) is not None:
            if self._left:
                work.promise.cancel()
            if not work.promise.set_running_or_notify_cancel():  # whoever waited has given up
                continue
            try:
                worker = worker or self._start(careful=False)
                answer = worker.call(work)
                if answer is None:
                    self._end(worker)
                    worker = self._start(careful=True)
                    answer = worker.call(work) or (False, WorkerDiedError())
                    self._end(worker)
                    worker = None
            except Exception as error:  # a function that cannot be pickled, a worker that cannot start
                answer = False, error
            succeeded, value = (False, CancelledError()) if self._left else answer
            (work.promise.set_result if succeeded else work.promise.set_exception)(value)
        if worker is not None:
            self._end(worker)

    def _start(self, *, careful: bool) -> "_Worker":
        """A worker that has answered, so that what happens then is the fault of its work.

        Raises:
            ResourceError: it does not live long enough to answer.
        """
        with self._lock:
            if self._left:
                raise CancelledError
            worker = _Worker(careful)
            self._processes.add(worker.process)
        if not worker.is_ready():
            self._end(worker)
            fix = "see what it printed; a script that is run must guard its calls with if __name__ == '__main__'"
            raise ResourceError("a worker process ends before it begins to work", fix)
        return worker

    def _end(self, worker: "_Worker") -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        with self._lock:
            self._processes.discard(worker.process)


class _Worker:
    """A process and the parent's end of its pipe."""

    def __init__(self, careful: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, careful), daemon=True)
        self.process.start()
        theirs.close()

    def is_ready(self) -> bool:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return False

    def call(self, work: _Work) -> tuple[bool, Any] | None:
        """Whether the function returned, and what, or what it raised; None where the worker died or has no memory."""
        try:
            self.pipe.send((work.function, work.arguments))
            answer = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return None if isinstance(answer[1], MemoryError) else answer


def _work(pipe: Connection, careful: bool) -> None:
    """A worker: answers until the pipe ends."""
    _begin(careful)
    pipe.send(True)
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, arguments = pipe.recv()
            try:
                with decoding.deadline(SECONDS):
                    answer = True, function(*arguments)
            except Exception as error:
                answer = False, error
            pipe.send(answer)


def _begin(careful: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.nice(10)  # the parent talks to a network, whose answers should not wait for a decoder
    decoding.limits.careful = careful
    decoding.limits.bounded = True
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + MEMORY if hard == resource.RLIM_INFINITY else min(used + MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        """End with a parent that is killed, even in the midst of a piece of work."""
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
