"""How far a run is, and how to end what is under way: ``synthesize --status`` and ``--cancel``."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import DataError
from medvlm_cli.teachers.ledger import MEANS, MONEY, NAME, Ledger
from medvlm_cli.teachers.prices import dollars


def status(folder: Path) -> dict[str, Any]:
    """What the ledger of a run holds; reads while another process writes, and asks nobody.

    Returns:
        ``requests``: per teacher the number in each state; ``batches``: per state; ``under way``: ids of batches;
        ``spent_usd``, ``lost_usd_at_most`` and ``reserved_usd``.

    Raises:
        DataError: there is no ledger, or it is damaged.
    """
    with _reading(folder) as db:
        return _told(db)


def seen(folder: Path, run: str) -> dict[str, tuple[int, float]]:
    """Answers of a run so far and tokens of one on average, by teacher; empty where there is no ledger.

    Raises:
        DataError: the ledger is damaged.
    """
    if not (folder / NAME).is_file():
        return {}
    with contextlib.suppress(_EmptyError), _reading(folder) as db:
        return {name: (count, mean or 0.0) for name, count, mean in db.execute(f"{MEANS} GROUP BY a.teacher", (run,))}
    return {}


class _EmptyError(DataError):
    """The process that made the ledger died at once."""


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """The ledger in a folder, for reading alone."""
    path = _ledger(folder)
    try:
        with contextlib.closing(_opened(path)) as db:
            yield db
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            raise _EmptyError(f"nothing was asked yet by {path}", "run `medvlm synthesize` first") from error
        raise DataError(f"{path}: damaged ({error})", "put a copy in its place") from error


def _opened(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, unless what a process left half done must be taken back before it can be read."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        db.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        db.close()
        if "readonly" not in str(error):
            raise
        return sqlite3.connect(f"file:{path}?mode=rw", uri=True)
    return db


def cancel(folder: Path, config: SynthesizeConfig) -> dict[str, Any]:
    """End every batch under way.

    Raises:
        DataError: there is no ledger.
        LockedError: a run is writing it; end that first.
        RemoteError: the API refuses or does not answer.
    """
    from medvlm_cli.teachers.work import cancel as end

    _ledger(folder)
    with Ledger(folder) as ledger:
        ledger.begin(ledger.fact("run") or "")
        ended = end(ledger, config)
    return {"verb": "synthesize", "cancelled": ended, **status(folder)}


def _ledger(folder: Path) -> Path:
    path = folder / NAME
    if not path.is_file():
        raise DataError(f"no ledger at {path}", "run `medvlm synthesize` first")
    return path


def _told(db: sqlite3.Connection) -> dict[str, Any]:
    run = next((value for (value,) in db.execute("SELECT value FROM facts WHERE name = 'run'")), "")
    requests: dict[str, dict[str, int]] = {}
    query = "SELECT teacher, purpose, state, COUNT(*) FROM asks WHERE run = ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    for teacher, purpose, state, count in db.execute(query, (run,)):
        requests.setdefault(teacher if purpose == "teach" else f"{teacher}, {purpose}", {})[state] = count
    shards = list(db.execute("SELECT state, batch_id FROM shards ORDER BY number"))
    spent, lost, reserved = (round(dollars(next(db.execute(one, (run,)))[0]), 6) for one in MONEY)
    return {
        "verb": "synthesize",
        "run": run,
        "requests": requests,
        "batches": dict(Counter(state for state, _ in shards)),
        "under way": [name for state, name in shards if state == "submitted"],
        "spent_usd": spent,
        "lost_usd_at_most": lost,
        "reserved_usd": reserved,
    }
