"""``report.html`` of an evaluation: the scores, and every answer beside its image, to be searched and filtered.

The words of the questions, the gold answers and the model are strangers' text; what keeps them from acting in the page
is in ``page``.  These pages carry one script, ``answers.js``, which holds no data and is the only one that the page's
policy lets run, by its hash.
"""

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medvlm_cli.core import commit
from medvlm_cli.core.headline import header, protocols
from medvlm_cli.core.page import WORD, cut, filters, rendered, spread, thumbnail, word
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.items import Item

MOST_BYTES = 30_000_000
"""Most bytes of a page."""
IMAGE_BYTES = 18_000_000
"""Most bytes of all images of a page; those of later questions are left out."""
ROOM = ((4000, 10_000), (1000, 10_000), (300, 10_000), (120, 4_000))
"""Most characters of a text and most questions, the first pair with which the page is small enough."""
_PROMPTS, _PROMPT = 4, 4000
"""Most different prompts that are shown, and most characters of each."""
_QUESTION = "{question}"
"""Stands for the question in a prompt that is shown once for all questions."""
_MANY = 8
"""Most gold answers of a question that are shown."""
_NOT_SCORED = "not scored"
_NAMES = {
    "recall": "recall",
    "accuracy": "accuracy",
    "f1": "F1",
    "precision": "precision",
    "exact_match": "exact match",
    "open_accuracy": "open accuracy",
}
"""Scores that are shown with an answer, the main ones first; in per cent."""


@dataclass(frozen=True)
class Entry:
    """A question and what one run answered, with its scores by both protocols."""

    question_id: str
    image: Callable[[], bytes] | None
    """Called once for each different ``image_id`` of a benchmark, or for each question where that is empty."""
    question: str
    golds: Sequence[str]
    choices: Sequence[str]
    kind: str
    category: str
    answer: str
    prompt: str
    """Word for word what the model was given; empty where nobody knows."""
    published: Mapping[str, float]
    """Scores from 0 to 1 by their names, as in ``llama3med.Published.rows``; empty where the protocol skips the row."""
    strict: Mapping[str, float]
    """As in ``strict.Strict.rows``."""
    benchmark: str = ""
    image_id: str = ""
    """Questions with the same one stand together, under one copy of the image."""
    finish: str = ""
    """``stop``, or ``length`` where the answer was cut."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a page shows of a run's questions beside what they are scored by."""

    benchmark: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """By question id, where they are known."""
    image: Callable[[str], bytes] | None = None
    """Reads the image of a question; None where nobody has it."""
    candidates: Sequence[str] | None = None
    """What open accuracy chose from."""


def entries_of(items: Sequence[Item], answers: Mapping[str, str], shown: Shown) -> Iterator[Entry]:
    """Every question with the answer of one run, scored by both protocols, in the order of ``items``.

    Raises:
        DataError: as ``llama3med.published``.
    """
    published = llama3med.published(items, answers, shown.candidates).rows
    honest = strict.strict(items, answers).rows
    for item in items:
        yield Entry(
            question_id=item.question_id,
            image=shown.image and functools.partial(shown.image, item.question_id),
            question=item.question,
            golds=item.golds,
            choices=item.choices,
            kind=item.kind,
            category=item.category,
            answer=answers[item.question_id],
            prompt=shown.prompts.get(item.question_id, ""),
            published=published.get(item.question_id, {}),
            strict=honest[item.question_id],
            benchmark=shown.benchmark,
            image_id=item.image_id,
        )


def write_answers_page(path: Path, entries: Iterable[Entry], facts: Mapping[str, Any]) -> None:
    """Write the page of one run, replacing an earlier one; the same input gives the same bytes.

    The page has at most ``MOST_BYTES``: where the answers need more, texts are cut shorter, then questions are left
    out, as evenly over benchmarks, kinds and verdicts as these allow; the page says how many.

    Args:
        path: the file to write.
        entries: in the order of the page; those of one image are brought together where its first one stands.
        facts: the document of ``scores.json``; what it lacks is not shown.

    Raises:
        ResourceError: the disk refuses.
    """
    _write(path, [(entry,) for entry in entries], facts, (), 0)


def write_compare_page(path: Path, entries_of_two: Iterable[tuple[Entry, Entry]], facts: Mapping[str, Any]) -> None:
    """Write the page of two runs side by side: the questions that they answered differently.

    Args:
        path: the file to write.
        entries_of_two: the same question as the one and as the other run answered it.
        facts: the document of ``compare.json``; what it lacks is not shown.

    Raises:
        ResourceError: the disk refuses.
    """
    pairs = list(entries_of_two)
    differ = [pair for pair in pairs if pair[0].answer != pair[1].answer]
    _write(path, differ, facts, ("A", "B"), len(pairs) - len(differ))


def _write(
    path: Path, answered: Sequence[tuple[Entry, ...]], facts: Mapping[str, Any], runs: Sequence[str], same: int
) -> None:
    script = files("medvlm_cli.core").joinpath("answers.js").read_text("utf-8")
    ids, images = protocols(facts), _Images()
    for characters, most in ROOM:
        chosen = [answered[position] for position in spread(map(_stratum, answered), most)]
        if (characters, most) != ROOM[-1] and _least(chosen, characters) > MOST_BYTES:
            continue  # making it would take the time and the memory for nothing
        rows = [_row(entries, characters, runs, ids) for entries in chosen]
        page = rendered(
            "medvlm_cli.core",
            "answers.html",
            header=header(facts),
            prompts=_prompts(answered, bool(runs)),
            filters=(),  # of style sheets; these pages filter by their script
            choices=[group for group in filters(rows) if len(group.options) > 1],
            groups=_groups(chosen, rows, images),
            shown=len(rows),
            rows=len(answered),
            same=same,
            comparing=bool(runs),
            script=Markup(script),
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
        if len(page.encode()) <= MOST_BYTES:
            break
    commit.write_text(path, page)


def _least(chosen: Sequence[tuple[Entry, ...]], characters: int) -> int:
    """Fewer bytes than a page of these answers can have: a character of text takes one or more."""
    return sum(min(len(text), characters) for entries in chosen for text in _texts(entries))


def _texts(entries: tuple[Entry, ...]) -> Iterator[str]:
    yield entries[0].question
    yield from entries[0].golds[:_MANY]
    for entry in entries:
        yield entry.answer


def _stratum(entries: tuple[Entry, ...]) -> tuple[str, str]:
    """What kind of row it is, and its id, for a fair choice among too many."""
    first = entries[0]
    verdicts = [verdict(scores) for entry in entries for scores in (entry.published, entry.strict)]
    return "\0".join([first.benchmark, first.kind, *verdicts]), f"{first.benchmark}\0{first.question_id}"


def verdict(scores: Mapping[str, float]) -> str:
    """``right``, ``partly`` or ``wrong`` by the accuracy of a closed answer and the recall of an open one."""
    main = _main(scores)
    if main is None:
        return _NOT_SCORED
    return "right" if main >= 1 else "wrong" if main <= 0 else "partly"


def _main(scores: Mapping[str, float]) -> float | None:
    return scores.get("accuracy", scores.get("recall"))


def _row(entries: tuple[Entry, ...], characters: int, runs: Sequence[str], ids: Mapping[str, str]) -> dict[str, Any]:
    """A question as the template shows it; ``kinds`` holds its value for each filter."""
    first = entries[0]
    kinds: dict[str, str | tuple[str, ...]] = {
        "Set": word(first.benchmark) or "unknown",
        "Kind": word(first.kind),
        "Category": word(first.category) or "none",
    }
    return {
        "id": word(first.question_id),
        "question": cut(first.question, characters),
        "golds": [cut(gold, characters) for gold in first.golds[:_MANY]],
        "more_golds": max(0, len(first.golds) - _MANY),
        "choices": cut(", ".join(first.choices), characters),
        "kind": kinds["Kind"],
        "category": word(first.category),
        "answers": [
            _answer(entry, characters, ids) | {"run": name} for entry, name in zip(entries, runs or ("",), strict=True)
        ],
        "kinds": kinds | (_which_is_better(first, entries[-1], ids) if runs else _how_it_went(first, ids)),
    }


def _answer(entry: Entry, characters: int, ids: Mapping[str, str]) -> dict[str, Any]:
    return {
        "text": cut(entry.answer, characters),
        "cut": entry.finish == "length",
        "verdicts": [_told(ids["llama3med"], entry.published), _told(ids["strict"], entry.strict)],
    }


def _told(protocol: str, scores: Mapping[str, float]) -> dict[str, str]:
    """A verdict with the scores behind it."""
    found = verdict(scores)
    shown = found if not scores.get("unparsed") else f"{found}, unparsed"
    figures = ", ".join(f"{_NAMES[name]} {100 * scores[name]:.4g}" for name in _NAMES if name in scores)
    return {"protocol": protocol, "verdict": shown, "looks": found.replace(" ", "-"), "figures": figures}


def _how_it_went(entry: Entry, ids: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    published, strict = verdict(entry.published), verdict(entry.strict)
    return {
        ids["llama3med"]: published,
        ids["strict"]: (strict, "unparsed") if entry.strict.get("unparsed") else strict,
        "The protocols": "agree" if published == strict else "disagree",
        "The answer ended": {"stop": "by itself", "length": "cut"}.get(entry.finish, "unknown"),
    }


def _which_is_better(one: Entry, other: Entry, ids: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    return {
        ids["llama3med"]: _better(_main(one.published), _main(other.published)),
        ids["strict"]: _better(_main(one.strict), _main(other.strict)),
    }


def _better(one: float | None, other: float | None) -> str:
    if one is None or other is None:
        return _NOT_SCORED
    return "equal" if one == other else "A better" if one > other else "B better"


def _prompts(answered: Sequence[tuple[Entry, ...]], named: bool) -> list[dict[str, Any]]:
    """The different prompts with a mark in the question's place, the commonest first."""
    counts = Counter(
        (name if named else "", _around(entry))
        for entries in answered
        for name, entry in zip("AB", entries, strict=False)
        if entry.prompt
    )
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    told = [{"run": name, "text": cut(text, _PROMPT), "count": count} for (name, text), count in most[:_PROMPTS]]
    return told + [{"run": "", "text": "", "count": len(most) - _PROMPTS}] * (len(most) > _PROMPTS)


def _around(entry: Entry) -> str:
    """The prompt of an entry without its question, which the words before it may hold by chance."""
    before, found, after = entry.prompt.rpartition(entry.question) if entry.question else ("", "", "")
    return f"{before}{_QUESTION}{after}" if found else entry.prompt


class _Images:
    """The thumbnails of a page, made once even where the page is made anew with less text."""

    def __init__(self) -> None:
        self._made: dict[str, dict[str, Any] | None] = {}
        self._bytes = 0
        self._key_of: dict[tuple[str, str], str] = {}

    def key(self, entry: Entry) -> str:
        """The hash of an entry's image, which is read once for each different name of an image; empty without one."""
        if entry.image is None:
            return ""
        name = (entry.benchmark, entry.image_id or f"\0{entry.question_id}")
        if name not in self._key_of:
            data = entry.image()
            key = self._key_of[name] = hashlib.sha256(data).hexdigest()
            if key not in self._made:
                small = thumbnail(data, entry.image_id or entry.question_id) or {
                    "address": "",
                    "why": "cannot be decoded",
                }
                self._made[key] = self._room(small)
        return self._key_of[name]

    def _room(self, small: dict[str, Any]) -> dict[str, Any]:
        size = len(small["address"])
        if self._bytes + size > IMAGE_BYTES:
            return {"address": "", "why": "left out, the page is full"}
        self._bytes += size
        return small

    def shown(self, key: str) -> dict[str, Any] | None:
        """The thumbnail, or why there is none."""
        return self._made[key] if key else None


def _groups(
    chosen: Sequence[tuple[Entry, ...]], rows: Sequence[dict[str, Any]], images: _Images
) -> list[dict[str, Any]]:
    """The rows by their image, in the order in which the first of each comes."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for (first, *_), row in zip(chosen, rows, strict=True):
        key = images.key(first)
        same = (first.benchmark, key or first.image_id or f"\0{first.question_id}")
        name = cut(first.image_id or first.question_id, WORD)
        group = groups.setdefault(same, {"image": images.shown(key), "name": name, "rows": []})
        group["rows"].append(row)
    return list(groups.values())
