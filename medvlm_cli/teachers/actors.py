"""Llama's servers asked from the actors of a Ray cluster (the extra ``cluster``); the ledger stays with the driver."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from medvlm_cli.core import cluster
from medvlm_cli.core.errors import MedVLMError, ResourceError
from medvlm_cli.teachers.replies import AgainError, Reply, RowError
from medvlm_cli.teachers.vllm import KEY, Servers

PER_ACTOR = 64
"""Requests that one actor has under way at a time."""


class _Actor:
    """In a process of the cluster: one client, many requests at a time."""

    def __init__(self, servers: Callable[..., Servers], connections: int, folder: str, key: str) -> None:
        os.chdir(folder)
        os.environ[KEY] = key  # a cluster that was there before us does not have it
        self._make = servers
        self._connections = connections
        self._servers: Servers | None = None

    async def ask(self, body: dict[str, Any]) -> tuple[str, Any]:
        """The reply, or what went wrong, in words that survive the way between two processes."""
        if self._servers is None:
            self._servers = self._make(connections=self._connections)
            await self._servers.__aenter__()
        try:
            return "reply", await self._servers.ask(body)
        except AgainError as error:
            return "again", (error.what, error.after, error.billed, error.busy)
        except RowError as error:
            return "row", (error.code, error.what)
        except MedVLMError as error:
            return "stop", (type(error), error.what, error.fix)


class Actors:
    """As many actors as the cluster has processors, at most; an asynchronous context manager.

    Args:
        servers: makes the client of the servers, given ``connections``.
        connections: requests under way at a time, over all actors.
        folder: in which paths mean what they mean here.

    Raises:
        ConfigError: Ray is not installed, or the cluster is not there.
    """

    def __init__(self, servers: Callable[..., Servers], connections: int, folder: str) -> None:
        self._servers, self._connections, self._folder = servers, connections, folder
        self._stack = ExitStack()
        self._actors: list[Any] = []
        self._next = 0

    async def __aenter__(self) -> "Actors":
        with _our_signals():
            processors = self._stack.enter_context(cluster.connected())
        import ray

        count = max(1, min(processors, -(-self._connections // PER_ACTOR)))
        each = -(-self._connections // count)
        make: Any = ray.remote(_Actor)
        make = make.options(num_cpus=1, max_concurrency=each, max_restarts=3)
        self._actors = [make.remote(self._servers, each, self._folder, os.environ.get(KEY, "")) for _ in range(count)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stack.close()

    async def ask(self, body: dict[str, Any]) -> Reply:
        """The answer to one request; raises as ``Servers.ask``.

        Raises:
            AgainError: the cluster lost the actor, which is started again.
        """
        import ray

        self._next = (self._next + 1) % len(self._actors)
        try:
            kind, told = await self._actors[self._next].ask.remote(body)
        except ray.exceptions.RayActorError as error:
            raise AgainError("the cluster lost an actor") from error
        except ray.exceptions.RayError as error:
            raise ResourceError(f"the cluster failed ({str(error).splitlines()[0]})") from error
        if kind == "reply":
            return told
        if kind == "again":
            what, after, billed, busy = told
            raise AgainError(what, after, billed=billed, busy=busy)
        if kind == "row":
            raise RowError(*told)
        made, what, fix = told
        raise made(what, fix)


@contextmanager
def _our_signals() -> Iterator[None]:
    """Ray takes SIGTERM for a crash and aborts the process; afterwards it ends the run in good order again."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
