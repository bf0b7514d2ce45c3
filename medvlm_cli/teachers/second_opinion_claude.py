"""Claude as the judge of open answers: what it may cost is said, and held against the cap, before it is asked."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from medvlm_cli.core.errors import ConfigError, MedVLMError
from medvlm_cli.core.pace import Patience
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.asks import FRAME_TOKENS
from medvlm_cli.teachers.budget import Budget, Halt
from medvlm_cli.teachers.calls import Calls
from medvlm_cli.teachers.claude import KEY, Claude, base_url, has_key
from medvlm_cli.teachers.entries import Money
from medvlm_cli.teachers.prices import NANO, dollars, price_of
from medvlm_cli.teachers.replies import AgainError, Reply
from medvlm_cli.teachers.second_opinion import PROMPT, Case, Keep, read_reply

MODEL = "claude-haiku-5-5"
"""Where none is named: a yes or no needs no more."""
MAX_TOKENS = 256
"""Of one answer, thinking included."""
CONNECTIONS = 8
TIMEOUT = 60.0
"""Seconds that one answer may take."""


class ClaudeJudge:
    """Asks about one case a message; see ``second_opinion.Judge``.

    Args:
        model: name that the API knows; empty: ``MODEL``.
        tell: told the most it may cost.
        max_cost: dollars.
        patience: how often and how long a failed call is tried again.

    Raises:
        ConfigError: no key, or nobody knows the price of the model.
    """

    def __init__(self, model: str, tell: Tell, max_cost: float, patience: Patience | None = None) -> None:
        if not has_key():
            raise ConfigError(f"no key for Claude: {KEY} is not set", f"export {KEY}=..., or give --judge FOLDER")
        self.model = model or MODEL
        self.label = f"claude:{self.model}"
        self._price = price_of(self.model)
        self._tell = tell
        self._max_cost = max_cost
        self._patience = patience or Patience(failures=6)

    def judge(self, cases: Sequence[Case], keep: Keep) -> None:
        """Ask about every case.

        Raises:
            ConfigError: all of them together may cost more than the cap.
            RemoteError: Claude refuses, or does not answer.
            CapError: tries that failed, and may be billed all the same, took what the cap allows.
        """
        most = dollars(sum(map(self._worst, cases)))
        said = f"{len(cases):,} answers by {self.model} cost ${most:,.2f} at most, at prices of {self._price.dated}"
        if most > self._max_cost:
            raise ConfigError(f"--judge: {said}; the cap is ${self._max_cost:,.2f}", f"--max-cost {most:.2f} or more")
        self._tell(f"judge: {said}", 0, len(cases))
        asyncio.run(self._judge(cases, keep))

    def _worst(self, case: Case) -> int:
        """The most that a case can be billed, in nanodollars: a token is a byte or longer."""
        return self._price.most(len((PROMPT + case.text).encode()) + FRAME_TOKENS, MAX_TOKENS, kept=0, batch=False)

    async def _judge(self, cases: Sequence[Case], keep: Keep) -> None:
        halt, todo = Halt(), iter(cases)
        budget = Budget(int(self._max_cost * NANO), Money(0, 0, 0))
        async with Claude(base_url(""), connections=CONNECTIONS, timeout=TIMEOUT) as claude:
            # one that fails stops all, but what is under way is paid for and so is waited for
            await asyncio.gather(*(self._work(claude, todo, keep, budget, halt) for _ in range(CONNECTIONS)))
        if halt.error is not None:
            raise halt.error

    async def _work(self, claude: Claude, todo: Iterator[Case], keep: Keep, budget: Budget, halt: Halt) -> None:
        for case in todo:
            if halt.error is not None:
                return
            try:
                await self._one(claude, case, keep, budget, halt)
            except MedVLMError as error:
                halt.now(error)

    async def _one(self, claude: Claude, case: Case, keep: Keep, budget: Budget, halt: Halt) -> None:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": MAX_TOKENS,
            "system": PROMPT,
            "messages": [{"role": "user", "content": case.text}],
            "output_config": {"effort": "low"},
        }
        worst = self._worst(case)

        async def ask() -> Reply:
            await budget.reserve(worst)
            cost = 0
            try:
                reply = await claude.ask(body)
                cost = self._price.cost(reply.usage, batch=False)
            except AgainError as error:
                cost = worst if error.billed else 0
                raise
            finally:
                budget.settle(worst, cost)
            return reply

        reply = await Calls(self._patience, halt, self._tell).patiently(ask)
        keep(read_reply(case.key, reply.text, dollars(self._price.cost(reply.usage, batch=False))))
