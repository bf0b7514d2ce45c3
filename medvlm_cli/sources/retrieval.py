"""Many articles out of the bucket at once, handed over in order: network, processors and disk all kept busy.

A thread of its own runs the event loop.  Each article goes through four steps: its XML is fetched, a worker reads it,
the images that it wants are fetched, a worker decodes them.  Articles overlap.  One that is slow holds up those behind
it in the order, but not the network: they are finished and wait, as long as their images fit into ``HELD_BYTES``.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from medvlm_cli.core import parts
from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.crew import Crew, WorkerDiedError
from medvlm_cli.core.errors import LaterError, RemoteError
from medvlm_cli.core.hosts import shown
from medvlm_cli.core.http import CircuitOpenError, Http
from medvlm_cli.core.pace import Patience
from medvlm_cli.sources import reading
from medvlm_cli.sources.bucket import Bucket, BucketPlace
from medvlm_cli.sources.ledger import Ledger, Versions
from medvlm_cli.sources.reading import Reading

AHEAD = 4
"""Articles under way for each connection: enough that those which wait for a slow answer leave no connection idle."""
HELD_BYTES = 512 << 20
PULSE_SECONDS = 5.0
"""How often a bucket is asked whether it is there, well within the silence after which it counts as gone."""


_LATER = "run the same command again: it asks for these alone, and gives them up if they fail a second time"


class Retrieval:
    """The harvests of articles, in the order of their keys; a context manager.

    Args:
        keys: the articles to get, in order.
        config: address of the bucket, connections, tries; what ``reading`` asks for.
        crew: workers that parse and decode.
        known: versions of articles, where the selection told them.
        reads: what reads an article instead of ``reading.read``.
        ready: harvests of keys that are no articles.
        died: the harvest of an article, and words, when reading it killed its process.
    """

    def __init__(
        self,
        keys: Sequence[str],
        config: FetchConfig,
        crew: Crew,
        *,
        known: Mapping[str, Versions] | None = None,
        reads: Mapping[str, Callable[..., Reading]] | None = None,
        ready: Mapping[str, Harvest] | None = None,
        died: Callable[[str, str], Harvest] = lambda key, what: Harvest(
            1, [], [Reject(key, "unreadable_article", what)]
        ),
    ) -> None:
        self._keys = list(keys)
        self._known = known or {}
        self._reads = reads or {}
        self._ready = ready or {}
        self._died = died
        self._config = config
        self._crew = crew
        part = parts.name(*parts.parse(config.shard)) if config.shard else "whole"
        self._ledger = Ledger(Path(config.cache) / "ledger" / part, self._keys)
        self._promises: dict[str, Future[Harvest | None]] = {}
        """Of articles begun or waited for; of millions, only a few at a time."""
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._committed: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._under_way = 0
        self._held = 0
        """Bytes of images that are finished and not taken."""
        self._change = asyncio.Event()
        self._task: asyncio.Task | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._http: Http | None = None
        self._said = ""
        """What was said of the last object that could not be had."""

    def __enter__(self) -> "Retrieval":
        if self._keys:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keys:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop)
            self._thread.join()
        self._loop.close()
        self._ledger.release(self._committed)
        self._ledger.close()

    def harvests(self, keys: Sequence[str]) -> Iterator[Harvest]:
        """What each of the next keys gave.

        Raises:
            LaterError: after all others, where something could not be had that another run may get; a second run in
                which it cannot be had either makes a reject of it.
            CircuitOpenError: the bucket refuses, or has not answered well for a while, or never.
            ResourceError: the disk refuses.
        """
        postponed = []
        for key in keys:
            harvest = self._promise(key).result()
            with self._lock:
                del self._promises[key]
            with contextlib.suppress(RuntimeError):  # all is done, and the loop closed
                self._loop.call_soon_threadsafe(self._hold, -_size(harvest))
            if harvest is None:
                postponed.append(key)
            else:
                yield harvest
        if self._http is not None and self._http.requests and not self._http.answers:
            # nothing of this is to be written down as what became of the articles
            what = f"{shown(self._config.bucket)} did not answer one of {self._http.requests:,} requests ({self._said})"
            raise CircuitOpenError(what, "try later with the same command; or give another address with --set bucket=")
        if postponed:
            what = f"of {len(postponed):,} articles something could not be had just now ({self._said})"
            raise LaterError(what, _LATER, len(postponed))

    def spent(self) -> dict[str, int]:
        """Requests, bytes of bodies and tries that were repeated, so far."""
        http = self._http
        return {"requests": http.requests, "bytes": http.bytes, "retries": http.retries} if http is not None else {}

    def forget(self, keys: Sequence[str]) -> None:
        """Remove what is cached of articles whose rows are committed."""
        self._committed += keys
        with contextlib.suppress(RuntimeError):  # all is done, and the loop closed; ``__exit__`` does it
            self._loop.call_soon_threadsafe(self._ledger.release, list(keys))  # the ledger is that thread's

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._all())
        try:
            self._loop.run_until_complete(self._task)
        except BaseException as error:
            first = error
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            with self._lock:
                self._failure = first
                for promise in self._promises.values():
                    if not promise.done():
                        promise.set_exception(first)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _promise(self, key: str) -> Future[Harvest | None]:
        """Of an article, whether it is asked for before or after it is begun; either thread may call."""
        with self._lock:
            promise = self._promises.setdefault(key, Future())
            if self._failure is not None and not promise.done():
                promise.set_exception(self._failure)
            return promise

    async def _all(self) -> None:
        tries = self._config.tries
        async with Http(self._config.connections, Patience(tries=tries, outage=4.0 * (tries - 1))) as self._http:
            bucket = Bucket(self._config.bucket, self._http, self._ledger)
            if any(not self._known.get(key) or self._ledger.has_failed(key) for key in self._keys):
                await bucket.probe()
            async with contextlib.AsyncExitStack() as last, asyncio.TaskGroup() as group:
                for key in self._keys:
                    await self._may_begin()
                    if key in self._ready:
                        self._promise(key).set_result(self._ready[key])
                        continue
                    self._under_way += 1
                    group.create_task(self._one(bucket, key))
                last.callback(asyncio.create_task(_pulse(bucket)).cancel)

    async def _may_begin(self) -> None:
        while self._under_way >= AHEAD * self._config.connections or self._held > HELD_BYTES:
            self._change.clear()
            await self._change.wait()

    def _hold(self, size: int) -> None:
        """So many bytes more are finished and not taken; by the loop's thread."""
        self._held += size
        self._change.set()

    async def _one(self, bucket: Bucket, key: str) -> None:
        place = await bucket.place(key, self._known.get(key, []))
        harvest: Harvest | None = await self._harvest(bucket, key, place)
        self._under_way -= 1
        said = next((what for reason, what in place.lost.values() if reason == "unavailable"), "")
        if said and not place.gone:
            self._said = said
            if not self._ledger.has_failed(key):
                self._ledger.failed(key)
                harvest = None
        self._hold(_size(harvest))
        self._promise(key).set_result(harvest)

    async def _harvest(self, bucket: Bucket, key: str, place: BucketPlace) -> Harvest:
        """Read, get the images that are wanted, decode."""
        try:
            read = self._reads.get(key, reading.read)
            found: Reading = await asyncio.wrap_future(self._crew.submit(read, key, place, self._config))
            await bucket.images(place, found.wanted())
            return await asyncio.wrap_future(self._crew.submit(reading.finish, found, place, self._config))
        except WorkerDiedError:
            return self._died(key, f"{place.name}: reading it killed its process twice")


async def _pulse(bucket: Bucket) -> None:
    """Ask a bucket again and again whether it is there, while the last articles are under way.

    Where all that is left are objects that fail, nothing else would tell them from a bucket that is gone, and the run
    would end each time before it gave them up.  Earlier the many other answers tell.
    """
    with contextlib.suppress(RemoteError):
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            await bucket.probe()


def _size(harvest: Harvest | None) -> int:
    """Bytes of the images of a harvest."""
    images = [image for row in harvest.rows for image in (row["image"], *row["more_images"])] if harvest else []
    return sum(len(image["bytes"]) for image in images)
