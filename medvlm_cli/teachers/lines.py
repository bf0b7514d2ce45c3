"""Turns of a text whose lines begin with the name of who speaks, and what a text is cleaned of."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Turn = tuple[str, str]
"""Role (``user``, ``assistant``, or ``system`` for nobody) and words."""

_SPOKEN = {
    "user": "user", "human": "user", "colleague": "user",
    "assistant": "assistant", "ai": "assistant", "gpt": "assistant", "specialist": "assistant", "system": "system",
}  # fmt: skip
_WRITTEN = {"question": "user", "answer": "assistant"}
_LETTERS = {"q": "user", "u": "user", "a": "assistant"}
ROLES = _SPOKEN | _WRITTEN | _LETTERS
_FAMILIES = (_SPOKEN, _WRITTEN, _LETTERS, _SPOKEN | _WRITTEN)
"""Names that go together in one reply."""

_COLON, _ALONE, _WEAK = 2, 1, 0
"""How a role is marked: with a colon; by a line of its own, or ``Q.``; by a dash or brackets."""

_DRESS = r"(?:[^\w\n:：]|_)"
_MARKER = re.compile(
    rf"(?P<before>{_DRESS}{{0,16}}"
    rf"(?:(?:turn|round|exchange)[ \t]?#?\d{{1,2}}{_DRESS}{{1,4}}|\d{{1,2}}[.):\]]{_DRESS}{{0,6}})?)"
    rf"(?P<name>{'|'.join(sorted(ROLES, key=len, reverse=True))})(?![\"'][ \t]?:)"  # not a name of JSON
    r"(?P<after>[*_`\])]{0,4}(?:(?:['’]s)?[ \t](?:turn|question|answer|asks|says|replies|answers|responds)\b)?"
    rf"(?:[ \t]?[#(]{{0,2}}\d{{1,2}}\b\)?)?(?:[ \t]?\([^()\n]{{1,40}}\))?{_DRESS}{{0,6}}?)"
    r"(?:(?P<colon>[:：])|(?P<stop>(?<=[QA\d])\.[ \t])|(?P<dash>[ \t][-–—]{1,2}[ \t])|"
    r"(?P<bracket>(?<=[)\]])[ \t])|(?P<alone>$))",
    re.IGNORECASE,
)
"""A role at the beginning of a line, bare or dressed up."""
_RULE = re.compile(r"[ \t>]{0,9}(?:[-*_=~][ \t]?){3,}")
_HEADING = re.compile(
    r"[ \t>*#_\[(-]{0,12}(?:(?:conversation|dialogue|dialog)[ \t]?#?\d{0,3}|"
    r"(?:turn|round|exchange|example|sample|pair|question|scenario|q&a|set|part)[ \t]?#?\d{1,3})[ \t*_:.：)\]#]{0,9}|"
    r"[ \t>]{0,9}(?:```\w{0,12}|</?\w{0,4}(?:conversation|dialogue|turns?)>)[ \t]{0,9}",
    re.IGNORECASE,
)
"""A whole line that is nobody's words: a heading, a fence, a tag around everything."""
_TITLE = re.compile(
    r"[ \t>]{0,9}(?:#{1,6}[ \t].{1,120}|[*_#]{0,3}(?:conversation|dialogue|dialog|turn|round|exchange|scenario|part)"
    r"[ \t]#?\d{1,3}\b.{0,120}(?<!\.)|.{1,120}[:：][*_]{0,3}|\*[(\[].{1,120}[)\]]\*|"
    r"[(\[](?=.{1,120}\b(?:turn|conversation|dialogue|question|colleague|user|assistant)s?\b).{1,120}[)\]])",
    re.IGNORECASE,
)
"""A line that is a heading or a stage direction at the end of a turn; elsewhere it may be words."""
_CLOSING = re.compile(
    r"[ \t*_(\[]{0,9}(?:let me know|i hope (?:this|these|that)|feel free|please let me|"
    r"would you like (?:me|another|more)|if you (?:would like|need|want)|if you'd like|is there anything else|"
    r"(?:these|both|all|each|every) (?:questions?|turns?|answers?)\b|"
    r"(?:i|i've|this|these|the|all|both|each|every|my|here)\b.{0,100}\b(?:conversations?|dialogues?|rules|guidelines|"
    r"instructions|requirements|prompt)\b|(?:i have|i've) (?:kept|tried|written|avoided|made|used|"
    r"focused|included|left|followed|created)\b|i (?:can|could) (?:also )?(?:write|add|continue|create|provide)\b|"
    r"end of (?:the )?(?:conversation|dialogue)|end[.\])]{0,2}$|"
    r"(?:note|disclaimer|explanation|rationale|word count)\b[*_]{0,2}:)",
    re.IGNORECASE,
)
"""How a teacher speaks of its work, on a line behind an empty one."""
INLINES = tuple(
    re.compile(
        rf"(?<=[.?!)\]\"'”*…])[ \t]{{1,4}}(?=\*{{0,2}}(?:{'|'.join(family)})[ \t]?\d{{0,2}}\*{{0,2}}[:：])", re.I
    )
    for family in _FAMILIES
)
"""Where a role follows a sentence on the same line."""
_CHARACTERS = {
    **dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127, 0x200B, 0x2060, 0xFEFF]),
    0x2028: "\n", 0x2029: "\n\n", 0x85: "\n",
}  # fmt: skip
_THOUGHT = re.compile(r".*</think(?:ing)?>|\s{0,9}<think(?:ing)?>.*", re.IGNORECASE | re.DOTALL)
_NAMES_OF_TAGS = "|".join(_SPOKEN | _WRITTEN)
_OPENED = re.compile(
    rf"<(?:\|(?:im_start|start_header_id)\|>\s{{0,3}})?({_NAMES_OF_TAGS})(?:<\|end_header_id\|)?(?:>|(?=\n))",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    rf"</(?:{_NAMES_OF_TAGS}|s)>|<\|\w{{2,20}}\|>|(?<=[.?!)\"'”])(?=(?:assistant|user)(?:\n|$))", re.IGNORECASE
)
"""Ends of turns that models write or servers leak; Llama 3 runs "assistant" into the words before."""
_BREAK = re.compile(r"<br ?/?>\n?|</?p>\n?", re.IGNORECASE)
_STRESS = re.compile(r"</?(?:b|i|em|strong)>", re.IGNORECASE)
_IMAGE = r"[`*]{0,2}(?:<\|?/?(?:image|img)(?:[ _-]?\d{1,2})?/?\|?>|\[(?:image|img)(?:[ _-]?\d{1,2})?\])[`*]{0,2}"
_IMAGE_NAMED = re.compile(rf"(?<![\w<])(the|this|that|your|an|each|same)[ \t]{_IMAGE}", re.IGNORECASE)
_IMAGE_FIRST = re.compile(rf"^[ \t]{{0,9}}{_IMAGE}[ \t]{{0,9}}\n?", re.IGNORECASE | re.MULTILINE)
_IMAGE_LAST = re.compile(rf"[ \t]{{0,9}}{_IMAGE}(?=[ \t]{{0,9}}(?:[\n,.;:?!]|$))", re.IGNORECASE)
_IMAGE_BETWEEN = re.compile(rf"[ \t]{{0,9}}{_IMAGE}[ \t]{{0,9}}", re.IGNORECASE)
QUOTES = {'"': '"', "“": "”", "'": "'"}
_CLOSERS = QUOTES | {"**": "**", "*": "*", "_": "_", "`": "`", "(": ")", "[": "]"}


class _Mark(NamedTuple):
    """A role at the beginning of a line."""

    name: str
    how: int
    before: str
    """Its dress on the left."""
    pending: tuple[str, ...]
    """What closes the part of the dress that is still open."""
    rest: str
    """The line behind it."""


def plain(text: str) -> str:
    """The text in ordinary characters, without thoughts, every tag of a role written as a line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CHARACTERS)
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # halves of characters that no file can hold
    text = text[found.end() :] if (found := _THOUGHT.match(text)) else text
    text = _STRESS.sub("", _BREAK.sub("\n", text))
    return _CLOSED.sub("\n", _OPENED.sub(r"\n\1:\n", text))


def turns_of_lines(text: str) -> tuple[list[Turn], list[str]]:
    """Turns of a text whose lines begin with roles, and what was put right."""
    lines = text.split("\n")
    marks = [_mark(line) for line in lines]
    names, how = _in_use(marks)
    at: list[int] = []
    for number, mark in enumerate(marks):
        if mark and mark.name in names and mark.how >= how:
            speaks = marks[at[-1]] if at else None
            if not speaks or mark.name == speaks.name or ROLES[mark.name] != ROLES[speaks.name]:
                at.append(number)  # "AI:" while Assistant speaks is words
    if not at:
        return [], []
    repairs: list[str] = []
    if any(line.strip() and not _HEADING.fullmatch(line) and not _RULE.fullmatch(line) for line in lines[: at[0]]):
        repairs.append("preamble")
    turns: list[Turn] = []
    for start, end in zip(at, [*at[1:], None], strict=True):
        mark = marks[start]
        assert mark is not None
        whole = [mark.rest, *_shifted(lines[start + 1 : end], mark)]
        body = _body(whole, last=end is None)
        if end is None and any(line.strip() for line in whole[len(body) :]):
            repairs.append("closing_remark")
        turns.append((ROLES[mark.name], tidy("\n".join(body), mark.pending)))
    return turns, repairs


def _mark(line: str) -> _Mark | None:
    """The role that a line begins with, and the rest of the line; said twice, it counts once."""
    match = _MARKER.match(line[:200])
    if match is None:
        return None
    name = match["name"].lower()
    how = _COLON if match["colon"] else _ALONE if match["stop"] or match["alone"] is not None else _WEAK
    if name in _LETTERS and how != _COLON and (match["name"] == name or not match["stop"]):
        return None  # "a. " opens a point of a list
    rest = line[match.end() :]
    pending = []
    for closer in _pending(match["before"], match["after"]):
        if how == _COLON and rest.startswith(closer):
            rest = rest.removeprefix(closer)
        else:
            pending.append(closer)
    again = _MARKER.match(rest[:200]) if how == _COLON else None
    if again and again["colon"] and again["name"].lower() == name:
        rest = rest[again.end() :]
    return _Mark(name, how, match["before"], tuple(pending), rest)


def _pending(before: str, after: str) -> Iterator[str]:
    """What was opened before a role and not closed behind it, as ``**User: Is it large?**``."""
    for opened in re.findall(r"\*\*|\S", re.sub(r"[-*+]\s|\d[.):\]]", "", before))[::-1]:
        closer = _CLOSERS.get(opened)
        if closer and closer in after:
            after = after.replace(closer, "", 1)
        elif closer:
            yield closer


def _in_use(marks: Sequence[_Mark | None]) -> tuple[dict[str, str], int]:
    """The names that speakers have in a reply, and how they are marked at least; none where only one speaks."""
    seen = {(mark.name, mark.how) for mark in marks if mark}
    for how in (_COLON, _ALONE, _WEAK):
        for family in _FAMILIES:
            if {family[name] for name, marked in seen if name in family and marked >= how} >= {"user", "assistant"}:
                return family, how
    return {}, _COLON


def _shifted(lines: list[str], mark: _Mark) -> list[str]:
    """The lines below a role, moved to the left as far as its quotation or its bullet moved them to the right."""
    if ">" in mark.before or (not mark.rest.strip() and all(line[:1] in ("", ">") for line in lines)):
        lines = [re.sub(r"^[ \t]{0,9}>[ \t]?", "", line) for line in lines]
    if re.match(r"\s|[-*+•]\s|\d", mark.before):
        lines = textwrap.dedent("\n".join(lines)).split("\n") if lines else []
    return lines


def _body(lines: list[str], last: bool) -> list[str]:
    """The lines of one turn, up to what ends it."""
    words = False
    for number, line in enumerate(lines):
        empty = number > 0 and not lines[number - 1].strip()
        if words and (
            _HEADING.fullmatch(line)
            or (empty and _RULE.fullmatch(line))
            or line in ("assistant", "user")  # a header that a server leaked
            or (last and empty and _CLOSING.match(line))
        ):
            lines = lines[:number]
            break
        words = words or bool(line.strip() and not _HEADING.fullmatch(line))
    while len(lines) > 1 and _is_tail(*lines[-2:]):
        lines = lines[:-1]
    return lines


def _is_tail(before: str, line: str) -> bool:
    """Whether the last line of a turn is none of its words."""
    return not line.strip() or ((line.startswith("#") or not before.strip()) and bool(_TITLE.fullmatch(line)))


def tidy(said: str, pending: Sequence[str] = ()) -> str:
    """The words of one turn: no rules, no image marks, no dress; empty where there is no word."""
    words = said
    if "<" in words or "[" in words:
        words = _IMAGE_NAMED.sub(r"\1 image", words)
        words = _IMAGE_BETWEEN.sub(" ", _IMAGE_LAST.sub("", _IMAGE_FIRST.sub("", words)))
    kept = [line.rstrip() for line in words.split("\n") if not _RULE.fullmatch(line) and not _HEADING.fullmatch(line)]
    words = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    for closer in pending:
        if words.endswith(closer):
            words = words.removesuffix(closer).rstrip()
        elif closer == "**":
            words = words.replace("**", "", 1).lstrip()
    words = words[1:-1].strip() if _is_quotation(words) else words
    return words if any(map(str.isalnum, words)) else ""


def _is_quotation(words: str) -> bool:
    """Whether the first character opens a quotation that the last one ends, and not an earlier one."""
    if len(words) < 2 or QUOTES.get(words[0]) != words[-1]:
        return False
    if words[0] == words[-1]:
        return words[0] not in words[1:-1]
    open_still = 1
    for one in words[1:-1]:
        open_still += (one == words[0]) - (one == words[-1])
        if open_still == 0:
            return False
    return True
