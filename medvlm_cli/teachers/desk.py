"""Asks one teacher, request by request, many at a time: paced, tried again, stopped when it must stop.

A request keeps its place until its answer is on disk, so at most ``connections`` answers can be lost to a kill.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from medvlm_cli.core.errors import MedVLMError, RemoteError
from medvlm_cli.core.pace import Patience, Slots
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.budget import Budget, CapError, Halt
from medvlm_cli.teachers.ledger import Ask, Ledger, New
from medvlm_cli.teachers.replies import AgainError, Reply, RowError, Usage

WAIT = 300.0
"""Seconds that are waited at a time, whatever a host asks for; then it is asked again."""
STALE = 600.0
"""Seconds without a single answer after which the run stops."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """How one teacher is asked and what it costs."""

    name: str
    ask: Callable[[Ask], Awaitable[Reply]]
    """Raises ``AgainError``, ``RowError``, or what ends the run."""
    worst: Callable[[Ask], int]
    """The most that one try can cost, in nanodollars; 0 for a teacher that is free."""
    cost: Callable[[Usage], int]


class Desk:
    """One teacher, its ledger and its pace.

    Args:
        teacher: whom to ask.
        ledger: where everything is written down.
        budget: what may be spent.
        halt: says when the whole run must stop.
        patience: how often and how long to try.
        connections: requests at a time, at most.
    """

    def __init__(
        self, teacher: Teacher, ledger: Ledger, budget: Budget, halt: Halt, patience: Patience, connections: int
    ) -> None:
        self._teacher, self._ledger, self._budget, self._halt = teacher, ledger, budget, halt
        self._patience = patience
        self._most = connections
        self._slots = Slots(connections)
        self._writer = _Writer(ledger)
        self._full: CapError | None = None
        self._not_before = self._halved = 0.0
        self._failed_in_a_row = self._good_since = 0
        self._succeeded = time.monotonic()
        self._done = self._total = 0
        self._unanswered: list[tuple[str, str]] = []
        self._tell: Tell = lambda phase, done, total: None

    async def run(self, asks: Iterable[Ask], total: int, tell: Tell) -> None:
        """Ask everything; what cannot be answered now is noted as such in the ledger.

        Where the whole run must stop, ``halt`` says so afterwards, and nothing is raised.

        Args:
            asks: taken one at a time.
            total: how many there are.
            tell: told how many are done, and why it waits.

        Raises:
            CapError: the rest does not fit below the cap.
        """
        self._done, self._total, self._tell = 0, total, tell
        self._succeeded = time.monotonic()
        tell(self._teacher.name, 0, total)
        waiting = iter(asks)
        async with self._writer, asyncio.TaskGroup() as group:
            for _ in range(min(self._most, max(total, 1))):
                group.create_task(self._work(waiting))
        if self._halt.error is None:
            self._blame()
        if self._full is not None:
            raise self._full

    @property
    def _stopped(self) -> bool:
        return self._full is not None or self._halt.error is not None

    async def _work(self, waiting: Iterator[Ask]) -> None:
        """One after the other; when the run must stop, nothing new is sent and what was sent is waited for."""
        while not self._stopped and (ask := next(waiting, None)) is not None:
            try:
                await self._one(ask)
            except MedVLMError as error:
                if isinstance(error, CapError):
                    self._full = error
                else:
                    self._halt.now(error)
                with contextlib.suppress(MedVLMError):  # a full disk takes this no more than what came before
                    self._ledger.reopen([ask.key])
                return
            self._done += 1
            self._tell(self._teacher.name, self._done, self._total)

    async def _one(self, ask: Ask) -> None:
        """One request until it is answered, refused for good, or was tried often enough."""
        worst = self._teacher.worst(ask)
        held = await self._hold(ask, worst)
        try:
            for number in range(1, self._patience.tries + 1):
                async with self._slots:
                    await self._turn()
                    if self._stopped:
                        return self._ledger.reopen([ask.key])
                    try:
                        reply = await self._teacher.ask(ask)
                    except AgainError as error:
                        trouble = error
                    except RowError as error:
                        self._good()
                        return self._ledger.fail(ask.key, error.code, error.what, final=True, tries=number)
                    else:
                        self._good()
                        if reply.rest > 0:
                            self._all_wait(reply.rest, "its limit is used up")
                        cost = self._teacher.cost(reply.usage)
                        held = self._pay(held, cost)
                        return await self._writer.answer((ask.key, reply, cost, False, number))
                if trouble.billed and worst:  # the next try needs a reservation of its own
                    self._ledger.lose(ask.key, worst, trouble.what)
                    held = self._pay(held, worst)
                self._note(trouble)
                if number < self._patience.tries:
                    await self._pause(number, trouble)
                    held = held or await self._hold(ask, worst)
            self._ledger.reopen([ask.key])
            self._unanswered.append((ask.key, trouble.what))
        finally:
            self._pay(held, 0)

    def _blame(self) -> None:
        """What was not answered has failed, for the host answers others; where it answers nobody, it is at fault."""
        for key, what in self._unanswered:
            self._ledger.fail(key, "unavailable", what, final=False, tries=self._patience.tries)
        self._unanswered.clear()

    async def _hold(self, ask: Ask, worst: int) -> int:
        """Reserve what a try may cost, in the budget and on disk."""
        await self._budget.reserve(worst)
        if worst:
            await self._writer.send(ask.key, worst)
        return worst

    def _pay(self, held: int, cost: int) -> int:
        """What was held turned out to cost so much; nothing is held any more."""
        if held:
            self._budget.settle(held, cost)
        return 0

    def _note(self, trouble: AgainError) -> None:
        """Count a failed try; stop where nothing works any more."""
        self._failed_in_a_row += 1
        now = time.monotonic()
        if trouble.busy and now - self._halved > self._patience.first_pause:  # one crowd counts once
            self._slots.allow(max(1, self._slots.allowed // 2))
            self._halved = now
        silence = now - self._succeeded
        if (self._failed_in_a_row >= self._patience.failures and silence >= self._patience.silence) or silence >= STALE:
            asks = f"; it asks to wait {trouble.after:,.0f} s" if trouble.after else ""
            what = f"{self._teacher.name}: {self._failed_in_a_row} failures in a row, the last: {trouble.what}{asks}"
            self._halt.now(RemoteError(what, "run the same command again later: it resumes"))

    def _good(self) -> None:
        """The host works: after as many answers as requests are allowed, one more is allowed."""
        self._blame()
        self._failed_in_a_row = 0
        self._succeeded = time.monotonic()
        self._good_since += 1
        if self._good_since >= self._slots.allowed:
            self._good_since = 0
            self._slots.allow(min(self._most, self._slots.allowed + 1))

    async def _pause(self, number: int, trouble: AgainError) -> None:
        """Full jitter; where the host says how long, everybody waits so long, and who failed the longer of both."""
        longest = min(self._patience.longest_pause, self._patience.first_pause * 2 ** (number - 1))
        if trouble.after:
            self._all_wait(trouble.after, trouble.what)
        await self._halt.sleep(random.uniform(0, longest))

    def _all_wait(self, asked: float, why: str) -> None:
        """Send nothing for so long, ``WAIT`` seconds at most, and say so once for all who hear it at the same time."""
        now = time.monotonic()
        until = now + min(asked, WAIT)
        if self._not_before <= now or until > self._not_before + 1:
            said = f"{self._teacher.name}: waits {until - now:.0f} s ({why}; it asks for {asked:,.0f} s)"
            self._tell(said, self._done, self._total)
        self._not_before = max(self._not_before, until)

    async def _turn(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0 and not self._stopped:
            await self._halt.sleep(min(left, 1.0))


class _Writer:
    """Writes of many requests in one transaction each time the disk is free; an asynchronous context manager."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sends: list[tuple[str, int]] = []
        self._answers: list[New] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "_Writer":
        self._task = asyncio.create_task(self._loop())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def send(self, key: str, worst: int) -> None:
        """Return once the ledger holds that this request is about to leave."""
        self._sends.append((key, worst))
        await self._written()

    async def answer(self, answer: New) -> None:
        """Return once the ledger holds this answer."""
        self._answers.append(answer)
        await self._written()

    async def _written(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wake.set()
        await done

    async def _loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(0)  # whoever is ready in this turn of the loop comes along
            sends, answers, waiting = self._sends, self._answers, self._waiting
            self._sends, self._answers, self._waiting = [], [], []
            try:
                with self._ledger.transaction():
                    self._ledger.send(sends)
                    self._ledger.answer(answers)
            except BaseException as error:
                for done in waiting:
                    if not done.done():
                        done.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                if not isinstance(error, Exception):
                    raise
            else:
                for done in waiting:
                    if not done.done():
                        done.set_result(None)
