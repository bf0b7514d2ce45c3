"""What tests of Message Batches share: requests, a ledger, the real client, and a process that dies."""

import asyncio
import contextlib
import hashlib
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace

from medvlm_cli.core import commit
from medvlm_cli.core.errors import MedVLMError
from medvlm_cli.core.pace import Patience
from medvlm_cli.teachers.batches import Batches, Rhythm
from medvlm_cli.teachers.budget import Budget, Halt
from medvlm_cli.teachers.claude import Claude
from medvlm_cli.teachers.desk import Teacher
from medvlm_cli.teachers.ledger import Ask, Ledger, Money
from medvlm_cli.teachers.prices import NANO, price_of
from tests.anthropic_server import token_of

MODEL = "claude-opus-5-5"
PRICE = price_of(MODEL)
MOST = 1000
"""Tokens of an answer, at most."""
PATIENCE = Patience(tries=4, first_pause=0.001, longest_pause=0.01, failures=6, silence=0.05)
RHYTHM = Rhythm(rows=10, poll=0.01, settle=0.1)
ENOUGH = 10**6 * NANO


def ask(number):
    """A request of its own for each number."""
    return Ask(hashlib.sha256(str(number).encode()).hexdigest(), f"PMC{number}/fig1", "teach", "claude", MODEL)


def body(one):
    said = [{"role": "user", "content": f"Figure Caption: number {one.figure_id} of many"}]
    return {"model": MODEL, "max_tokens": MOST, "system": "Write a conversation.", "messages": said}


TEACHER = Teacher(
    name="claude",
    ask=None,  # nobody is asked alone here
    worst=lambda one: PRICE.most(200, MOST, kept=0, batch=True),
    cost=lambda usage: PRICE.cost(usage, batch=True),
)


@dataclass
class Ran:
    """What one process left."""

    error: BaseException | None
    money: Money
    budget: Budget
    answers: dict
    """Figure -> the answer's text."""
    failures: dict
    """Figure -> code and message."""
    attempts: dict
    """Figure -> batches that its request was put into."""
    shards: list
    told: list


def left_by(ledger, error=None, budget=None, told=()):
    """What is in a ledger."""
    answered = list(ledger.answered())
    failed = {
        one.figure_id: ledger.failures_about(one.figure_id) for one, state, *_ in ledger.asks() if state == "failed"
    }
    return Ran(
        error, ledger.money(), budget, {one.ask.figure_id: one.reply.text for one in answered},
        {figure_id: codes[0] for figure_id, codes in failed.items()},
        {one.ask.figure_id: one.attempts for one in answered}, ledger.shards(), list(told),
    )  # fmt: skip


@contextmanager
def keyed():
    """The loopback server's key in the environment, and nobody else's."""
    before = os.environ.get("ANTHROPIC_API_KEY")
    os.environ["ANTHROPIC_API_KEY"] = "test-key"
    try:
        yield
    finally:
        os.environ.pop("ANTHROPIC_API_KEY")
        if before is not None:
            os.environ["ANTHROPIC_API_KEY"] = before


def client(server, kind=Claude, timeout=10):
    with keyed():
        return kind(server.url, connections=4, timeout=timeout)


async def process(folder, claude, count, *, run="run", cap=ENOUGH, kind=Ledger, end=None, **rhythm):
    """What one process does with some requests, and what it leaves.

    Args:
        folder: of the ledger.
        claude: the client.
        count: how many requests, or their numbers.
        run: its name.
        cap: nanodollars.
        kind: of ledger.
        end: ``cancel``: end what is under way; ``death``: die once batches are under way.
        rhythm: what differs from ``RHYTHM``.
    """
    told, halt, error = [], Halt(), None

    def tell(phase, done, total):
        told.append((phase, done, total))
        if end == "death" and "under way" in phase:
            raise Killed

    with kind(folder) as ledger:
        with ledger.transaction():
            ledger.begin(run, map(ask, count if isinstance(count, range) else range(count)))
            ledger.note("run", run)
        budget = Budget(cap, ledger.money())
        batches = Batches(claude, TEACHER, body, ledger, budget, halt)
        try:
            if end == "cancel":
                told.append(await batches.cancel(PATIENCE, replace(RHYTHM, **rhythm)))
            else:
                await batches.run(PATIENCE, replace(RHYTHM, **rhythm), tell)
        except MedVLMError as caught:
            error = caught
        return left_by(ledger, error or halt.error, budget, told)


def go(folder, server, count=20, *, timeout=10, until=None, **given):
    """One process with a client of its own; ``until`` says when to end it without a word.  None if it was ended."""

    async def run():
        async with client(server, timeout=timeout) as claude, asyncio.timeout(60):
            task = asyncio.create_task(process(folder, claude, count, **given))
            while not (task.done() or (until and until())):
                await asyncio.wait([task], timeout=0.005)
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Killed):
                return await task

    return asyncio.run(run())


def left_under_way(folder, server, count, **given):
    """A process that died while its batches were under way."""
    assert go(folder, server, count, end="death", **given) is None
    assert server.batches


def in_turn(pattern, *names):
    """For ``fault``: what goes wrong with the first, second ... request whose "METHOD /path" has this pattern in it."""
    left = list(names)

    def fault(number, method, path):
        return left.pop(0) if left and re.search(pattern, f"{method} {path}") else None

    return fault


CREATE = "POST .*/batches$"
RESULTS = "GET .*/results$"
LOOK = r"GET .*/msgbatch_\w+$"
LIST = "GET .*/batches$"


def strangers(server, count, rows):
    """Batches that another client of the same account makes, of requests that are refused; their ids."""
    requests = [{"custom_id": f"other-{number}", "params": {"model": "unknown"}} for number in range(rows)]

    async def make():
        async with client(server) as claude:
            return [(await claude.create(requests))["id"] for _ in range(count)]

    return asyncio.run(make())


def end_all(server, but=0):
    """End every batch of the server's now, but the first so many."""
    server._in_loop(lambda: [server._end(batch) for batch in list(server.batches.values())[but:]])


def is_right(figure_id, text):
    """Whether a text is the server's answer to this figure's request."""
    return token_of(body(Ask("", figure_id, "", "", ""))["messages"][0]["content"]) in text


def wrong(ran):
    """Figures with an answer to something else."""
    return [figure_id for figure_id, text in ran.answers.items() if not is_right(figure_id, text)]


def nano(server):
    """What the server has billed, in nanodollars."""
    return round(server.billed_usd * NANO)


# ---------------------------------------------------------------------- a process that dies


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs after it reaches disk or network."""


class Death:
    """Kills at the nth moment at which something durable happens; and, once dead, stays dead.

    There is a moment before and one after each of them, so a batch that was made but whose answer was not noted is one
    of the things that it leaves behind.
    """

    def __init__(self):
        self.at, self.moments = None, 0

    def passes(self):
        """One more moment."""
        self.moments += 1
        if self.at is not None and self.moments >= self.at:
            raise Killed

    def set(self, at):
        self.at, self.moments = at, 0

    def ledger(death):
        class Mortal(Ledger):
            @contextmanager
            def transaction(self):
                outermost = not self._db.in_transaction
                if outermost:
                    death.passes()
                with super().transaction() as db:
                    yield db
                if outermost:
                    death.passes()

        return Mortal

    def claude(death):
        class Mortal(Claude):
            async def create(self, requests):
                death.passes()
                made = await super().create(requests)
                death.passes()
                return made

            async def cancel(self, batch_id):
                death.passes()
                ended = await super().cancel(batch_id)
                death.passes()
                return ended

            async def download(self, batch, path):
                death.passes()
                await super().download(batch, path)
                death.passes()

        return Mortal

    def remove(self, path):
        self.passes()
        _REMOVE(path)
        self.passes()


_REMOVE = commit.remove
