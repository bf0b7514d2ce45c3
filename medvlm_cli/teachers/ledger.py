"""What was asked, what it may cost, what was answered: written down before it matters, so that nothing is paid twice.

One SQLite file (write-ahead log, ``synchronous=FULL``), written by one process.  The order is the promise: money is
reserved before a request leaves, a batch is written down before it is created, an answer before anything is made of it.
A request is known by the SHA-256 of everything that decides its answer, so another run that asks the same finds the
answer here.  Money is in nanodollars.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medvlm_cli.core.commit import Lock, make_folder, refusals
from medvlm_cli.core.errors import DataError, ResourceError
from medvlm_cli.teachers.entries import (
    ANSWERED,
    INSERT,
    MEANS,
    MONEY,
    PAGE,
    TABLES,
    UNDER_WAY,
    Answered,
    Ask,
    Money,
    New,
    Row,
    Shard,
    answered_of,
    columns_of,
)

__all__ = ["MEANS", "MONEY", "NAME", "Answered", "Ask", "Ledger", "Money", "New", "Row", "Shard"]

NAME = "ledger.sqlite"


class Ledger:
    """The ledger in a folder; a context manager that holds the folder's lock.

    Args:
        folder: made if need be.

    Raises:
        LockedError: another process has it.
        DataError: the file is damaged.
        ResourceError: the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = ""
        """The run that asks: set by ``begin``."""
        self._lock = Lock(folder)
        self._db: sqlite3.Connection | None = None

    def __enter__(self) -> "Ledger":
        make_folder(self.folder)
        self._lock.acquire()
        try:
            with self._guarded():
                self._db = sqlite3.connect(self.folder / NAME, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(TABLES)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        self._lock.release()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        path = self.folder / NAME
        try:
            with refusals(self.folder):
                yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk" in str(error) or "readonly" in str(error):
                fix = "free some space, then run the same command again: it resumes"
                raise ResourceError(f"cannot write to {path}: {error}", fix) from error
            raise
        except sqlite3.DatabaseError as error:
            fix = f"put a copy in its place; without one, move {path} away: what it holds is asked, and paid, again"
            raise DataError(f"{path}: damaged ({error})", fix) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is written, or nothing."""
        assert self._db is not None
        with self._guarded():
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *given: Any) -> Iterator[Any]:
        assert self._db is not None
        with self._guarded():
            yield from self._db.execute(query, given)

    # ------------------------------------------------------------------ facts

    def fact(self, name: str) -> str | None:
        """A fact that was noted, or None."""
        return next((value for (value,) in self._rows("SELECT value FROM facts WHERE name = ?", name)), None)

    def note(self, name: str, value: str) -> None:
        """Note a fact, replacing an earlier one."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # ------------------------------------------------------------------ asks

    def begin(self, run: str, asks: Iterable[Ask] | None = None) -> None:
        """Say which run asks from now on; with ``asks``, what it asks, in place of what it asked before.

        What an earlier process left as ``sent`` counts as lost, and is open again.
        """
        self.run = run
        with self.transaction() as db:
            if asks is not None:
                db.execute("UPDATE asks SET run = '' WHERE run = ? AND purpose = 'teach'", (run,))
                self.add(asks)
            left = "SELECT key, run, reserved, 'the process died before its answer came' FROM asks WHERE state = 'sent'"
            db.execute(f"INSERT INTO losses {left} AND reserved > 0")
            db.execute("UPDATE asks SET state = 'open', reserved = 0, attempts = attempts + 1 WHERE state = 'sent'")
            # What failed for want of an answer may be had now: it is asked again, once a run.
            db.execute("UPDATE asks SET state = 'open' WHERE run = ? AND state = 'waiting'", (run,))

    def add(self, asks: Iterable[Ask]) -> None:
        """More for the run to ask; what was asked before keeps its state and its answer."""
        into = "INSERT INTO asks (key, run, figure_id, purpose, teacher, model) VALUES (?, ?, ?, ?, ?, ?)"
        with self.transaction() as db:
            db.executemany(
                f"{into} ON CONFLICT (key) DO UPDATE SET run = excluded.run, state = CASE WHEN run <> excluded.run "
                "AND state IN ('waiting', 'failed') AND code = 'unavailable' THEN 'open' ELSE state END",
                ((ask.key, self.run, ask.figure_id, ask.purpose, ask.teacher, ask.model) for ask in asks),
            )

    def open_asks(self, teacher: str, purpose: str = "teach", most: int = -1) -> list[Ask]:
        """What one teacher is still to be asked, by key; the first ``most`` of it."""
        columns = "key, figure_id, purpose, teacher, model"
        where = "run = ? AND teacher = ? AND purpose = ? AND state = 'open'"
        query = f"SELECT {columns} FROM asks WHERE {where} ORDER BY key LIMIT ?"
        return [Ask(*row) for row in self._rows(query, self.run, teacher, purpose, most)]

    def asks(self, purpose: str = "teach") -> Iterator[tuple[Ask, str, str | None, str | None]]:
        """Every ask of the run with its state, code and message, by key."""
        columns = "key, figure_id, purpose, teacher, model, state, code, message"
        for row in self._rows(
            f"SELECT {columns} FROM asks WHERE run = ? AND purpose = ? ORDER BY key", self.run, purpose
        ):
            yield Ask(*row[:5]), *row[5:]

    def state_of(self, key: str) -> tuple[str, str | None]:
        """State and message of one ask."""
        return next(self._rows("SELECT state, message FROM asks WHERE key = ?", key))

    def send(self, reserved: Sequence[tuple[str, int]]) -> None:
        """Requests leave now, one by one: key, and the most it can cost."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE asks SET state = 'sent', reserved = ? WHERE key = ?", [(worst, key) for key, worst in reserved]
            )

    def lose(self, key: str, cost: int, why: str) -> None:
        """A try may have been billed although nothing came of it."""
        with self.transaction() as db:
            db.execute("INSERT INTO losses VALUES (?, ?, ?, ?)", (key, self.run, cost, why))

    def answer(self, answers: Iterable[New]) -> None:
        """Write answers down; of two to one request the first one counts, and both are paid for."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        done = "UPDATE asks SET state = 'answered', reserved = 0, shard = NULL, attempts = attempts + ? WHERE key = ?"
        with self.transaction() as db:
            for key, reply, cost, batch, tries in answers:
                taken = db.execute(INSERT, (key, self.run, *columns_of(reply), cost, batch, now)).rowcount
                if not taken and cost:
                    db.execute("INSERT INTO losses VALUES (?, ?, ?, 'answered twice')", (key, self.run, cost))
                db.execute(done, (tries, key))

    def fail(self, key: str, code: str, message: str, *, final: bool, tries: int = 0) -> None:
        """No answer: for good, or for this run; one that fails in a second run too has failed for good."""
        with self.transaction() as db:
            db.execute(
                "UPDATE asks SET state = CASE WHEN ? OR failures > 0 THEN 'failed' ELSE 'waiting' END, reserved = 0, "
                "shard = NULL, failures = failures + 1, attempts = attempts + ?, code = ?, message = ? WHERE key = ?",
                (final, tries, code, message[:2000], key),
            )

    def reopen(self, keys: Iterable[str]) -> None:
        """Ask these again: they were not sent, or will not be answered, and nothing was billed."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE asks SET state = 'open', reserved = 0, shard = NULL WHERE key = ? AND state <> 'answered'",
                [(key,) for key in keys],
            )

    # ------------------------------------------------------------------ replies

    def answered(self, purpose: str = "teach") -> Iterator[Answered]:
        """Every answer of the run, by key; read in pages, so that writes may come between."""
        last = ""
        while page := list(self._rows(f"{ANSWERED} WHERE a.run = ? AND a.purpose = ? AND a.key > ? {PAGE}",
                                      self.run, purpose, last)):  # fmt: skip
            yield from map(answered_of, page)
            last = page[-1][0]

    def answer_to(self, key: str) -> Answered | None:
        """The answer to one request, or None."""
        return next((answered_of(row) for row in self._rows(f"{ANSWERED} WHERE a.key = ?", key)), None)

    def answers_about(self, figure_id: str, purpose: str = "teach") -> list[Answered]:
        """The answers of the run about one figure, the planned teacher's first."""
        query = f"{ANSWERED} WHERE a.figure_id = ? AND a.run = ? AND a.purpose = ? ORDER BY r.rowid"
        return [answered_of(row) for row in self._rows(query, figure_id, self.run, purpose)]

    def failures_about(self, figure_id: str, purpose: str = "teach") -> list[tuple[str, str]]:
        """Code and message of every ask of the run about one figure that failed for good."""
        query = "SELECT code, message FROM asks WHERE figure_id = ? AND run = ? AND purpose = ? AND state = 'failed'"
        return list(self._rows(query, figure_id, self.run, purpose))

    def recorded(self, answers: Iterable[Answered]) -> None:
        """Take over answers that were paid for elsewhere, as they were: nothing of them is spent here."""
        with self.transaction() as db:
            for one in answers:
                db.execute(INSERT, (one.ask.key, "", *columns_of(one.reply), one.cost, one.batch, one.replied))
                done = "UPDATE asks SET state = 'answered', attempts = ? WHERE key = ?"
                db.execute(done, (one.attempts, one.ask.key))

    # ------------------------------------------------------------------ verdicts

    def judge(self, rules: str, verdicts: Iterable[tuple[str, str]]) -> None:
        """Write down what was found of some answers under these rules: key and JSON."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", ((key, rules, found) for key, found in verdicts)
            )

    def verdict(self, key: str) -> str | None:
        """What was found of an answer, as JSON."""
        return next((text for (text,) in self._rows("SELECT verdict FROM verdicts WHERE key = ?", key)), None)

    def unjudged(self, rules: str) -> Iterator[Answered]:
        """The answers of the run that were not looked at under these rules, in pages: writes may come between.

        By figure, as the figures' datasets are, so that their rows are read one after the other.
        """
        query = (
            f"{ANSWERED} LEFT JOIN verdicts v ON v.key = a.key AND v.rules = ? WHERE v.key IS NULL AND a.run = ? "
            "AND a.purpose = 'teach' AND (a.figure_id, a.key) > (?, ?) ORDER BY a.figure_id, a.key LIMIT 1000"
        )
        last = "", ""
        while page := list(self._rows(query, rules, self.run, *last)):
            yield from map(answered_of, page)
            last = page[-1][1], page[-1][0]

    def verdicts(self) -> Iterator[tuple[str, str, str]]:
        """Key, figure and verdict of every answer of the run, by key."""
        query = "SELECT v.key, a.figure_id, v.verdict FROM verdicts v JOIN asks a ON a.key = v.key WHERE a.run = ? "
        yield from self._rows(f"{query} AND a.purpose = 'teach' ORDER BY v.key", self.run)

    # ------------------------------------------------------------------ shards

    def plan_shard(self, keys: Sequence[tuple[str, int]], sha256: str) -> Shard:
        """Put requests into a batch to be: key and the most each can cost; they are reserved from here on."""
        reserved = sum(worst for _, worst in keys)
        with self.transaction() as db:
            (number,) = db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM shards").fetchone()
            row = (number, self.run, len(keys), sha256, "planned", time.time(), None, reserved, None)
            db.execute(f"INSERT INTO shards VALUES ({', '.join('?' * 9)})", row)
            db.executemany(
                "UPDATE asks SET state = 'batched', shard = ?, reserved = ? WHERE key = ?",
                [(number, worst, key) for key, worst in keys],
            )
        return Shard(number, len(keys), sha256, "planned", row[5], None, reserved)

    def shards(self, *states: str) -> list[Shard]:
        """Shards of every run that are in one of these states, oldest first; without states, all."""
        return self._shards(f"state IN ({', '.join('?' * len(states))})" if states else "true", *states)

    def under_way(self, *states: str) -> list[Shard]:
        """Shards in one of these states (without any: not over yet) that hold a request of this run, oldest first.

        One that holds requests of other runs alone is left to them: what it costs hangs on their model.
        """
        states = states or UNDER_WAY
        ours = "EXISTS (SELECT 1 FROM asks WHERE shard = number AND run = ?)"
        return self._shards(f"state IN ({', '.join('?' * len(states))}) AND {ours}", *states, self.run)

    def _shards(self, which: str, *given: str) -> list[Shard]:
        columns = "number, rows, sha256, state, began, batch_id, reserved"
        return [
            Shard(*row) for row in self._rows(f"SELECT {columns} FROM shards WHERE {which} ORDER BY number", *given)
        ]

    def move_shard(self, number: int, state: str, batch_id: str | None = None, note: str | None = None) -> None:
        """A shard is in another state; its batch and a note, once they are known."""
        with self.transaction() as db:
            (before,) = db.execute("SELECT state FROM shards WHERE number = ?", (number,)).fetchone()
            db.execute(
                "UPDATE shards SET state = ?, batch_id = COALESCE(?, batch_id), note = COALESCE(?, note), "
                "began = CASE WHEN ? = 'submitting' THEN ? ELSE began END WHERE number = ?",
                (state, batch_id, note, state, time.time(), number),
            )
            if state == "submitted" != before:
                db.execute("UPDATE asks SET attempts = attempts + 1 WHERE shard = ?", (number,))

    def forget_batch(self, number: int, batch_id: str) -> None:
        """A batch that was adopted is not this shard's after all, nor any other one's: never adopt it again."""
        with self.transaction() as db:
            self.note(f"foreign {batch_id}", "1")
            db.execute(
                "UPDATE shards SET state = 'ambiguous', batch_id = NULL, note = ? WHERE number = ?",
                (f"not {batch_id}", number),
            )
            db.execute("UPDATE asks SET attempts = attempts - 1 WHERE shard = ?", (number,))

    def rows_of(self, shard: int) -> list[Row]:
        """The requests of a shard that are not answered yet, by key."""
        query = "SELECT key, attempts, reserved FROM asks WHERE shard = ? ORDER BY key"
        return [Row(*row) for row in self._rows(query, shard)]

    def note_of(self, shard: int) -> str | None:
        """The note of a shard."""
        return next(self._rows("SELECT note FROM shards WHERE number = ?", shard))[0]

    def batch_ids(self) -> set[str]:
        """Every batch that a shard has."""
        return {name for (name,) in self._rows("SELECT batch_id FROM shards WHERE batch_id IS NOT NULL")}

    # ------------------------------------------------------------------ counts

    def money(self) -> Money:
        """What the run has cost, may have cost, and may yet cost by what is under way."""
        return Money(*(next(self._rows(query, self.run))[0] for query in MONEY))

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How many asks of the run there are of each purpose, teacher and state."""
        query = "SELECT purpose, teacher, state, COUNT(*) FROM asks WHERE run = ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        return {(purpose, teacher, state): count for purpose, teacher, state, count in self._rows(query, self.run)}

    def means(self, teacher: str) -> tuple[int, float]:
        """Answers of a teacher so far, and tokens of one on average."""
        found = next(self._rows(f"{MEANS} AND a.teacher = ?", self.run, teacher))
        return found[1], found[2] or 0.0
