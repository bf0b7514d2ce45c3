"""Write a dataset folder: one writer, shard by shard, killed at any moment and resumed without loss.

Keys are spread over shards by their hash, so that the result depends neither on the order in which they arrive nor on
where an earlier run stopped.  A shard counts once its journal line is on disk; the dataset, once its manifest is.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from medvlm_cli.core import commit, record
from medvlm_cli.core.card import card
from medvlm_cli.core.errors import BusyError, ConfigError, DataError
from medvlm_cli.core.rows import read_ids
from medvlm_cli.core.schemas import REJECTS, name_of
from medvlm_cli.core.shard import Shard, duplicate

KEYS_PER_SHARD = 512
_LONG_BYTES = 10 << 30
"""Of a finished dataset, from which on it is said that they are read: seconds on a fast disk, minutes on a slow one."""
log = logging.getLogger(__name__)


@dataclass
class Reject:
    """A row that did not make it; ``reason`` is a short code, ``raw`` what it was made of where there is text."""

    id: str
    reason: str
    message: str
    raw: str | None = None


@dataclass
class Harvest:
    """What one key gave: of ``found`` candidates each is a row or a reject."""

    found: int
    rows: list[dict]
    rejects: list[Reject]


@dataclass(frozen=True)
class Counts:
    """What a run made: ``found == out + rejected``."""

    found: int
    out: int
    rejected: int
    reasons: dict[str, int] = field(default_factory=dict)


class Writer:
    """Context manager that makes a dataset in the folder ``out``, or takes up the same run where it stopped.

    On entry it takes the folder's lock; leaving it without an exception, after every shard was committed, finishes the
    dataset.  A folder that holds the same run finished is left as it is, and ``done`` is true.

    Args:
        out: the folder; made if need be.
        schema: one of ``core.schemas``; the first column is the id, unique in the dataset.
        stage: who writes, for ``run.json`` and the rejects.
        config: the resolved settings, as ``core.config.as_dict`` gives them.
        inputs: datasets, files or folders that the run reads; their hashes belong to the run.
        keys: what rows are made of, each once.
        keys_per_shard: keys a shard holds on average; a shard is what a killed run makes again.

    Raises:
        BusyError: another process writes there, or the folder holds another run; the message says what differs.
        DataError: a key is there twice, or an input is missing.
        ResourceError: the disk refuses.
    """

    def __init__(
        self,
        out: Path,
        schema: pa.Schema,
        *,
        stage: str,
        config: Mapping[str, Any],
        keys: Sequence[str],
        inputs: Mapping[str, Path] | None = None,
        keys_per_shard: int = KEYS_PER_SHARD,
    ) -> None:
        self.out = Path(out)
        self.done = False
        self.extra: dict[str, Any] = {}
        """More entries for ``run.json``: tokens, cost.  A resumed run finds them as they were at its last commit."""
        self._schema = schema
        self._stage = stage
        self._keys = list(keys)
        if len(set(self._keys)) < len(self._keys):
            twice = next(key for key, count in Counter(self._keys).items() if count > 1)
            raise DataError(f"{stage}: key {twice!r} is there twice", "give every input an id of its own")
        self._shards = max(1, -(-len(self._keys) // keys_per_shard))
        self._parts = record.identity(name_of(schema), stage, config, inputs or {}, self._keys)
        self._fingerprint = record.fingerprint(self._parts)
        self._lock = commit.Lock(self.out)
        self._run: dict[str, Any] = {}
        self._journal: dict[int, dict[str, Any]] = {}
        self._ids: set[str] = set()
        self._clock = time.monotonic()

    def __enter__(self) -> "Writer":
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"output {self.out} is not a folder", "give a folder with -o")
        if self._finished():
            return self
        commit.make_folder(self.out)
        try:
            self._lock.acquire()
            if not self._finished():  # until the lock was ours, another process may have finished it
                self._take_up()
        except BaseException:
            self._lock.release()
            raise
        if self.done:
            self._lock.release()
        return self

    def _finished(self) -> bool:
        """Whether the folder holds this run, finished, and as it was written: every file is read again."""
        manifest = record.read_json(self.out / record.MANIFEST)
        if manifest is None:
            return False
        self._run = record.read_json(self.out / record.RUN) or {}
        if manifest.get("fingerprint") != self._fingerprint:
            raise record.other_run(self.out, self._run, self._parts)
        if (size := sum(facts["bytes"] for facts in manifest["files"].values())) > _LONG_BYTES:
            log.warning("%s is finished; its %.0f GB are read to see that they are unchanged", self.out, size / 1e9)
        with ThreadPoolExecutor(8) as pool:  # hashing lets go of the interpreter
            for _ in pool.map(self._verify, manifest["files"].items()):
                pass
        self.done = True
        return True

    def _verify(self, file: tuple[str, Mapping[str, Any]]) -> None:
        path, facts = self.out / file[0], file[1]
        if not path.is_file() or path.stat().st_size != facts["bytes"] or commit.sha256_of(path) != facts["sha256"]:
            fix = f"copy it again, or remove {self.out} and run its command again"
            raise DataError(f"{path}: missing, damaged or changed, it is not what the manifest states", fix)

    def _take_up(self) -> None:
        """Begin the run, or find what an earlier process of it left."""
        run = record.read_json(self.out / record.RUN)
        if run is None:
            self._refuse_alien_files()
            run = record.begin(self._parts, self._shards, _now())
            record.write_run(self.out, run)
        elif run.get("fingerprint") != self._fingerprint:
            raise record.other_run(self.out, run, self._parts)
        self._run, self._shards = run, run["shards"]
        for name in ("data", "rejects"):
            commit.make_folder(self.out / name)
        self._journal = {entry["shard"]: entry for entry in record.resume(self.out)}
        for entry in self._journal.values():
            self.extra = dict(entry.get("extra", {}))
        self._sweep()
        for path in self._data_files():
            with pa.OSFile(str(path)) as source:
                self._ids.update(read_ids(source, self._schema.names[0], path)[0].to_pylist())

    def _refuse_alien_files(self) -> None:
        """A folder of something else is not ours to write into, least of all to clean up."""
        ours = {".lock", record.RUN + commit.TMP}
        alien = sorted(path.name for path in self.out.iterdir() if path.name not in ours)
        if alien:
            fix = "give another folder with -o, or empty this one"
            raise BusyError(f"{self.out} is not empty and holds no run of medvlm ({', '.join(alien[:3])})", fix)

    def _sweep(self) -> None:
        """Remove what no journal line vouches for."""
        kept = {self.out / name for entry in self._journal.values() for name in entry["files"]}
        for name in (record.RUN, record.CARD, record.MANIFEST, record.JOURNAL):
            commit.remove(self.out / (name + commit.TMP))
        for path in [*self.out.glob("data/part-*"), *self.out.glob("rejects/part-*")]:
            if path not in kept:
                commit.remove(path)

    def _data_files(self) -> list[Path]:
        return [self.out / name for name in self._files() if name.startswith("data/")]

    def _files(self) -> dict[str, dict]:
        """What the manifest says of each file: data before rejects, in the order of their rows."""
        entries = [self._journal[shard] for shard in sorted(self._journal)]
        files = {name: facts for entry in entries for name, facts in entry["files"].items()}
        return dict(sorted(files.items(), key=lambda item: item[0].split("/")[0]))

    def todo(self) -> Iterator[tuple[int, list[str]]]:
        """The shards still to make: number, and keys in the order they were given."""
        shards: list[list[str]] = [[] for _ in range(self._shards)]
        for key in self._keys if not self.done else ():
            shards[_shard_of(key, self._shards)].append(key)
        for number, keys in enumerate(shards):
            if not self.done and number not in self._journal:
                yield number, keys

    def commit(self, shard: int, harvests: Iterable[Harvest]) -> None:
        """Write one shard: its rows, its rejects, its journal line.

        Args:
            shard: a number that ``todo`` gave.
            harvests: one for each of the shard's keys, in their order; taken one at a time.

        Raises:
            DataError: a row is not what the schema says, or its id is there already.
            ResourceError: the disk refuses; what earlier commits wrote stays, and a rerun resumes.
        """
        rows = Shard(self.out, f"data/part-{shard:05d}", self._schema)
        rejects = Shard(self.out, f"rejects/part-{shard:05d}", REJECTS)
        ids: set[str] = set()
        found, reasons = 0, Counter[str]()
        try:
            for harvest in harvests:
                if harvest.found != len(harvest.rows) + len(harvest.rejects):
                    raise AssertionError(f"{self._stage}: {harvest.found} found, not rows + rejects: {_tally(harvest)}")
                found += harvest.found
                self._add_rows(rows, harvest.rows, ids)
                for reject in harvest.rejects:
                    rejects.add(_reject_row(reject, self._stage))
                    reasons[reject.reason] += 1
            files = rows.settle() | (rejects.settle() if reasons else {})
            rows.publish()
            rejects.publish()
        except BaseException:
            rows.discard()
            rejects.discard()
            raise
        counts = {"found": found, "rows": rows.rows, "rejected": rejects.rows, "reasons": dict(reasons)}
        entry = {"shard": shard, **counts, "seconds": self._lap(), "files": files}
        if self.extra:
            entry["extra"] = self.extra
        commit.append_line(self.out / record.JOURNAL, json.dumps(entry, default=str))
        self._journal[shard] = entry
        self._ids |= ids

    def _add_rows(self, shard: Shard, rows: list[dict], ids: set[str]) -> None:
        name = self._schema.names[0]
        for row in rows:
            id_ = str(row.get(name))  # of steps/1, a number; what is neither is refused with its batch
            if id_ in ids or id_ in self._ids:
                raise duplicate(shard.path, shard.taken, id_, name)
            ids.add(id_)
            shard.add(row)

    def _lap(self) -> float:
        """Seconds since the last call; they add up over the processes of a run."""
        last, self._clock = self._clock, time.monotonic()
        return round(self._clock - last, 3)

    @property
    def counts(self) -> Counts:
        """What is committed so far; of a finished dataset, all."""
        if self.done:
            told = self._run.get("counts", {})
            return Counts(told.get("in", 0), told.get("out", 0), told.get("rejected", 0), told.get("reasons", {}))
        reasons = Counter[str]()
        for entry in self._journal.values():
            reasons.update(entry["reasons"])
        found, out, rejected = (sum(e[name] for e in self._journal.values()) for name in ("found", "rows", "rejected"))
        return Counts(found, out, rejected, dict(sorted(reasons.items())))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self.done:
                self._finish()
        finally:
            self._lock.release()

    def _finish(self) -> None:
        """Write ``run.json``, the card and, last, the manifest."""
        missing = [number for number in range(self._shards) if number not in self._journal]
        counts = self.counts
        if missing or counts.found != counts.out + counts.rejected:
            raise AssertionError(f"{self._stage}: shards {missing} not committed, or rows lost: {counts}")
        told = {"in": counts.found, "out": counts.out, "rejected": counts.rejected, "reasons": counts.reasons}
        seconds = round(sum(entry["seconds"] for entry in self._journal.values()) + self._lap(), 3)
        run = {**self.extra, **self._run, "counts": told, "finished": _now(), "seconds": seconds}
        commit.write_text(self.out / record.CARD, card(self.out.name, name_of(self._schema), self._data_files(), run))
        record.write_run(self.out, run)
        manifest = {
            "schema": name_of(self._schema),
            "fingerprint": self._fingerprint,
            "rows": counts.out,
            "rejected": counts.rejected,
            "files": self._files(),
        }
        commit.write_text(self.out / record.MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _shard_of(key: str, shards: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8]) % shards


def _reject_row(reject: Reject, stage: str) -> dict[str, str | None]:
    """A reject as rejects/1 takes it; text that is not Unicode may be why it was rejected."""
    row = {"id": reject.id, "stage": stage, "reason": reject.reason, "message": reject.message, "raw": reject.raw}
    return {name: text and text.encode("utf-8", "backslashreplace").decode() for name, text in row.items()}


def _tally(harvest: Harvest) -> str:
    return f"{len(harvest.rows)} + {len(harvest.rejects)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_all(  # noqa: PLR0913 - the loop is called once a stage, and every argument is named there
    out: Path,
    schema: pa.Schema,
    make: Callable[[str], Harvest],
    *,
    stage: str,
    config: Mapping[str, Any],
    keys: Sequence[str],
    tell: Callable[[str, int, int | None], None],
    inputs: Mapping[str, Path] | None = None,
    keys_per_shard: int = KEYS_PER_SHARD,
) -> Counts:
    """Make a dataset key by key; the usual loop over ``Writer``, whose arguments and errors these are.

    Args:
        out: as ``Writer``, like all that is not named here.
        schema: of the rows.
        make: what one key gives.
        stage: also the name of the phase that ``tell`` is told.
        config: the resolved settings.
        keys: what rows are made of.
        tell: told the phase, the keys done and all keys, after every key.
        inputs: what the run reads.
        keys_per_shard: keys a shard holds on average.
    """
    with Writer(
        out, schema, stage=stage, config=config, inputs=inputs, keys=keys, keys_per_shard=keys_per_shard
    ) as writer:
        todo = list(writer.todo())
        done = len(keys) - sum(len(part) for _, part in todo)
        tell(stage, done, len(keys))

        def harvests(part: list[str]) -> Iterator[Harvest]:
            nonlocal done
            for harvest in map(make, part):
                yield harvest
                done += 1
                tell(stage, done, len(keys))

        for shard, part in todo:
            writer.commit(shard, harvests(part))
    return writer.counts
