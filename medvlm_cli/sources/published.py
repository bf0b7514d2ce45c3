"""Published files of conversations, as LLaVA and its descendants write them, become conversations/1.

A row is ``{"id": ..., "image": "<figure>.jpg", "conversations": [{"from": "human" | "gpt", "value": ...}, ...]}``, and
may say ``"domain": {"ct_scan": true, ...}`` and who wrote it (``teacher`` or ``model``).  Files hold 500,000 of them,
so a key stands for a block of rows, and a process that is given the key reads that block alone.
"""

import functools
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.splits import split_of
from medvlm_cli.core.table import word
from medvlm_cli.sources.elements import elements, forget, parse, read_at
from medvlm_cli.sources.licenses import kept
from medvlm_cli.sources.places import SUFFIXES, ending
from medvlm_cli.sources.text import clean, clean_lines

REASONS = {
    "bad_row": "not a JSON object",
    "no_image": "the row names no image",
    "no_turns": "the row has no turns",
    "bad_turn": "a turn is not of a human or gpt, or has no text",
    "not_alternating": "question and answer do not take turns, or the last question has no answer",
    "empty_text": "a question or an answer has no words",
    "no_placeholder": "no turn says where the image stands",
    "many_placeholders": "the image stands in more than one place, or not in the first question",
}
"""Every reason for which a row is no conversation."""
DOMAINS = ("chest_xray", "mri", "histology", "gross", "ct_scan")
"""Kinds of image that a row may say its own is."""

_PLACEHOLDER = "<image>"
_TURNS = ("conversations", "conversatons")
"""The second is how the alignment file of LLaVA-Med spells it."""
_ROLES = {"human": "user", "gpt": "assistant"}
_BLOCK_ROWS = 256
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Publication:
    """What all rows of a published dataset share."""

    dataset: str
    """Name of the dataset, and of its folder."""
    kind: str
    """``caption`` or ``instruct``."""
    teacher: str
    """Who wrote it, where a row does not say more: ``llava-med``."""
    license: str
    """SPDX, or ``unknown``."""


@dataclass(frozen=True)
class _Block:
    path: Path
    label: str
    """How an error names the file."""
    first: int
    """Number of its first row, from 1."""
    start: int
    end: int


@dataclass
class _Index:
    """Where the rows lie, and what only those see who know all of them."""

    blocks: dict[str, _Block] = field(default_factory=dict)
    renamed: dict[tuple[str, int], str] = field(default_factory=dict)
    """Ids of rows whose own is that of an earlier row, by file and number."""
    domains: Counter[str] = field(default_factory=Counter)


def keys(config: FetchConfig, publication: Publication) -> list[str]:
    """One key a block of rows, ``<file>:<number of its first row>``, in order.

    All files are read through once, so that nothing is written of a file that is not whole.

    Raises:
        ConfigError: no file is given, or the licence does not allow the use asked for.
        DataError: a file is not there, not JSON, or holds no rows; names line and byte.
    """
    if not config.files:
        raise ConfigError("no published file is given", f"medvlm fetch {publication.teacher} FILE")
    if config.license and not kept(config.license, publication.license, third_party=False):
        what = f"{config.license} use was asked for, the licence of {publication.dataset} is {publication.license}"
        raise ConfigError(what, "leave --license out, or give --license all")
    _index.cache_clear()
    forget()
    return list(_index(config.files).blocks)


def domains(config: FetchConfig) -> dict[str, int]:
    """How many rows say that their image is of which kind, and how many say nothing (``none``)."""
    return dict(_index(config.files).domains)


def harvest(key: str, config: FetchConfig, publication: Publication) -> Harvest:
    """The conversations of one block of rows, and why the other rows are none.

    Args:
        key: one of ``keys(config)``.
        config: the published files.
        publication: what they are.
    """
    index = _index(config.files)
    block = index.blocks[key]
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    text = read_at(block.path, block.start, block.end).decode()
    for number, (value, raw) in enumerate(parse(text), block.first):
        id_ = index.renamed.get((block.label, number)) or _given_id(value)
        try:
            rows.append(_row(value, id_, publication))
        except _NoConversation as error:
            message = clean(f"{block.label}, row {number}: {error}")
            rejects.append(Reject(id_ or f"{block.label}:{number}", error.reason, message, raw))
    return Harvest(len(rows) + len(rejects), rows, rejects)


@functools.lru_cache(maxsize=1)
def _index(files: tuple[str, ...]) -> _Index:
    """Made by every process for itself: a pass over the files, which is less than it takes to hand the ids around."""
    index = _Index()
    taken: set[str] = set()
    again: dict[str, int] = {}
    labels = Counter[str]()
    for file in files:
        path = Path(file)
        labels[path.name] += 1
        label = path.name if labels[path.name] == 1 else f"{path.name}~{labels[path.name]}"
        number, first, start, end = 0, 1, -1, -1
        for number, element in enumerate(elements(path), 1):
            if start >= 0 and (number - first >= _BLOCK_ROWS or element.end - start > _BLOCK_BYTES):
                index.blocks[f"{label}:{first}"] = _Block(path, label, first, start, end)
                first, start = number, -1
            start, end = element.start if start < 0 else start, element.end
            id_ = _given_id(element.value)
            if id_ in taken:
                index.renamed[label, number] = id_ = _another(id_, taken, again)
            if id_:
                taken.add(id_)
            index.domains.update(_domains(element.value))
        if not number:
            raise DataError(f"{path.name}: no rows", "give the published file")
        index.blocks[f"{label}:{first}"] = _Block(path, label, first, start, end)
    return index


def _another(id_: str, taken: set[str], again: dict[str, int]) -> str:
    """``<id>~2`` for the second row of an id, and so on."""
    number = again.get(id_, 2)
    while f"{id_}~{number}" in taken:
        number += 1
    again[id_] = number + 1
    return f"{id_}~{number}"


def _domains(value: Any) -> list[str]:
    told = value.get("domain") if isinstance(value, dict) else None
    return [name for name in DOMAINS if isinstance(told, dict) and told.get(name) is True] or ["none"]


class _NoConversation(Exception):
    """Why a row is no conversation; it becomes a reject."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _given_id(value: Any) -> str:
    """The row's own id, else its figure's; empty where it has neither."""
    if not isinstance(value, dict):
        return ""
    return clean(word(value.get("id"))) or _figure_id(value)


def _figure_id(value: dict[str, Any]) -> str:
    """The image's name without folders and ending, which is the figure's id in the published list of images."""
    image = value.get("image")
    name = clean(image).replace("\\", "/").rpartition("/")[2] if isinstance(image, str) else ""
    return name[: -len(ending(name))] if ending(name) in SUFFIXES else name


def _row(value: Any, id_: str, publication: Publication) -> dict[str, Any]:
    """A row of conversations/1.

    Raises:
        _NoConversation: there is none in it.
    """
    if not isinstance(value, dict):
        raise _NoConversation("bad_row", f"not a JSON object but {type(value).__name__}")
    figure = _figure_id(value)
    if not figure:
        raise _NoConversation("no_image", "it names no image")
    turns = _turns(value)
    told = next((clean(name) for key in ("teacher", "model") if (name := word(value.get(key)))), "")
    teacher = f"imported:{publication.teacher}" + (f":{told[:80]}" if told else "")
    return {
        "conversation_id": id_, "figure_id": figure, "kind": publication.kind, "turns": turns,
        "teacher": teacher, "teacher_planned": teacher,
        "prompt_id": hashlib.sha256(publication.dataset.encode()).hexdigest()[:12],
        "request_sha256": None, "raw_response": None, "stop_reason": None,
        "input_tokens": None, "output_tokens": None, "cost_usd": None,
        "license_tags": [publication.license], "split": split_of(figure),
    }  # fmt: skip


def _turns(value: dict[str, Any]) -> list[dict[str, str]]:
    given = next((value[name] for name in _TURNS if name in value), None)
    if not isinstance(given, list) or not given:
        raise _NoConversation("no_turns", f"no list '{_TURNS[0]}' with turns in it")
    turns = []
    for number, turn in enumerate(given, 1):
        role = turn.get("from") if isinstance(turn, dict) else None
        if not isinstance(role, str) or role not in _ROLES or not isinstance(turn.get("value"), str):
            raise _NoConversation("bad_turn", f"turn {number} is not of 'human' or 'gpt' with a text as its 'value'")
        if _ROLES[role] != ("assistant", "user")[number % 2]:
            other = "gpt" if role == "human" else "human"
            raise _NoConversation("not_alternating", f"turn {number} is of '{role}', where '{other}' must speak")
        turns.append({"role": _ROLES[role], "text": clean_lines(turn["value"])})  # may make a placeholder: count after
    if len(turns) % 2:
        raise _NoConversation("not_alternating", f"turn {len(turns)} is a question without an answer")
    places = [number for number, turn in enumerate(turns, 1) for _ in range(turn["text"].count(_PLACEHOLDER))]
    if not places:
        raise _NoConversation("no_placeholder", f"no turn holds {_PLACEHOLDER}")
    if places != [1]:
        where = ", ".join(map(str, places[:8]))
        raise _NoConversation("many_placeholders", f"{_PLACEHOLDER} stands in turn {where}, not once in the first")
    before, _, after = turns[0]["text"].partition(_PLACEHOLDER)
    words = clean_lines(f"{before} {after}")
    empty = next((number for number, turn in enumerate(turns, 1) if not (words if number == 1 else turn["text"])), 0)
    if empty:
        raise _NoConversation("empty_text", f"turn {empty} has no words")
    turns[0]["text"] = f"{words}\n{_PLACEHOLDER}" if not after.strip() else f"{_PLACEHOLDER}\n{words}"
    return turns
