"""Answers, gold answers and candidates as other tools write them, and as our own datasets hold them.

Answers are the JSON lines of LLaVA's tools (``question_id`` and ``text``) or answers/1; gold answers the JSON list of
LLaVA's data (``id``, ``conversations``, ``answer_type``) or questions/1; candidates a JSON list of texts.  The
published script pairs answers and questions by their place in the two files; here they are joined by id, which gives
the same scores and refuses what does not fit together.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Dataset, open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import ANSWERS, QUESTIONS
from medvlm_cli.core.scoring.items import Item

Choices = Callable[[str, str], list[str]]
"""Question and gold answer of a closed question in, what the question lets one choose from out."""

TEXT_COLUMNS = tuple(field.name for field in QUESTIONS if field.name != "image")
"""Of questions/1: all that scoring needs."""

_ARROW = b"ARROW1"
_LINE = 'give one object a line, {"question_id": ..., "text": ...}'
_ENTRY = 'give a list of {"id": ..., "answer_type": ..., "conversations": [{"value": question}, {"value": gold}]}'
_LIST = 'give a list of the answers to choose from, ["left", "right", ...]'
_KINDS = {"open": "open", "closed": "closed"}
_YES_NO = ("yes", "no")
_SHOWN = 3  # ids named in an error


@dataclass(frozen=True)
class Predictions:
    """Answers made by somebody."""

    answers: dict[str, str]
    """By question id."""
    sha256: str
    """Of the file, or of the dataset's manifest."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What was asked word for word, by question id, where that is known."""
    models: tuple[str, ...] = ()
    """Who answered, where that is known."""


@dataclass(frozen=True)
class References:
    """Questions with their gold answers."""

    items: list[Item]
    """In the order of the file, or of a dataset's ids."""
    sha256: str
    """Of the file, or of the dataset's manifest."""
    name: str
    """Of the file or folder, without its path."""
    benchmark: str = ""
    """Where it is known."""
    train: Sequence[Item] = ()
    """What ``training`` finds in the same dataset."""
    train_split: str = ""


def read_predictions(path: Path) -> Predictions:
    """The answers of a file of JSON lines, of an answers/1 dataset, or of a single Arrow file of its columns.

    Raises:
        DataError: it is not there, or a line is not what it must be; file and line are named.
    """
    return _predicted_rows(path) if _is_arrow(path) else _predicted_lines(path)


def _predicted_rows(path: Path) -> Predictions:
    dataset = open_dataset(path, ANSWERS)
    rows = list(dataset.rows(["question_id", "answer", "prompt", "checkpoint"]))
    if not rows:
        raise DataError(f"{path}: no answers in it", "score a dataset that holds some")
    answers = {row["question_id"]: row["answer"] for row in rows}
    prompts = {row["question_id"]: row["prompt"] for row in rows}
    return Predictions(answers, dataset.sha256, prompts, _different(rows, "checkpoint"))


def _predicted_lines(path: Path) -> Predictions:
    data = _bytes_of(path)
    rows: list[dict[str, Any]] = []
    lines: dict[str, int] = {}
    answers: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _object(line, where, _LINE)
        id_ = _id(row, "question_id", where, _LINE)
        if id_ in answers:
            raise DataError(f"{where}: question_id {id_!r} is in line {lines[id_]} already", "keep one answer of each")
        answers[id_], lines[id_] = _text(row, "text", where, _LINE), number
        if isinstance(row.get("prompt"), str):
            prompts[id_] = row["prompt"]
        rows.append(row)
    if not answers:
        raise DataError(f"{path}: no answers in it", _LINE)
    return Predictions(answers, _sha256(data), prompts, _different(rows, "model_id"))


def read_references(path: Path, split: str, choices: Choices) -> References:
    """The questions of a JSON list, or one split of a questions/1 dataset.

    Args:
        path: file or folder.
        split: of the dataset; a JSON list has none.
        choices: names what a closed question of a JSON list lets one choose from; a dataset knows.

    Raises:
        DataError: it is not there, or an entry is not what it must be; file and entry are named.
    """
    if _is_arrow(path):
        dataset = open_dataset(path, QUESTIONS)
        return References(
            asked(dataset, split), dataset.sha256, dataset.folder.name, _benchmark(dataset, split),
            *training(dataset, split),
        )  # fmt: skip
    data = _bytes_of(path)
    entries = _list(data, path, _ENTRY)
    items = [_reference(entry, f"{path}, entry {number}", choices) for number, entry in enumerate(entries, start=1)]
    _refuse_doubles([item.question_id for item in items], path)
    return References(items, _sha256(data), path.name)


def read_candidates(path: Path) -> tuple[list[str], str]:
    """What ``open accuracy`` chooses from, and the file's SHA-256.

    LLaVA-Med's own form, ``{"0": [...]}``, is refused: the published script takes its keys for the candidates and
    prints 0 without a word, so no number made with it means anything.

    Raises:
        DataError: it is not there, or not a list of texts.
    """
    data = _bytes_of(path)
    candidates = _list(data, path, _LIST)
    for number, candidate in enumerate(candidates, start=1):
        if not isinstance(candidate, str):
            raise DataError(f"{path}, entry {number}: {_kind(candidate)}, not a text", _LIST)
    return candidates, _sha256(data)


def image_reader(path: Path) -> Callable[[str], bytes] | None:
    """Reads the image of a question by its id; None where the questions are no dataset's folder."""
    if not path.is_dir():
        return None
    dataset = open_dataset(path, QUESTIONS)
    return lambda id_: dataset.row(id_, ["image"])["image"]["bytes"] or b""


def asked(dataset: Dataset, split: str) -> list[Item]:
    """The questions of one split, in order of their ids.

    Raises:
        DataError: there are none, or one has another kind than open and closed, or no gold answer.
    """
    rows = sorted(dataset.rows(TEXT_COLUMNS), key=lambda row: row["question_id"])
    items = [item_of(row, f"{dataset.folder}, question {row['question_id']}") for row in rows if row["split"] == split]
    if not items:
        splits = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise DataError(f"{dataset.folder}: no question of split '{split}'; splits: {splits}", "--set split=NAME")
    return items


def training(dataset: Dataset, split: str) -> tuple[list[Item], str]:
    """Questions whose gold answers a guesser may know, and their split: train, else val, else none.

    Args:
        dataset: questions/1.
        split: what is asked, which is never among them.
    """
    rows = sorted(dataset.rows(TEXT_COLUMNS), key=lambda row: row["question_id"])
    for name in ("train", "val"):
        found = [item_of(row, "") for row in rows if row["split"] == name and row["answers"] and row["kind"] in _KINDS]
        if found and name != split:
            return found, name
    return [], ""


def item_of(row: Mapping[str, Any], where: str) -> Item:
    """A row of questions/1 as it is scored.

    Raises:
        DataError: another kind than open and closed, or no gold answer; ``where`` stands before it.
    """
    if row["kind"] not in _KINDS or not row["answers"]:
        what = f"kind '{row['kind']}' and {len(row['answers'])} gold answers"
        raise DataError(f"{where}: {what}", "a question is open or closed, with one or more")
    return Item(
        question_id=row["question_id"], image_id=row["image_id"], kind=row["kind"], question=row["question"],
        golds=tuple(row["answers"]), choices=tuple(row["choices"]), category=row["category"] or "",
        answer_type=row["kind"].upper(),
    )  # fmt: skip


def refuse_mismatch(items: Sequence[Item], answers: Mapping[str, str], who: str) -> None:
    """Each question must have its answer, and no answer may be of another question.

    Args:
        items: the questions.
        answers: by question id.
        who: names the answers in the error.

    Raises:
        DataError: some are missing or too many; how many of each, and the first ids.
    """
    wanted = {item.question_id for item in items}
    missing = [item.question_id for item in items if item.question_id not in answers]
    extra = [id_ for id_ in answers if id_ not in wanted]
    told = [
        f"{len(ids):,} {what} ({', '.join(map(repr, ids[:_SHOWN]))}{', ...' if len(ids) > _SHOWN else ''})"
        for ids, what in ((missing, "questions have no answer"), (extra, "answers have no question"))
        if ids
    ]
    if told:
        counts = f"{len(answers):,} answers to {len(items):,} questions"
        fix = "give the answers to exactly these questions, each under the id of its question"
        raise DataError(f"{who}: {counts}: {'; '.join(told)}", fix)


def _reference(entry: Any, where: str, choices: Choices) -> Item:
    """One entry of a JSON list."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: {_kind(entry)}, not an object", _ENTRY)
    id_ = _id(entry, "id", where, _ENTRY)
    where = f"{where} ({id_!r})"
    question, gold = _said(entry, where)
    answer_type = _text(entry, "answer_type", where, 'say "OPEN" or "CLOSED"')
    by_answer = "closed" if gold.strip().lower() in _YES_NO else "open"
    kind = _KINDS.get(answer_type.strip().lower(), by_answer)
    image, category = entry.get("image"), entry.get("category")
    return Item(
        question_id=id_,
        image_id=image if isinstance(image, str) and image else id_,
        kind=kind,
        question=question,
        golds=(gold,),
        choices=tuple(choices(question, gold)) if kind == "closed" else (),
        category=category if isinstance(category, str) else "",
        answer_type=answer_type,
    )


def _said(entry: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Question and gold answer: the first two turns."""
    turns = entry.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns[:2]):
        raise DataError(f"{where}: 'conversations' is not a list of a question and an answer", _ENTRY)
    if turns[0].get("from") == "gpt" or turns[1].get("from") == "human":
        raise DataError(f"{where}: the conversation begins with the answer", "put the question of the human first")
    question, gold = (_text(turn, "value", f"{where}, turn {n}", _ENTRY) for n, turn in enumerate(turns[:2], start=1))
    return question.replace("<image>", "").strip(), gold


def _benchmark(dataset: Dataset, split: str) -> str:
    names = {row["benchmark"] for row in dataset.rows(["benchmark", "split"]) if row["split"] == split}
    return names.pop() if len(names) == 1 else ""


def _is_arrow(path: Path) -> bool:
    """A dataset's folder, or an Arrow file; what is not there counts as a file, which then is said to be missing."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_ARROW)) == _ARROW
    except OSError:
        return False


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", "check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", "check its permissions") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parsed(data: bytes, where: str, fix: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))  # some programs put a mark before UTF-8
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start + 1})", "save it as UTF-8") from error
    except RecursionError:
        raise DataError(f"{where}: not JSON that can be read, it is nested too deeply", fix) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in error.doc else f"character {error.pos + 1}"
        raise DataError(f"{where}: not whole JSON ({error.msg}, {place})", fix) from error
    except ValueError as error:  # a whole number of thousands of digits
        raise DataError(f"{where}: not JSON that can be read ({error})", fix) from error


def _object(line: bytes, where: str, fix: str) -> dict[str, Any]:
    row = _parsed(line, where, fix)
    if not isinstance(row, dict):
        raise DataError(f"{where}: {_kind(row)}, not an object", fix)
    _refuse_surrogates(row, where)
    return row


def _list(data: bytes, path: Path, fix: str) -> list[Any]:
    if not data.strip():
        raise DataError(f"{path}: the file is empty", fix)
    value = _parsed(data, str(path), fix)
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}: {'an empty list' if value == [] else f'{_kind(value)}, not a list'}", fix)
    for number, entry in enumerate(value, start=1):
        _refuse_surrogates(entry, f"{path}, entry {number}")
    return value


def _id(row: Mapping[str, Any], key: str, where: str, fix: str) -> str:
    """An id as text: 7 and "7" are one."""
    if key not in row:
        raise DataError(f"{where}: no {key!r}", fix)
    if isinstance(row[key], int) and not isinstance(row[key], bool):
        return str(row[key])
    if not isinstance(row[key], str) or not row[key]:
        what = _kind(row[key]) if row[key] != "" else "empty"
        raise DataError(f"{where}: {key!r} is {what}", "an id is a whole number or a text")
    return row[key]


def _text(row: Mapping[str, Any], key: str, where: str, fix: str) -> str:
    if key not in row:
        raise DataError(f"{where}: no {key!r}", fix)
    if not isinstance(row[key], str):
        raise DataError(f"{where}: {key!r} is {_kind(row[key])}, not a text", fix)
    return row[key]


def _refuse_surrogates(value: Any, where: str) -> None:
    """Refuse what JSON can spell and no file can hold, wherever in a value it is."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"{where}: lone surrogate \\u{ord(error.object[error.start]):04x}"
        raise DataError(what, "write the character whole: half of a pair is no text") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply", "give plain texts") from None


def _kind(value: Any) -> str:
    """How a JSON value is called."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = ((dict, "an object"), (list, "a list"), (str, "a text"))
    return next((name for type_, name in names if isinstance(value, type_)), f"the number {value}")


def _refuse_doubles(ids: Sequence[str], path: Path) -> None:
    seen: dict[str, int] = {}
    for number, id_ in enumerate(ids, start=1):
        if id_ in seen:
            what = f"{path}, entry {number}: id {id_!r} is in entry {seen[id_]} already"
            raise DataError(what, "keep one question of each id")
        seen[id_] = number


def _different(rows: Iterable[Mapping[str, Any]], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row[key] for row in rows if isinstance(row.get(key), str)))
