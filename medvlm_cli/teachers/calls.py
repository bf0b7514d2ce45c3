"""How Message Batches are cut and waited for, and how often a call about them is repeated."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from medvlm_cli.core.errors import RemoteError
from medvlm_cli.core.pace import Patience
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.budget import Halt
from medvlm_cli.teachers.desk import STALE, WAIT
from medvlm_cli.teachers.replies import AgainError, RowError

BYTES = 250_000_000
"""A batch is at most so large; Anthropic takes 256 MB."""

Given = TypeVar("Given")


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How batches are cut and waited for; times in seconds."""

    rows: int
    """Requests of a batch, about."""
    poll: float
    """Between two looks at a batch."""
    settle: float
    """Until a batch that is not listed is taken for one that was never made."""
    bytes: int = BYTES
    """Of a batch at most, as JSON."""
    repay: bool = False
    """Ask, and pay, again where results are gone."""
    make: bool = True
    """Whether batches are made; else those that are there are brought to their end."""


class Calls:
    """Repeats what may be repeated without harm, until the run must stop.

    Args:
        patience: how often and how long to try.
        halt: says when the whole run must stop.
        tell: told why it waits.
    """

    def __init__(self, patience: Patience, halt: Halt, tell: Tell = lambda phase, done, total: None) -> None:
        self._patience, self._halt, self._tell = patience, halt, tell
        self._began = 0.0

    async def patiently(self, call: Callable[[], Awaitable[Given]]) -> Given:
        """The answer to a call.

        Raises:
            RemoteError: no try was answered.
        """
        for number in range(1, self._patience.failures + 1):
            try:
                return await call()
            except AgainError as error:
                trouble = error
            except RowError as error:
                raise RemoteError(f"Anthropic refuses: {error.what}") from error
            if number == self._patience.failures or self._halt.error is not None:
                break
            await self.pause(number, trouble)
        what = f"claude: {number} failures in a row, the last: {trouble.what}"
        raise RemoteError(what, "run the same command again later: it resumes")

    async def pause(self, number: int, trouble: AgainError) -> None:
        """Wait after the nth failure in a row: full jitter, or as long as the host asks for, ``WAIT`` seconds at most.

        Raises:
            RemoteError: the first of them is ``STALE`` seconds ago.
        """
        now = time.monotonic()
        self._began = now if number == 1 else self._began
        asks = f"; it asks to wait {trouble.after:,.0f} s" if trouble.after else ""
        if now - self._began >= STALE:
            what = f"claude: {number} failures in a row, the last: {trouble.what}{asks}"
            raise RemoteError(what, "run the same command again later: it resumes")
        if trouble.after:
            self._tell(f"claude: waits {min(WAIT, trouble.after):.0f} s ({trouble.what}{asks})", 0, None)
        longest = min(self._patience.longest_pause, self._patience.first_pause * 2 ** (number - 1))
        await self._halt.sleep(min(WAIT, max(trouble.after, random.uniform(0, longest))))
