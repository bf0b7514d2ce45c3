"""HTTP GET as a guest behaves: bounded, patient, suspicious of what it gets.

aiohttp does the talking and not an object-store client: those retry inside and show neither the headers nor the status
of an answer, so a ``Retry-After`` could not be honoured; and of the HTTP clients it costs the least CPU a request.

What is believed: a status of 200 with a body as long as announced that passes the caller's check.  A network error, a
timeout, a drip, 408, 425, 429 and 5xx are tried again after a pause that grows and is drawn at random (full jitter, as
the AWS architecture blog has it), or as long as ``Retry-After`` asks.  404 and 410 are an answer; 401 and 403 are one
too.  When nothing has succeeded for a while the circuit opens: every further request fails at once.
"""

import asyncio
import functools
import hashlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from medvlm_cli import __version__
from medvlm_cli.core import commit
from medvlm_cli.core.errors import RemoteError
from medvlm_cli.core.hosts import PublicResolver, followed, shown
from medvlm_cli.core.pace import Patience, Rate, Slots, retry_after

AGENT = f"medvlm/{__version__}"

_TICK = 0.005
_LATE = 0.004
"""Seconds that the event loop may be late before fewer requests are made."""
_FEWEST = 4
"""Requests under way that are always allowed."""

_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_GONE = {404, 410}
_FORBIDDEN = {401, 403}

Check = Callable[[bytes], str | None]
"""What is wrong with a body, in words; None for nothing."""


class GoneError(RemoteError):
    """There is no such object: 404 or 410."""


class FaultyError(RemoteError):
    """Every try of this one address failed; others may work, and so may this one later unless ``final``."""

    def __init__(self, what: str, final: bool = False) -> None:
        super().__init__(what, "run the same command again later: it resumes")
        self.final = final
        """Another try would give the same."""


class RefusedError(FaultyError):
    """The host answers, but not with this object: 401, 403, or another status that is no failure of its own."""

    def __init__(self, what: str) -> None:
        super().__init__(what, final=True)


class TooBigError(FaultyError):
    """The body is longer than the caller takes."""


class CircuitOpenError(RemoteError):
    """The host refuses, or nothing has succeeded for a while."""


class Http:
    """A client for one event loop; an asynchronous context manager.

    Args:
        connections: open at a time.
        patience: when to wait, to try again and to give up.
        redirects: how many are followed; only to https and to public addresses, unless the first address was neither.
    """

    def __init__(self, connections: int = 64, patience: Patience | None = None, redirects: int = 0) -> None:
        self.patience = patience or Patience()
        self.requests = 0
        """Tries so far."""
        self.bytes = 0
        """Bytes of bodies so far, wasted ones included."""
        self.retries = 0
        self.answers = 0
        """Requests that were answered well; that there is no such object is an answer."""
        self._slots = Slots(connections)
        self._redirects = redirects
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._governor: asyncio.Task | None = None
        self._failed = self._refused = 0
        self._succeeded = time.monotonic()
        self._open: CircuitOpenError | None = None
        # What the user configured may lie in the user's own network; where a redirect leads may not.
        self._trusted = {urlsplit(address).hostname or "" for address in getproxies().values()}

    async def __aenter__(self) -> "Http":
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.patience.connect)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, resolver=PublicResolver(self._trusted), ttl_dns_cache=300
            ),
            timeout=timeout,
            headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},  # a small gzip body may be a large one
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._governor = asyncio.create_task(self._govern())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None and self._governor is not None
        self._governor.cancel()
        await self._session.close()

    async def _govern(self) -> None:
        """Keep fewer requests under way while this process cannot keep up with the answers.

        Answers that wait in a socket are lost when the process is killed, and more of them make nothing faster.  How
        late the event loop wakes this task says how many wait; the network's own latency does not show in it.
        """
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(_TICK)
            late = loop.time() - began - _TICK
            if late > _LATE:
                self._slots.allow(max(_FEWEST, self._slots.allowed * 9 // 10))
            elif late < _LATE / 2:
                self._slots.allow(min(self._connections, self._slots.allowed + 1))

    async def get(
        self,
        url: str,
        *,
        limit: int,
        check: Check | None = None,
        params: Mapping[str, str] | None = None,
        rate: Rate | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        """The body of an object and the headers of the answer.

        Args:
            url: address without what is secret.
            limit: most bytes of the body; a longer one is an error and is not read.
            check: finds fault with a body; what it finds is tried again.
            params: the query; not shown in errors, because it may hold a key.
            rate: when a request may begin.

        Raises:
            GoneError: there is no such object.
            TooBigError: its body is over the limit.
            FaultyError: no try gave a whole body that passes the check.
            CircuitOpenError: the host refuses, or has not answered well for a while.
        """
        self._trusted.add(urlsplit(url).hostname or "")
        seen: Counter[bytes] = Counter()
        began = time.monotonic()
        for number in itertools.count():
            if number:
                self.retries += 1
            try:
                if rate is not None:
                    await rate.wait()
                body, headers = await self._once(url, limit, params)
            except _AgainError as error:
                trouble, pause = error.what, self._pause(number, error.after)
                if rate is not None and error.after:
                    rate.pause(error.after)
            else:
                complaint = check(body) if check else None
                if complaint is None:
                    self._good()
                    return body, headers
                trouble = complaint
                seen[hashlib.sha256(body).digest()] += 1
                pause = self._pause(number, 0)
            self._bad(url, trouble)
            out = self._succeeded < began and time.monotonic() - began < self.patience.outage and not seen
            if number + 1 >= self.patience.tries and not out:
                # An error page may come several times alike; what always came alike is the object itself.
                final = seen.total() == number + 1 and len(seen) == 1
                raise FaultyError(f"{shown(url)}: {trouble} ({number + 1} tries)", final)
            await asyncio.sleep(pause)
        raise AssertionError("the loop returns or raises")

    async def _once(self, url: str, limit: int, params: Mapping[str, str] | None) -> tuple[bytes, Mapping[str, str]]:
        """One try, redirects included."""
        for left in range(self._redirects, -1, -1):
            async with self._slots:
                if self._open is not None:
                    raise self._open
                self.requests += 1
                answer = await self._ask(url, limit, params)
            if isinstance(answer, tuple):
                return answer
            target = followed(url, answer) if left else None
            if target is None:
                raise FaultyError(f"{shown(url)}: redirects to {shown(answer)}, which is not followed", final=True)
            url, params = target, None
        raise AssertionError("the last turn returns or raises")

    async def _ask(
        self, url: str, limit: int, params: Mapping[str, str] | None
    ) -> tuple[bytes, Mapping[str, str]] | str:
        """The answer to one request, or the address it redirects to."""
        assert self._session is not None
        try:
            async with asyncio.timeout(self.patience.headers) as clock:
                async with self._session.get(
                    url, params=params, allow_redirects=False, proxy=_proxy(*urlsplit(url)[:2])
                ) as response:
                    clock.reschedule(None)
                    if response.status == 200:
                        return await self._body(response, url, limit), response.headers
                    return self._refusal(response, url)
        except (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise _AgainError(_words(error)) from error

    def _refusal(self, response: aiohttp.ClientResponse, url: str) -> str:
        """What follows from a status that is not 200: an address to go to, or an error."""
        status = response.status
        if status in _GONE:
            self._good()
            raise GoneError(f"{shown(url)}: not there (status {status})")
        if status in _FORBIDDEN:
            self._refused += 1
            what = f"{shown(url)}: refused (status {status})"
            if self._refused >= self.patience.refusals:
                raise self._break(what)
            raise RefusedError(what)
        if status in _AGAIN:
            raise _AgainError(f"status {status}", _asked_to_wait(response.headers.get("Retry-After"), self.patience))
        if 300 <= status < 400 and "Location" in response.headers:
            return response.headers["Location"]
        raise RefusedError(f"{shown(url)}: status {status}")

    async def _body(self, response: aiohttp.ClientResponse, url: str, limit: int) -> bytes:
        """The whole body; in every ``window`` at least ``window_bytes`` of it must come."""
        if (response.content_length or 0) > limit:
            raise TooBigError(f"{shown(url)}: {response.content_length:,} bytes, over the limit of {limit:,}", True)
        loop, pieces, size, began = asyncio.get_running_loop(), [], 0, 0
        end = loop.time() + self.patience.window
        while True:
            try:
                async with asyncio.timeout_at(end):
                    piece = await response.content.readany()
            except TimeoutError:
                piece = None
            if piece == b"":
                break
            if piece:
                pieces.append(piece)
                size += len(piece)
                self.bytes += len(piece)
            if size > limit:
                raise TooBigError(f"{shown(url)}: over the limit of {limit:,} bytes", final=True)
            if loop.time() >= end:
                if size - began < self.patience.window_bytes:
                    raise _AgainError(f"{size - began} bytes in {self.patience.window:g} s")
                end, began = loop.time() + self.patience.window, size
        return b"".join(pieces)

    def _pause(self, number: int, after: float) -> float:
        longest = min(self.patience.longest_pause, self.patience.first_pause * 2**number)
        return max(after, random.uniform(0, longest))

    def _good(self) -> None:
        self.answers += 1
        self._failed = self._refused = 0
        self._succeeded = time.monotonic()

    def _bad(self, url: str, trouble: str) -> None:
        self._failed += 1
        silence = time.monotonic() - self._succeeded
        if self._failed >= self.patience.failures and silence >= self.patience.silence:
            raise self._break(f"{shown(url)}: {trouble}; no answer was good for {silence:.0f} s")

    def _break(self, what: str) -> CircuitOpenError:
        self._open = CircuitOpenError(what, "try later with the same command: it resumes; or give another address")
        return self._open


class _AgainError(Exception):
    """A try failed in a way that the next may not; ``after``: seconds the host asks to wait."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.what = what
        self.after = after


@functools.lru_cache(maxsize=64)
def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host; looked up once, where aiohttp would for every request."""
    return None if proxy_bypass(host) else getproxies().get(scheme)


def md5_is(expected: str) -> Check:
    """A check of a body against an MD5 in hex."""

    def check(body: bytes) -> str | None:
        found = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if found == expected.lower():
            return None
        return f"md5 {found}, {expected} was stated" if body else "an empty body"

    return check


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        code = error.os_error.errno
        return f"cannot connect ({os.strerror(code) if code and code > 0 else error.os_error})"
    return type(error).__name__ if isinstance(error, aiohttp.ClientError) else str(error) or type(error).__name__


def _asked_to_wait(value: str | None, patience: Patience) -> float:
    """Seconds that a ``Retry-After`` asks for; raises where that is longer than anybody waits."""
    seconds = retry_after(value)
    if seconds > patience.longest_retry_after:
        raise CircuitOpenError(f"the host asks to wait {seconds:,.0f} s", "run the same command then: it resumes")
    return seconds


def download(url: str, path: Path, *, limit: int, sha256: str | None = None) -> None:
    """One file, whole or not at all; a file that is there is left as it is.

    Args:
        url: https address; redirects to public https addresses are followed.
        path: where it is to lie; its folder is made.
        limit: most bytes.
        sha256: of the file, in hex, where it is known.

    Raises:
        GoneError: it is not there.
        RemoteError: it is not to be had, or is not what ``sha256`` says.
        ResourceError: the disk refuses.
    """
    if path.exists():
        return

    def check(body: bytes) -> str | None:
        found = hashlib.sha256(body).hexdigest()
        return None if sha256 in (None, found) else f"sha256 {found}, {sha256} was expected"

    async def get() -> bytes:
        async with Http(1, redirects=5) as http:
            return (await http.get(url, limit=limit, check=check))[0]

    body = asyncio.run(get())
    commit.make_folder(path.parent)
    commit.write_bytes(path, body)
