"""Message Batches from end to end: made once, found again after a crash, waited for, read, and never paid twice.

``create`` has no idempotency key, so whether a batch exists is unknown when its answer is lost or the process dies.  A
batch carries no name either; its requests do, in ``custom_id``.  Every shard is therefore written down before it is
created, one is created at a time, and its size differs from its neighbours'.  An unknown one is looked for among the
account's batches of that time and that size, adopted, and checked by its ids when its results come; only when it is not
there, and is not there a while later, is it made again.
"""

import contextlib
import hashlib
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_cli.core import commit
from medvlm_cli.core.errors import RemoteError
from medvlm_cli.core.pace import Patience
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.budget import Budget, CapError, Halt
from medvlm_cli.teachers.calls import Calls, Rhythm
from medvlm_cli.teachers.claude import Claude, LostError, size
from medvlm_cli.teachers.desk import Teacher
from medvlm_cli.teachers.ledger import Ask, Ledger, New, Shard
from medvlm_cli.teachers.replies import AgainError, RowError
from medvlm_cli.teachers.results import INVALID, UNKNOWN, Results, read_results

ROUNDS = 3
"""A request is put into so many batches at most."""
AT_ONCE = 100
"""Batches under way at a time."""
ADOPTED = "adopted"
"""Note of a shard whose batch was found in a list; that it is the shard's own is not known until its results come."""
_SKEW = 120.0
"""Seconds that the clocks of two machines may differ."""
_SIZES = 97
"""Shards in a row that have different sizes."""

log = logging.getLogger(__name__)


class Batches:
    """The batches of one ledger.

    Args:
        claude: the API.
        teacher: prices of batches, and ``ask``, which is not used.
        body: the parameters of a request.
        ledger: where everything is written down.
        budget: what may be spent.
        halt: says when the whole run must stop.
    """

    def __init__(
        self,
        claude: Claude,
        teacher: Teacher,
        body: Callable[[Ask], dict[str, Any]],
        ledger: Ledger,
        budget: Budget,
        halt: Halt,
    ) -> None:
        self._claude, self._teacher, self._body = claude, teacher, body
        self._ledger, self._budget, self._halt = ledger, budget, halt
        self._patience, self._rhythm = Patience(), Rhythm(rows=1000, poll=30, settle=60)
        self._calls = Calls(self._patience, halt)
        self._full: CapError | None = None
        self._gone: RemoteError | None = None
        self._short: set[int] = set()
        """Shards whose results came incomplete in this run."""
        name = ledger.fact("ledger")
        if name is None:
            name = secrets.token_hex(4)
            ledger.note("ledger", name)
        self._name = name

    async def run(self, patience: Patience, rhythm: Rhythm, tell: Tell) -> None:
        """Have every open request of Claude answered in batches, those of an earlier process first.

        Where the whole run must stop, ``halt`` says so afterwards.

        Args:
            patience: how often and how long to try.
            rhythm: how batches are cut and waited for.
            tell: told how many requests have an answer.

        Raises:
            CapError: the rest does not fit below the cap.
            RemoteError: results are gone, and paying again was not allowed.
        """
        self._patience, self._rhythm, self._calls = patience, rhythm, Calls(patience, self._halt, tell)
        try:
            await self._recover(self._ledger.under_way)
            while self._halt.error is None:
                await self._submit()
                waiting = [shard for shard in self._ledger.under_way("submitted") if shard.number not in self._short]
                self._told(tell, len(waiting))
                if not waiting:
                    break
                if not await self._look(waiting):
                    await self._halt.sleep(self._rhythm.poll * random.uniform(0.8, 1.2))
        except RemoteError as error:
            self._halt.now(error)
        self._budget.held = self._budget.reserved
        if self._gone is not None:
            raise self._gone
        if self._full is not None:
            raise self._full

    def _told(self, tell: Tell, batches: int) -> None:
        counts = self._ledger.counts()
        mine = {state: n for (purpose, name, state), n in counts.items() if (purpose, name) == ("teach", "claude")}
        done = mine.get("answered", 0) + mine.get("failed", 0)
        tell(f"claude, {batches} batches under way" if batches else "claude", done, sum(mine.values()))

    async def cancel(self, patience: Patience, rhythm: Rhythm) -> int:
        """End every batch that is under way; what they have answered is read by the next run.

        Returns:
            How many were ended.
        """
        self._patience, self._rhythm, self._calls = patience, rhythm, Calls(patience, self._halt)
        await self._recover(self._ledger.shards)
        return sum([await self._cancelled(shard) for shard in self._ledger.shards("submitted")])

    async def _cancelled(self, shard: Shard) -> bool:
        """End one batch; whether there was anything to end."""
        assert shard.batch_id is not None
        try:
            batch = await self._calls.patiently(partial(self._claude.batch, shard.batch_id))
            if batch["processing_status"] == "in_progress":
                await self._calls.patiently(partial(self._cancel, shard.batch_id))
                return True
        except LostError:  # the next run says so
            log.warning("batch %s is no longer there", shard.batch_id)
        return False

    async def _cancel(self, batch_id: str) -> None:
        with contextlib.suppress(RowError):  # it has ended by itself in the meantime
            await self._claude.cancel(batch_id)

    # ------------------------------------------------------------------ after a crash

    async def _recover(self, shards: Callable[..., list[Shard]]) -> None:
        """Bring what an earlier process left into a state that is known."""
        for shard in shards("planned"):  # it died before anything was sent
            self._void(shard, "never sent")
        for shard in shards("submitting", "ambiguous"):
            self._ledger.move_shard(shard.number, "ambiguous")
            await self._find(shard)
        for shard in shards("lost"):
            self._lost(shard)
        needed = {self._path(shard.batch_id) for shard in self._ledger.shards("submitted")}
        for path in set(self._results.glob("*")) - needed:  # it died between writing them down and removing them
            commit.remove(path)

    async def _find(self, shard: Shard) -> bool:
        """Learn whether a shard's batch exists: adopt it, or make sure that it does not; whether it was adopted."""
        for look in range(2):
            if look:
                await self._halt.sleep(self._rhythm.settle)
            if self._halt.error is not None:
                return False
            listed = await self._calls.patiently(lambda: self._claude.batches(shard.began - _SKEW))
            known = self._ledger.batch_ids()
            fit = [
                batch["id"]
                for batch in listed
                if size(batch) == shard.rows
                and batch["id"] not in known
                and not self._ledger.fact(f"foreign {batch['id']}")
            ]
            if fit:
                self._ledger.move_shard(shard.number, "submitted", fit[-1], ADOPTED)  # the oldest
                log.info("batch %s is taken for shard %d", fit[-1], shard.number)
                return True
        self._void(shard, "never made")
        return False

    def _void(self, shard: Shard, note: str) -> None:
        """There is no such batch: its requests are open again and nothing is billed."""
        rows = self._ledger.rows_of(shard.number)
        with self._ledger.transaction():
            self._ledger.move_shard(shard.number, "void", note=note)
            self._ledger.reopen(row.key for row in rows)
        self._budget.settle(sum(row.reserved for row in rows), 0)

    # ------------------------------------------------------------------ making

    async def _submit(self) -> None:
        """Make batches of what is open while the cap allows it."""
        failures = 0
        while self._rhythm.make and self._halt.error is None and len(self._ledger.under_way("submitted")) < AT_ONCE:
            chosen = self._chosen()
            if not chosen:
                return
            shard = self._ledger.plan_shard([(ask.key, worst) for ask, worst in chosen], _digest(chosen))
            self._ledger.move_shard(shard.number, "submitting")
            requests = ({"custom_id": self._id(shard, ask.key), "params": self._body(ask)} for ask, _ in chosen)
            try:
                batch = await self._claude.create(requests)
            except AgainError as error:
                failures += 1
                if not error.billed:
                    self._void(shard, error.what)
                elif await self._find(self._ambiguous(shard)):
                    failures = 0
                    continue
                if failures >= self._patience.tries:
                    what = f"claude: {failures} failures in a row, the last: {error.what}"
                    raise RemoteError(what, "run the same command again later: it resumes") from error
                await self._calls.pause(failures, error)
            except (RowError, RemoteError) as error:
                self._void(shard, str(error))
                if isinstance(error, RowError):
                    raise RemoteError(
                        f"Anthropic refuses the batch: {error.what}", "nothing was billed for it"
                    ) from error
                raise
            else:
                failures = 0
                self._ledger.move_shard(shard.number, "submitted", batch["id"])

    def _ambiguous(self, shard: Shard) -> Shard:
        """The shard as the ledger has it, once the ledger says that nobody knows whether it exists."""
        self._ledger.move_shard(shard.number, "ambiguous")
        return next(one for one in self._ledger.shards("ambiguous") if one.number == shard.number)

    def _chosen(self) -> list[tuple[Ask, int]]:
        """The requests of the next batch, each with the most that it can cost; reserved in the budget."""
        chosen: list[tuple[Ask, int]] = []
        shards = self._ledger.shards()
        most = max(1, self._rhythm.rows - len(shards) % min(_SIZES, self._rhythm.rows))
        left = self._rhythm.bytes
        for ask in self._ledger.open_asks("claude", most=most):
            worst, length = self._teacher.worst(ask), len(json.dumps(self._body(ask))) + 100
            if chosen and length > left:
                break
            if not self._budget.admit(worst):
                if not chosen and not self._budget.reserved:
                    self._full = self._budget.over(worst)
                break
            left -= length
            chosen.append((ask, worst))
        if shards and shards[-1].rows == len(chosen) > 1:  # bytes, the cap or the end cut it short
            self._budget.settle(chosen.pop()[1], 0)
        return chosen

    @property
    def _results(self) -> Path:
        return self._ledger.folder / "results"

    def _path(self, batch_id: str | None) -> Path:
        """Where the results of a batch lie until they are written down; its id is another's word, and no file name."""
        return self._results / f"{hashlib.sha256(str(batch_id).encode()).hexdigest()[:32]}.jsonl"

    def _id(self, shard: Shard, key: str) -> str:
        """At most 64 characters of letters, digits and ``-``, and different in every batch."""
        return f"{self._name}-{shard.number:04d}-{key[:32]}"

    # ------------------------------------------------------------------ reading

    async def _look(self, shards: Sequence[Shard]) -> bool:
        """Read the results of every batch that has ended; whether there was one."""
        ended = False
        for shard in shards:
            if self._halt.error is not None:
                return True
            assert shard.batch_id is not None
            try:
                batch = await self._calls.patiently(partial(self._claude.batch, shard.batch_id))
                if batch["processing_status"] == "ended":  # not in_progress, and not canceling
                    ended = True
                    await self._read(shard, batch)
            except LostError:
                if time.time() - shard.began < self._rhythm.settle:  # not yet known everywhere
                    continue
                ended = True
                self._ledger.move_shard(shard.number, "lost")
                self._lost(shard)
        return ended

    async def _read(self, shard: Shard, batch: dict[str, Any]) -> None:
        """Download the results until they are whole, and write them down."""
        path = self._path(shard.batch_id)
        expected = {self._id(shard, row.key): row.key for row in self._ledger.rows_of(shard.number)}
        results = Results()
        for number in range(1, self._patience.tries + 1):
            if not path.exists():
                await self._calls.patiently(lambda: self._claude.download(batch, path))
            results = read_results(path, expected)
            if not results.missing(expected) and not results.unknown:
                break
            commit.remove(path)
            if results.are_foreign and self._ledger.note_of(shard.number) == ADOPTED:
                self._ledger.forget_batch(shard.number, batch["id"])
                await self._find(self._ambiguous(shard))
                return
            if number < self._patience.tries:
                await self._calls.pause(number, AgainError("the results are cut short"))
                if self._halt.error is not None:
                    return
        self._ingest(shard, results, expected)
        commit.remove(path)

    def _ingest(self, shard: Shard, results: Results, expected: dict[str, str]) -> None:
        """One transaction: answers, failures and the shard's end."""
        rows = {row.key: row for row in self._ledger.rows_of(shard.number)}
        missing = results.missing(expected)
        again = bool(missing) and shard.number not in self._short and self._ledger.note_of(shard.number) != "short"
        settled = cost = 0
        with self._ledger.transaction():
            answers: list[New] = []
            for one, reply in results.replies.items():
                price = self._teacher.cost(reply.usage)
                answers.append((expected[one], reply, price, True, 0))
                cost += price
            self._ledger.answer(answers)
            for one, (code, message) in results.failures.items():
                row = rows[expected[one]]
                if code == UNKNOWN:
                    self._ledger.lose(row.key, row.reserved, message)
                    cost += row.reserved
                if code != INVALID and row.attempts < ROUNDS:
                    self._ledger.reopen([row.key])
                else:
                    self._ledger.fail(row.key, code, message, final=True)
            for one in () if again else missing:  # looked for in two runs: it was answered, and billed, but is lost
                row = rows[expected[one]]
                self._ledger.lose(row.key, row.reserved, "its result cannot be read")
                self._ledger.fail(row.key, "unreadable_result", "the line of its result cannot be read", final=True)
                cost += row.reserved
            if again:
                self._ledger.move_shard(shard.number, "submitted", note="short")
                self._short.add(shard.number)
            else:
                self._ledger.move_shard(shard.number, "ingested")
            later = {expected[one] for one in missing} if again else set()
            settled = sum(row.reserved for key, row in rows.items() if key not in later)
        self._budget.settle(settled, cost)
        if results.foreign or results.unreadable or missing:
            log.warning(
                "batch %s: %d lines of no request of ours, %d unreadable, %d results missing",
                *(shard.batch_id, results.foreign, results.unreadable, len(missing)),
            )

    def _lost(self, shard: Shard) -> None:
        """Results that are gone: asked for again only where the user says so, because they were paid for."""
        rows = self._ledger.rows_of(shard.number)
        worst = sum(row.reserved for row in rows)
        if not self._rhythm.repay:
            what = f"the results of batch {shard.batch_id} are gone ({len(rows)} requests, paid for)"
            self._gone = RemoteError(what, "results are kept for 29 days; to ask, and pay, again: --set repay=true")
            return
        with self._ledger.transaction():
            for row in rows:
                self._ledger.lose(row.key, row.reserved, "its results are gone")
            self._ledger.reopen(row.key for row in rows)
            self._ledger.move_shard(shard.number, "void", note="results gone, asked again")
        self._budget.settle(worst, worst)


def _digest(chosen: Sequence[tuple[Ask, int]]) -> str:
    """SHA-256 over the keys of a shard, each of which stands for a whole request."""
    return hashlib.sha256("".join(ask.key for ask, _ in chosen).encode()).hexdigest()
