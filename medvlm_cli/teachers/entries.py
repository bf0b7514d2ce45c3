"""What a ledger holds: its tables, and a row of each as an object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from medvlm_cli.teachers.replies import Reply, Usage

TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asks (
  key TEXT PRIMARY KEY, run TEXT NOT NULL, figure_id TEXT NOT NULL, purpose TEXT NOT NULL, teacher TEXT NOT NULL,
  model TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'open', attempts INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0, shard INTEGER, code TEXT, message TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asks_by_state ON asks (run, teacher, state);
CREATE INDEX IF NOT EXISTS asks_by_figure ON asks (figure_id);
CREATE INDEX IF NOT EXISTS asks_by_shard ON asks (shard) WHERE shard IS NOT NULL;
CREATE TABLE IF NOT EXISTS replies (
  key TEXT PRIMARY KEY, run TEXT NOT NULL, text TEXT NOT NULL, stop_reason TEXT NOT NULL, stop_category TEXT,
  input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cache_write_5m INTEGER NOT NULL,
  cache_write_1h INTEGER NOT NULL, cache_read INTEGER NOT NULL, thinking_tokens INTEGER NOT NULL,
  served_model TEXT NOT NULL, provider_id TEXT NOT NULL, cost INTEGER NOT NULL, batch INTEGER NOT NULL,
  replied TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS shards (
  number INTEGER PRIMARY KEY, run TEXT NOT NULL, rows INTEGER NOT NULL, sha256 TEXT NOT NULL, state TEXT NOT NULL,
  began REAL NOT NULL, batch_id TEXT, reserved INTEGER NOT NULL, note TEXT
);
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, rules TEXT NOT NULL, verdict TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS losses (key TEXT NOT NULL, run TEXT NOT NULL, cost INTEGER NOT NULL, why TEXT NOT NULL);
"""
"""States of an ask: ``open``; ``sent`` alone, or ``batched`` in a shard; ``answered``; ``failed`` for good (``code``).
Of a shard: ``planned``, ``submitting``, ``ambiguous`` (created or not, nobody knows yet), ``submitted``, ``ingested``,
``void`` (never created, or cancelled), ``lost`` (its results are gone).
A loss is a request that may have been billed although no answer came; it counts as spent."""

UNDER_WAY = ("planned", "submitting", "ambiguous", "submitted", "lost")
"""States of a shard whose requests have no answer yet."""

MEANS = (
    "SELECT a.teacher, COUNT(*), AVG(r.output_tokens) FROM replies r JOIN asks a USING (key) "
    "WHERE a.run = ? AND a.purpose = 'teach'"
)
"""Answers of a run, and tokens of one on average."""
MONEY = (
    "SELECT COALESCE(SUM(cost), 0) FROM replies WHERE run = ?1",
    "SELECT COALESCE(SUM(cost), 0) FROM losses WHERE run = ?1",
    # A batch is paid by the run that reads it, also for the requests in it that are another run's alone.
    "SELECT COALESCE(SUM(reserved), 0) FROM asks WHERE run = ?1 "
    "OR shard IN (SELECT shard FROM asks WHERE run = ?1 AND shard IS NOT NULL)",
)
"""Spent, lost and reserved, of one run."""

INSERT = (
    "INSERT OR IGNORE INTO replies (key, run, text, stop_reason, stop_category, input_tokens, output_tokens, "
    "cache_write_5m, cache_write_1h, cache_read, thinking_tokens, served_model, provider_id, cost, batch, replied) "
    f"VALUES ({', '.join('?' * 16)})"
)
ANSWERED = (
    "SELECT a.key, a.figure_id, a.purpose, a.teacher, a.model, r.text, r.stop_reason, r.stop_category, "
    "r.input_tokens, r.output_tokens, r.cache_write_5m, r.cache_write_1h, r.cache_read, r.thinking_tokens, "
    "r.served_model, r.provider_id, r.cost, r.batch, r.replied, a.attempts FROM asks a JOIN replies r ON r.key = a.key"
)
"""One row of it is read by ``answered_of``."""
PAGE = "ORDER BY a.key LIMIT 1000"


class Ask(NamedTuple):
    """One request: what it is about and to whom it goes.  The words themselves are made again when they are sent."""

    key: str
    """SHA-256 in hex of all that decides the answer."""
    figure_id: str
    purpose: str
    """``teach``, or ``judge``."""
    teacher: str
    """``claude`` or ``llama``."""
    model: str


class Row(NamedTuple):
    """A request in a shard."""

    key: str
    attempts: int
    """Batches it was put into, and requests that were sent for it alone."""
    reserved: int


New = tuple[str, Reply, int, bool, int]
"""An answer to write down: key, reply, cost in nanodollars, whether a batch brought it, requests sent for it."""


class Shard(NamedTuple):
    """Requests of one Message Batch."""

    number: int
    rows: int
    sha256: str
    state: str
    began: float
    batch_id: str | None
    reserved: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply as it was written down."""

    ask: Ask
    reply: Reply
    cost: int
    """Nanodollars."""
    batch: bool
    replied: str
    """ISO 8601."""
    attempts: int


class Money(NamedTuple):
    """Of one run, in nanodollars."""

    spent: int
    """By the providers' own counts of tokens."""
    lost: int
    """May have been billed: requests whose answer never came."""
    reserved: int
    """Worst case of what is under way."""

    @property
    def at_most(self) -> int:
        """More than this cannot have been billed."""
        return self.spent + self.lost + self.reserved


def columns_of(reply: Reply) -> tuple[Any, ...]:
    """What ``INSERT`` takes of a reply."""
    text = reply.text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate of a JSON escape is no text
    usage = reply.usage
    return (
        *(text, reply.stop_reason, reply.stop_category, usage.input_tokens, usage.output_tokens, usage.cache_write_5m),
        *(usage.cache_write_1h, usage.cache_read, usage.thinking_tokens, reply.served_model, reply.provider_id),
    )


def answered_of(row: Sequence[Any]) -> Answered:
    """The object of a row that ``ANSWERED`` gives."""
    reply = Reply(
        text=row[5],
        stop_reason=row[6],
        stop_category=row[7],
        usage=Usage(
            input_tokens=row[8],
            output_tokens=row[9],
            cache_write_5m=row[10],
            cache_write_1h=row[11],
            cache_read=row[12],
            thinking_tokens=row[13],
        ),
        served_model=row[14],
        provider_id=row[15],
    )
    return Answered(Ask(*row[:5]), reply, row[16], bool(row[17]), row[18], row[19])
