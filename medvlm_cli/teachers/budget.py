"""The cap: nothing is sent whose worst case would take a run above it."""

import asyncio
import contextlib

from medvlm_cli.core.errors import LaterError
from medvlm_cli.teachers.ledger import Money
from medvlm_cli.teachers.prices import NANO


class CapError(LaterError):
    """What is left to ask does not fit below the cap; everything that was answered is kept."""


class Halt:
    """Why a whole run stops, once it must; shared by all that ask in one event loop."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._told = asyncio.Event()

    def now(self, error: BaseException) -> None:
        """Nothing new is asked from here on; the first reason is kept."""
        self.error = self.error or error
        self._told.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the moment at which the run must stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), seconds)


class Budget:
    """The money of one run, for one event loop; amounts in nanodollars.

    Args:
        cap: what may be billed at most.
        money: what has been spent, may have been lost, and is under way, from the ledger.
    """

    def __init__(self, cap: int, money: Money) -> None:
        self.cap = cap
        self.spent = money.spent + money.lost
        self.reserved = money.reserved
        self.held = money.reserved
        """Of it, what batches hold: whoever asks alone would wait for them in vain."""
        self._changed = asyncio.Event()

    def admit(self, worst: int) -> bool:
        """Reserve an amount if it fits below the cap."""
        if worst and self.spent + self.reserved + worst > self.cap:
            return False
        self.reserved += worst
        return True

    async def reserve(self, worst: int) -> None:
        """Reserve an amount, waiting for requests under way to turn out cheaper than their worst case.

        Raises:
            CapError: nothing is under way but batches, and it does not fit.
        """
        while not self.admit(worst):
            if self.reserved <= self.held:
                raise self.over(worst)
            self._changed.clear()
            await self._changed.wait()

    def over(self, worst: int) -> CapError:
        """The error for a request that does not fit."""
        what = (
            f"the cap of ${self.cap / NANO:,.2f} is reached: ${self.spent / NANO:,.4f} spent, "
            f"and the next request may cost ${worst / NANO:,.4f}"
        )
        return CapError(what, "everything answered is kept; go on with the same command and a larger --max-cost")

    def settle(self, worst: int, cost: int) -> None:
        """What was reserved turned out to cost so much."""
        self.reserved -= worst
        self.spent += cost
        self._changed.set()
