"""Have everything that a run wants to know answered: both teachers at once, each by its own way."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import MedVLMError, RemoteError
from medvlm_cli.core.pace import Patience
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.asks import Composer, Family
from medvlm_cli.teachers.batches import Batches, Rhythm
from medvlm_cli.teachers.budget import Budget, Halt
from medvlm_cli.teachers.claude import Claude, UnknownError, base_url
from medvlm_cli.teachers.desk import Desk, Teacher
from medvlm_cli.teachers.ledger import Ask, Ledger
from medvlm_cli.teachers.prices import NANO, Price, price_of
from medvlm_cli.teachers.replies import AgainError, RowError
from medvlm_cli.teachers.vllm import Servers

COUNTED = 50
"""Requests whose tokens are counted, free of charge, before any is sent."""
QUIET = 30.0
"""Seconds after which the last thing that was told is told again, so that a long wait does not look like a hang."""


class Interrupted(BaseException):
    """A signal asked the run to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(kw_only=True)
class Work:
    """What is to be asked, of whom, and where it is written down."""

    config: SynthesizeConfig
    composer: Composer
    families: dict[str, Family]
    ledger: Ledger
    user_of: Callable[[Ask], str]
    """The user's message of a request."""
    tell: Tell
    purpose: str = "teach"

    def open(self, name: str) -> list[Ask]:
        """What is still to be asked of one teacher."""
        return self.ledger.open_asks(name, self.purpose)


def patience_of(config: SynthesizeConfig) -> Patience:
    """How often and how long to try, by the settings."""
    return Patience(
        tries=config.tries,
        first_pause=config.pause,
        longest_pause=60 * config.pause,
        failures=20,
        silence=20 * config.pause,
    )


def rhythm_of(config: SynthesizeConfig) -> Rhythm:
    """How batches are cut and waited for, by the settings."""
    return Rhythm(rows=config.batch_rows, poll=config.poll, settle=config.settle, repay=config.repay)


def claude_price(config: SynthesizeConfig, model: str) -> Price:
    """The price of a model of Claude; raises ``ConfigError`` where nobody knows it."""
    return price_of(model, table=Path(config.prices) if config.prices else None, given=config.price)


def answer(work: Work) -> None:
    """Ask what is open until it is answered, failed for good, or the run must stop.

    Raises:
        RemoteError: a teacher refuses, or does not answer.
        CapError: the rest does not fit below the cap.
        KeyboardInterrupt: SIGINT; what was under way is answered and written down.
        SystemExit: the same for SIGTERM.
    """
    try:
        asyncio.run(_answer(work))
    except Interrupted as error:
        if error.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.number) from None


def cancel(ledger: Ledger, config: SynthesizeConfig) -> int:
    """End the batches that are under way; how many there were."""

    async def end() -> int:
        halt = Halt()
        async with Claude(base_url(config.claude_url), connections=4, timeout=config.timeout) as claude:
            teacher = Teacher(name="claude", ask=claude.ask, worst=lambda ask: 0, cost=lambda usage: 0)  # type: ignore[arg-type]
            batches = Batches(claude, teacher, lambda ask: {}, ledger, Budget(0, ledger.money()), halt)
            return await batches.cancel(patience_of(config), rhythm_of(config))

    return asyncio.run(end())


async def _answer(work: Work) -> None:
    halt = Halt()
    budget = Budget(int(work.config.max_cost * NANO), work.ledger.money())
    jobs: list[Any] = []
    ended: list[MedVLMError | None] = []
    async with AsyncExitStack() as stack:
        stack.enter_context(_signals(halt))
        work = replace(work, tell=await stack.enter_async_context(_told_again(work.tell)))
        if work.open("llama"):  # first: a server that is not there, or a wrong name, must show before Claude is paid
            jobs.append(partial(_ask_llama, await stack.enter_async_context(_llama(work.config))))
        if work.open("claude") or work.ledger.under_way():
            jobs.append(_ask_claude)
        if halt.error is None:
            ended = await asyncio.gather(*(_guarded(halt, job(work, budget, halt)) for job in jobs))
    if halt.error is not None:
        raise halt.error
    for error in filter(None, ended):
        raise error


async def _guarded(halt: Halt, job: Any) -> MedVLMError | None:
    """What one teacher's work ended with; a bug stops the other teacher too."""
    try:
        await job
    except MedVLMError as error:
        return error
    except BaseException as error:
        halt.now(error)
        if isinstance(error, asyncio.CancelledError):
            raise
    return None


@asynccontextmanager
async def _told_again(tell: Tell) -> AsyncIterator[Tell]:
    """A ``Tell`` that repeats itself while nothing new is told."""
    last: list[Any] = []

    def told(phase: str, done: int, total: int | None) -> None:
        last[:] = phase, done, total
        tell(phase, done, total)

    async def again() -> None:
        while True:
            await asyncio.sleep(QUIET)
            if last:
                tell(*last)

    task = asyncio.create_task(again())
    try:
        yield told
    finally:
        task.cancel()


@contextmanager
def _signals(halt: Halt) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the run in good order, the second one at once."""
    loop = asyncio.get_running_loop()
    both = (signal.SIGINT, signal.SIGTERM)

    def end(number: int) -> None:
        halt.now(Interrupted(number))
        for one in both:
            loop.remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)

    with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: whoever started it handles signals
        for one in both:
            loop.add_signal_handler(one, end, one)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, RuntimeError):
            for one in both:
                loop.remove_signal_handler(one)


# ---------------------------------------------------------------------- Claude


async def _ask_claude(work: Work, budget: Budget, halt: Halt) -> None:
    config, family = work.config, work.families["claude"]
    price = claude_price(config, family.model)
    url = base_url(config.claude_url)
    async with Claude(url, connections=config.connections + 4, timeout=config.timeout) as claude:
        try:
            await _count(work, claude)
        except RemoteError as error:
            return halt.now(error)
        alone = _teacher(work, claude, price, batch=False)
        desk = Desk(alone, work.ledger, budget, halt, patience_of(config), config.connections)
        batched = _teacher(work, claude, price, batch=True)
        batches = Batches(claude, batched, partial(_body, work, family), work.ledger, budget, halt)
        rhythm = replace(rhythm_of(config), make=config.claude_mode == "batch" and work.purpose == "teach")
        if work.ledger.under_way() and not (rhythm.make and _tested(work)):  # an earlier run's, and paid for: first
            await batches.run(patience_of(config), replace(rhythm, make=False), work.tell)
        await _canary(work, desk, halt)
        if halt.error is None and rhythm.make:
            await batches.run(patience_of(config), rhythm, work.tell)
        elif halt.error is None:
            asks = work.open("claude")
            await desk.run(asks, len(asks), work.tell)
    return None


def _teacher(work: Work, claude: Claude, price: Price, *, batch: bool) -> Teacher:
    family = work.families["claude"]
    return Teacher(
        name="claude",
        ask=lambda ask: claude.ask(_body(work, family, ask)),
        worst=lambda ask: work.composer.worst(family, work.user_of(ask), price, batch=batch),
        cost=partial(price.cost, batch=batch),
    )


def _body(work: Work, family: Family, ask: Ask) -> dict[str, Any]:
    return work.composer.body(family, work.user_of(ask))


async def _count(work: Work, claude: Claude) -> None:
    """Count the tokens of some requests, free of charge, so that reservations are not wider than they must be."""
    family, composer = work.families["claude"], work.composer
    fact = f"counted {family.model} {family.parameters['format']} {composer.prompt.sha256}"
    told = work.ledger.fact(fact)
    if told is None:
        sample = work.open("claude")[:COUNTED]
        if not sample:
            return
        try:
            nothing = await claude.count(composer.body(family, "."))
            users = [work.user_of(ask) for ask in sample]
            bodies = [composer.body(family, user) for user in users]
            counted = await asyncio.gather(*map(claude.count, bodies))
        except (AgainError, RowError, UnknownError):  # a proxy that cannot count: the estimate stays wide
            return
        chars, tokens = sum(map(len, users)), sum(counted) - nothing * len(counted)
        told = f"{nothing} {chars / tokens if tokens > 0 else composer.chars_per_token}"
        work.ledger.note(fact, told)
    prefix, ratio = told.split()
    composer.prefix_tokens, composer.chars_per_token = int(prefix), float(ratio)


def _tested(work: Work) -> bool:
    """Whether Claude has answered a request like these."""
    return bool(work.ledger.fact(_canary_of(work))) or (work.purpose == "teach" and work.ledger.means("claude")[0] > 0)


def _canary_of(work: Work) -> str:
    return f"canary {work.ledger.run}{'' if work.purpose == 'teach' else f' {work.purpose}'}"


async def _canary(work: Work, desk: Desk, halt: Halt) -> None:
    """One request alone before all others.

    A parameter that the API refuses shows at a batch's end only; and one by one, a key that is refused is refused once,
    and what all requests begin with is in the cache before the others look for it.
    """
    fact = _canary_of(work)
    if halt.error is not None or _tested(work) or not work.open("claude"):
        return
    failed = int(work.ledger.fact(f"{fact} failed") or 0)
    first = work.ledger.open_asks("claude", work.purpose, failed + 1)[-1]  # not the one that failed before
    await desk.run([first], 1, work.tell)
    if halt.error is not None:
        return
    state, message = work.ledger.state_of(first.key)
    if state == "answered":
        work.ledger.note(fact, first.key)
    else:
        work.ledger.note(f"{fact} failed", str(failed + (state == "waiting")))
        what = f"claude did not answer the first request, so no other was sent ({message})"
        halt.now(RemoteError(what, "mend what it says, then run the same command again"))


# ---------------------------------------------------------------------- Llama


async def _ask_llama(ask: Callable[[dict[str, Any]], Any], work: Work, budget: Budget, halt: Halt) -> None:
    config, family = work.config, work.families["llama"]
    teacher = Teacher(
        name="llama",
        ask=lambda one: ask(_body(work, family, one)),
        worst=lambda one: 0,
        cost=lambda usage: 0,
    )
    desk = Desk(teacher, work.ledger, budget, halt, patience_of(config), config.connections)
    asks = work.open("llama")
    await desk.run(asks, len(asks), work.tell)


@asynccontextmanager
async def _llama(config: SynthesizeConfig) -> AsyncIterator[Callable[[dict[str, Any]], Any]]:
    """How Llama is asked: over servers, from a cluster's actors, or in this process."""
    if config.offline:
        from medvlm_cli.teachers.offline import Gathered, Offline

        gathered = Gathered(Offline(config.launch or config.llama_model, name=config.llama_model, seed=config.seed))
        async with gathered:
            yield gathered.ask
        return
    servers = partial(Servers, config.llama_endpoint, config.llama_model, timeout=config.timeout)
    async with servers(connections=config.connections) as here:
        await here.check()  # from the driver, whoever asks later: a wrong name is one clear line
        if config.engine == "local":
            yield here.ask
            return
    from medvlm_cli.teachers.actors import Actors

    async with Actors(servers, config.connections, str(Path.cwd())) as actors:
        yield actors.ask
