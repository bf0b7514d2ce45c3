"""How often, how many at a time, how long: what keeps a client from being a nuisance, and from drowning."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a client waits and how often it tries; times in seconds."""

    tries: int = 6
    first_pause: float = 0.25
    longest_pause: float = 30.0
    longest_retry_after: float = 600.0
    """A host that asks for a longer pause is not waited for."""
    connect: float = 10.0
    headers: float = 15.0
    window: float = 2.0
    window_bytes: int = 2048
    """A body slower than ``window_bytes`` in a ``window`` is a drip, and given up."""
    failures: int = 20
    """The circuit opens after so many failed tries in a row ..."""
    silence: float = 20.0
    """... if the last success is as long ago as this."""
    outage: float = 0.0
    """While nothing succeeds, a request is tried on until it has lasted so long: the host is at fault, not it."""
    refusals: int = 5
    """It opens at once after so many 401 and 403 in a row."""


class Rate:
    """A token bucket of one token: never more than ``per_second`` requests begin in any second."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1.2 / per_second  # the slack is for what the network does to the distance of two requests
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next request may begin."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + self._gap
        await asyncio.sleep(start - now)

    def pause(self, seconds: float) -> None:
        """Let nobody begin for so long: what a 429 asks of all."""
        self._next = max(self._next, time.monotonic() + seconds)


class Slots:
    """A semaphore whose size may change; an asynchronous context manager."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._used < self.allowed:
            self._used += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._used -= 1
        self._wake()

    def allow(self, allowed: int) -> None:
        """Let so many in from now on; who is in stays."""
        self.allowed = allowed
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._used < self.allowed:
            turn = self._waiting.popleft()
            if not turn.done():
                self._used += 1
                turn.set_result(None)


def retry_after(value: str | None) -> float:
    """Seconds that a ``Retry-After`` asks for, given in seconds or as a date (RFC 9110, 10.2.3); 0 for nonsense."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return seconds if 0 <= seconds < float("inf") else 0.0
