"""``replay:PATH``: answers that were recorded, by the hash of the request, in place of a teacher.

The recording is a dataset of replies/1, or of conversations/1 as ``synthesize`` writes it, or one Arrow file of either.
What all requests share (prompt, shots, models, parameters, mix) is in the metadata of its schema and holds again, so
that every request is made anew, byte for byte, and finds its answer by its hash.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from medvlm_cli.core.arrow import Dataset, open_dataset
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.listing import metadata_of
from medvlm_cli.core.record import MANIFEST, read_json
from medvlm_cli.core.schemas import CONVERSATIONS, REPLIES, TAUGHT
from medvlm_cli.teachers.asks import Family
from medvlm_cli.teachers.ledger import Answered, Ask
from medvlm_cli.teachers.prices import NANO
from medvlm_cli.teachers.prompt import Prompt, from_words
from medvlm_cli.teachers.replies import Reply, Usage

ASKED = b"asked"
"""Name of the schema's metadata that holds what all requests share."""
_KEPT = ("mix", "mix_mode", "seed", "limit", "format", "on_refusal", "claude_model", "claude_max_tokens", "effort",
         "llama_model", "llama_max_tokens", "temperature", "judge")  # fmt: skip
"""Settings that decide which requests there are."""


def asked(config: SynthesizeConfig, prompt: Prompt) -> dict[bytes, bytes]:
    """What all requests of a run share, as metadata of an Arrow schema."""
    words = {"name": prompt.name, "system": prompt.system, "shots": prompt.words()}
    settings = {name: getattr(config, name) for name in (*_KEPT, "teacher")}
    return {ASKED: json.dumps({"prompt": words, "settings": settings}, ensure_ascii=False).encode()}


class Recording:
    """A recording; made by ``open_recording``."""

    def __init__(self, dataset: Dataset, whole: bool) -> None:
        self._dataset = dataset
        self._whole = whole
        self.sha256 = dataset.sha256
        """Of the dataset."""
        told = dataset.metadata.get(ASKED)
        self._asked: dict[str, Any] = json.loads(told) if told else {}

    @functools.cached_property
    def prompt(self) -> Prompt | None:
        """The prompt that was recorded; None where the recording does not say."""
        words = self._asked.get("prompt")
        return from_words(words["name"], words["system"], words["shots"]) if words else None

    def settings(self, config: SynthesizeConfig) -> SynthesizeConfig:
        """The user's settings with those of the recording that decide which requests there are."""
        told = {name: value for name, value in self._asked.get("settings", {}).items() if name in (*_KEPT, "teacher")}
        if not self._whole:  # what a judge said is in replies/1 only
            told["judge"] = ""
        return dataclasses.replace(config, **({"teacher": "mix"} | told))

    def answers(self, families: Mapping[str, Family], purpose: str = "teach") -> Iterator[Answered]:
        """Every recorded answer of these teachers."""
        names = {family.label: family for family in families.values()}
        for row in self._dataset.rows(_COLUMNS if self._whole else _CONVERSATION_COLUMNS):
            if row["request_sha256"] is None or row["raw_response"] is None or row["teacher"] not in names:
                continue
            if row.get("outcome", "answered") == "answered" and row.get("purpose", "teach") == purpose:
                yield _answered(row, names[row["teacher"]], purpose)

    def failure(self, key: str) -> tuple[str, str]:
        """Code and message of a request without a recorded answer."""
        return self._failures.get(key, ("no_recorded_reply", key))

    @functools.cached_property
    def _failures(self) -> dict[str, tuple[str, str]]:
        if not self._whole:
            return {}
        rows = self._dataset.rows(["request_sha256", "outcome", "raw_response"])
        return {
            row["request_sha256"]: (row["outcome"], row["raw_response"] or "")
            for row in rows
            if row["outcome"] != "answered"
        }


_COLUMNS = [name for name in REPLIES.names if name != "request"]
_CONVERSATION_COLUMNS = [name for name in TAUGHT.names if name in REPLIES.names and name != "request"]


def open_recording(teacher: str) -> Recording:
    """The recording behind ``replay:PATH``.

    Raises:
        ConfigError: there is nothing at the path.
        DataError: it is no recording.
    """
    path = Path(teacher.removeprefix("replay:"))
    if not path.exists():
        raise ConfigError(f"--teacher {teacher}: nothing at {path}", "give a dataset of replies or of conversations")
    if path.is_dir() and not (path / MANIFEST).exists() and (path / "replies" / MANIFEST).exists():
        path = path / "replies"
    schema = _schema_of(path)
    dataset = open_dataset(path, schema)
    if schema is CONVERSATIONS:
        missing = [name for name in _CONVERSATION_COLUMNS if name not in dataset.columns]
        if missing:
            what = f"{path}: conversations without {', '.join(missing[:3])}: nobody's answers are recorded there"
            raise DataError(what, "give a dataset that `medvlm synthesize` wrote with a teacher that it asked")
    return Recording(dataset, schema is REPLIES)


def _schema_of(path: Path) -> pa.Schema:
    """Replies or conversations; which of both is not told by a broken file, so ``open_dataset`` finds its fault."""
    if path.is_dir():
        name = str((read_json(path / MANIFEST) or {}).get("schema", ""))
    else:
        try:
            name = metadata_of(path).get(b"medvlm", b"").decode("utf-8", "replace")
        except (DataError, pa.ArrowException, OSError):
            name = ""
    return REPLIES if "replies/" in name else CONVERSATIONS


def _answered(row: Mapping[str, Any], family: Family, purpose: str) -> Answered:
    usage = Usage(
        input_tokens=row["input_tokens"] or 0,
        output_tokens=row["output_tokens"] or 0,
        cache_write_5m=row["cache_write_tokens"] or 0,
        cache_read=row["cache_read_tokens"] or 0,
        thinking_tokens=row["thinking_tokens"] or 0,
    )
    category = row.get("stop_category")
    reply = Reply(
        text=row["raw_response"], stop_reason=row["stop_reason"] or "", stop_category=category, usage=usage,
        served_model=row["served_model"] or "", provider_id=row["provider_id"] or "",
    )  # fmt: skip
    ask = Ask(row["request_sha256"], row["figure_id"], purpose, family.name, family.model)
    cost = round((row["cost_usd"] or 0.0) * NANO)
    return Answered(ask, reply, cost, False, row["replied"] or "", row["attempts"] or 0)
