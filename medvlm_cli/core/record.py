"""What identifies a run, and the record it leaves: ``run.json`` and ``journal.jsonl``.

Two runs are the same when schema, stage, settings, inputs (by hash) and keys are.  A folder belongs to one run.
"""

import hashlib
import json
import logging
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medvlm_cli import __version__
from medvlm_cli.core import commit, parts
from medvlm_cli.core.errors import BusyError, DataError

MANIFEST = "manifest.json"
RUN = "run.json"
JOURNAL = "journal.jsonl"
CARD = "README.md"

_SECRET = re.compile(
    r"sk-ant-[\w-]+|\bhf_\w{8,}|(?i:(?<=api_key=)|(?<=api-key=)|(?<=token=)|(?<=password=))(?!\.\.\.)[^\s\"'&]+"
    r"|(?<=://)[^\s/@\"']+(?=@)"  # user and password of an address
)
_SECRET_OPTION = re.compile(r"--?[\w-]*(key|token|secret|password)", re.IGNORECASE)

log = logging.getLogger(__name__)


def identity(
    schema: str, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path], keys: Sequence[str]
) -> dict[str, Any]:
    """What makes a run this run, as JSON takes it.

    Args:
        schema: name and number, ``figures/1``.
        stage: which code writes, ``fetch``.
        config: the resolved settings, as ``core.config.as_dict`` gives them.
        inputs: what the run reads, by the name it has for the stage; see ``hash_input``.
        keys: what the run makes rows of, in order.

    Raises:
        DataError: an input is not there.
    """
    digest = hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()
    parts = {
        "schema": schema,
        "stage": stage,
        "config": dict(config),
        "inputs": {name: hash_input(Path(path)) for name, path in inputs.items()},
        "keys": {"count": len(keys), "sha256": digest},
    }
    return json.loads(json.dumps(parts, default=str))  # tuples are lists, paths text: as run.json gives them back


def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of an identity, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_input(path: Path) -> str:
    """SHA-256 of an input: of its manifest if it is a dataset, of the file, else of every file of the folder.

    Raises:
        DataError: there is nothing.
    """
    if path.is_file():
        return commit.sha256_of(path)
    if (path / MANIFEST).is_file():
        return commit.sha256_of(path / MANIFEST)
    if not path.is_dir():
        raise DataError(f"no input at {path}")
    if pieces := parts.whole(path, MANIFEST):
        return hashlib.sha256("".join(hash_input(piece) for piece in pieces).encode()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listing = [(file.relative_to(path).as_posix(), commit.sha256_of(file)) for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def other_run(folder: Path, there: Mapping[str, Any], parts: Mapping[str, Any]) -> BusyError:
    """The error for a folder that another run has begun or finished: every difference, old -> new."""
    old, new = _flat(there), _flat(parts)
    lines = [
        f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    if any(line.startswith("keys count") for line in lines):
        lines = [line for line in lines if not line.startswith("keys sha256")]
    what = f"{folder} holds another run: {'; '.join(lines) or 'its record is lost'}"
    return BusyError(redact(what), f"give another folder with -o, or remove {folder} to start over")


def _flat(parts: Mapping[str, Any]) -> dict[str, str]:
    """``{"schema": ..., "config n": ..., "inputs figures": ..., "keys count": ...}`` as text to compare and to show."""
    flat = {}
    for name in ("schema", "stage", "config", "inputs", "keys"):
        value = parts.get(name, {})
        entries = {f"{name} {key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        flat.update({key: redact(json.dumps(part, ensure_ascii=False)) for key, part in entries.items()})
    return flat


def redact(text: str) -> str:
    """``text`` without what looks like a key."""
    return _SECRET.sub("***", text)


def begin(parts: Mapping[str, Any], shards: int, started: str) -> dict[str, Any]:
    """The record of a run that begins.

    Args:
        parts: its identity.
        shards: over how many its keys are spread.
        started: when, ISO 8601.
    """
    argv = [
        "***" if _SECRET_OPTION.fullmatch(before) else argument
        for before, argument in zip(["", *sys.argv], sys.argv, strict=False)
    ]
    return {
        "medvlm": __version__,
        "argv": argv,
        "python": platform.python_version(),
        "pyarrow": version("pyarrow"),
        "fingerprint": fingerprint(parts),
        **parts,
        "shards": shards,
        "started": started,
    }


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write ``run.json``, without anything that looks like a key."""
    commit.write_text(folder / RUN, redact(json.dumps(run, indent=1, ensure_ascii=False, default=str)) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of ours; None when there is no such file.

    Raises:
        DataError: it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})", f"remove {path.parent} and run its command again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a JSON object", f"remove {path.parent} and run its command again")
    return value


def resume(folder: Path) -> list[dict[str, Any]]:
    """The journal's lines whose files are still there as they were written; the journal keeps only these.

    Every file's size is compared, and the last shard's hash: what was written last is what a crash of the machine can
    have cut.  A shard that does not pass is made again.
    """
    path = folder / JOURNAL
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    entries = {entry["shard"]: entry for line in lines if (entry := _entry(line)) and _intact(folder, entry, False)}
    kept = list(entries.values())
    while kept and not _intact(folder, kept[-1], True):
        kept.pop()
    text = "".join(json.dumps(entry) + "\n" for entry in kept)
    if text.encode() != path.read_bytes():
        log.warning("%s: %d of %d lines hold; the other shards are made again", path, len(kept), len(lines) - 1)
        commit.write_text(path, text)
    return kept


def _entry(line: bytes) -> dict[str, Any] | None:
    """A journal line; None for one that a kill or a crash cut off."""
    try:
        entry = json.loads(line)
        return entry if isinstance(entry, dict) and "shard" in entry and "files" in entry else None
    except ValueError:
        return None


def _intact(folder: Path, entry: dict[str, Any], hashed: bool) -> bool:
    for name, facts in entry["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return False
        if hashed and commit.sha256_of(path) != facts["sha256"]:
            return False
    return True
