"""From a teacher's reply to questions and answers, whatever shape it came in; nothing is invented, nothing raises.

Teachers are asked for lines that begin with ``User:`` and ``Assistant:``, and write them in bold, numbered, quoted,
with a preamble, as tags, as JSON, or cut off in the middle.  The rules, in the order in which they apply:

1. What a model thought before it spoke (``</think>``) is not looked at.
2. JSON is taken where it gives a whole pair; broken or cut off, its whole strings are.
3. Else a role counts at the beginning of a line: "Assistant:" within a sentence is part of the sentence.  Of the ways
   to mark a role (a colon; the name alone on its line; a dash or brackets) and of the names (``User``, ``Question``,
   ``Q`` ...) the first that gives both speakers is the reply's, and the others are words.
4. Only where lines give no pair, or one speaker twice in a row, is a role looked for behind the end of a sentence.
5. A turn ends at the next role, a rule, a fence or a heading; the last one also at a remark of the teacher, which
   stands behind an empty line and speaks of the conversation.
6. Turns of one role in a row are one.  An answer nobody asked for, a question nobody answers, and a pair of which one
   side has no words are left out.
7. Of a reply that was cut off the last turn is not whole: it is left out, with its question.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_cli.teachers.lines import INLINES, QUOTES, ROLES, Turn, plain, tidy, turns_of_lines

_LOST: Turn = ("", "")
"""Stands for a turn that cannot be read, lest its neighbours be taken for a pair, or for one turn."""
_KEYS = ROLES | {"prompt": "user", "query": "user", "response": "assistant", "model": "assistant", "bot": "assistant"}
"""Names of roles in JSON, some of them too common in running text."""
_START = re.compile(r"[\[{]")
_JSON_STARTS = 8
"""Places at which JSON is looked for and not found."""
_DEEPEST = 6
_SPEAKERS = ("role", "from", "speaker")
_WORDS = ("value", "content", "text", "message")
_SUFFIX = re.compile(r"(?:[ _-](?:question|answer|query|response|message|text|turn))?[\W\d_]{0,9}$")
_FIELD = re.compile(r"[\"'“](?P<name>\w{1,16})[\"'”]\s{0,20}:\s{0,20}(?P<quote>[\"'“])")
_BRACES = re.compile(r"[{}]")
_FIELD_ENDS = {
    opened: re.compile(rf"(?<!\\){closed}(?=\s{{0,99}},?\s{{0,99}}(?:[}}\]{{]|[\"'“]\w{{1,16}}[\"'”]\s{{0,20}}:))")
    for opened, closed in QUOTES.items()
}
"""By the quotation mark that opens a string, the one that ends it for certain: what follows is JSON."""


VERSION = 1
"""Raised when the parser reads a reply otherwise than before, so that answers that were kept are looked at again."""


@dataclass(frozen=True)
class Parsed:
    """What a reply holds."""

    pairs: tuple[tuple[str, str], ...]
    """Questions and answers, without ``<image>`` and role markers."""
    repairs: tuple[str, ...]
    """What was put right, as codes: ``preamble``, ``merged_turns``, ``dangling_question``, ``cut_off`` ..."""


def parse(text: str, truncated: bool = False) -> Parsed:
    """The questions and answers of a reply.

    Args:
        text: the reply, word for word.
        truncated: the teacher was cut off, so the last turn is not whole.
    """
    if text.startswith('"') and "\n" not in text.strip():  # all of it as one string of JSON
        text = _string(text.strip()[1:].removesuffix('"'))
    text = plain(text)
    found = _paired(*_from_json(text))
    if truncated and found.pairs:  # strings of JSON are whole or not there
        found = Parsed(found.pairs, (*found.repairs, "cut_off"))
    if not found.pairs:
        found = _paired(*turns_of_lines(text), truncated)
    if not found.pairs or "merged_turns" in found.repairs:
        texts = (inline.sub("\n", text) for inline in INLINES)
        split = (_paired(*turns_of_lines(one), truncated) for one in texts if one != text)
        found = next((one for one in split if len(one.pairs) > len(found.pairs)), found)
    return found


def _paired(turns: Sequence[Turn], repairs: Sequence[str], cut: bool = False) -> Parsed:
    """Every question that an answer follows; consecutive turns of one role are one."""
    codes = list(repairs)
    merged: list[tuple[str, list[str]]] = []
    for role, words in turns:
        if merged and merged[-1][0] == role:
            codes += ["merged_turns"] if words and any(merged[-1][1]) else []
            merged[-1][1].append(words)
        else:
            merged.append((role, [words]))
    if cut and merged:
        codes.append("cut_off")
        if merged.pop()[0] == "assistant" and merged and merged[-1][0] == "user":
            merged.pop()
    pairs: list[tuple[str, str]] = []
    before, asked = "", ""
    for role, parts in merged:
        words = "\n".join(filter(None, parts))
        if before == "user" and role != "assistant":
            codes.append("dangling_question")
        if role == "assistant" and before != "user":
            codes.append("leading_answer")
        elif role == "assistant":
            pairs += [(asked, words)] if asked and words else []
            codes += [] if asked and words else ["empty_turn"]
        before, asked = role, words
    codes += ["dangling_question"] if before == "user" else []
    return Parsed(tuple(pairs), tuple(dict.fromkeys(codes)))


# ---------------------------------------------------------------------- JSON


def _from_json(text: str) -> tuple[list[Turn], list[str]]:
    """Turns of all JSON in a text, whole, broken or cut off, and what was put right."""
    decoder = json.JSONDecoder(strict=False)  # raw control characters in strings come from real back ends
    turns: list[Turn] = []
    failed = at = 0
    while failed < _JSON_STARTS and (start := _START.search(text, at)):
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):  # cut off, or no JSON: what lies inside may be whole
            failed, at = failed + 1, start.end()
        else:
            turns += _said(value)
    if failed and len(salvaged := _salvaged(text)) > len(turns):
        return salvaged, ["json", "salvaged_json"]
    return turns, ["json"] if turns else []


def _said(value: Any, depth: int = 0) -> Iterator[Turn]:
    """Turns of a JSON value, wherever in it they are."""
    if isinstance(value, dict):
        if turns := _spoken(list(value.items())):
            yield from turns
            return
        value = list(value.values())
    if isinstance(value, str):
        yield from turns_of_lines(plain(value))[0]
    elif isinstance(value, list) and depth < _DEEPEST:
        if all(isinstance(entry, str) for entry in value):
            value = ["\n".join(value)]
        for entry in value:
            yield from _said(entry, depth + 1)


def _spoken(fields: list[tuple[str, Any]]) -> list[Turn]:
    """Turns of one JSON object: a role and its words, or words by role, the question first if there is one of each."""
    told = [(_SUFFIX.sub("", name.lower()), part) for name, part in fields]
    named = next((_text(part).strip().lower() for name, part in told if name in _SPEAKERS), "")
    if named in _KEYS:
        words = next((text for name, part in told if name in _WORDS and (text := _text(part))), "")
        return [(_KEYS[named], tidy(plain(words)))]
    turns = [(_KEYS[name], tidy(plain(_text(part)))) for name, part in told if name in _KEYS]
    if len(turns) == 1 and any(isinstance(part, list | dict) for _, part in told):
        return []  # {"user": "u-17", "turns": [...]}
    return sorted(turns, reverse=True) if len(turns) == 2 and turns[0][0] == "assistant" else turns


def _text(part: Any) -> str:
    """The text of a message that is a string, or a list of parts of which some are text."""
    if isinstance(part, list):
        return "\n".join(one["text"] for one in part if isinstance(one, dict) and isinstance(one.get("text"), str))
    return part if isinstance(part, str) else ""


def _salvaged(text: str) -> list[Turn]:
    """Turns of JSON that was cut off, or whose quotation marks and commas are wrong, by its whole strings."""
    turns: list[Turn] = []
    fields: list[tuple[str, Any]] = []
    ends: dict[str, re.Match[str]] = {}
    at, whole = 0, True
    while field := _FIELD.search(text, at):
        if _BRACES.search(text, at, field.start()):
            turns += _spoken(fields) if whole else [_LOST]
            fields, whole = [], True
        quote = field["quote"]
        if quote not in ends or ends[quote].start() < field.end():
            found = _FIELD_ENDS[quote].search(text, field.end())
            if found is None:
                break
            ends[quote] = found
        if _FIELD.search(text, field.end(), ends[quote].start()):  # its own end is missing
            whole, at = False, field.end()
        else:
            fields.append((field["name"], _string(text[field.end() : ends[quote].start()])))
            at = ends[quote].end()
    return turns + (_spoken(fields) if whole else [])


def _string(raw: str) -> str:
    """The text of a string of JSON, between its quotation marks; those within need no escape."""
    quoted = re.sub(r'(?<!\\)"', r"\"", raw.replace("\\'", "'"))
    try:
        return str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return raw
