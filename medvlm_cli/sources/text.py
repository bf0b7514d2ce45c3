"""Text out of publishers' files: what cannot be seen is removed, and sentences are told apart."""

import re
import unicodedata
from collections.abc import Iterator

_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]+")
"""Soft hyphens, zero-width characters, marks of direction, byte order marks: nothing a reader sees."""
_NO_CHARACTER = re.compile("[\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]+")
_BLANK_LINES = re.compile("\n{3,}")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def tidy(text: str) -> str:
    """``text`` in NFC, without invisible characters, every run of white space (NBSP, thin spaces ...) one space."""
    text = " ".join(text.split())
    if not text.isprintable():  # seldom; the test is 20 times as fast as the cure
        text = " ".join(_CONTROL.sub(" ", _INVISIBLE.sub("", text)).split())
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean(text: str) -> str:
    """As ``tidy``, and without noncharacters and lone surrogates, which Arrow would refuse."""
    text = " ".join(text.split())
    if not text.isprintable():  # noncharacters and surrogates are not
        text = tidy(_NO_CHARACTER.sub("", text))
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_tidy(text: str) -> bool:
    """Whether ``tidy`` would change nothing but white space, so that places in the text stay what they are."""
    return text.isprintable() and (text.isascii() or unicodedata.is_normalized("NFC", text))


def clean_lines(text: str) -> str:
    """As ``clean``, but lines stay lines and paragraphs paragraphs: what an answer with a list in it needs."""
    lines = "\n".join(clean(line) for line in text.splitlines())
    return _BLANK_LINES.sub("\n\n", lines).strip()


_STOP = re.compile(r"[.!?][”\"’')\]]*(?P<citation>\d{1,3}(?:[,–-]\d{1,3})*)?\s+(?=[\"“‘(\[]*(?P<next>\w+))")
_DOTTED = re.compile(r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]{1,2}")
_NEVER_LAST = {
    "fig", "figs", "figure", "figures", "figura", "eq", "eqs", "ref", "refs", "tab", "nos", "vs", "cf", "ca",
    "approx", "e.g", "i.e", "dr", "prof", "st", "mr", "mrs", "ms", "suppl", "supp", "calcd",
    "vol", "pp", "ext",
}  # fmt: skip
"""Abbreviations that no sentence ends with."""
_SELDOM_LAST = {
    "al", "etc", "sp", "spp", "subsp", "var", "cv", "inc", "ltd", "co", "corp", "resp", "sect", "sec", "ch", "viz",
    "dept", "univ", "ed", "eds", "conc", "no",
}  # fmt: skip
"""Abbreviations that end a sentence only where the next word looks like a beginning."""
_LONGEST_ABBREVIATION = 12
_BEGINNINGS = {
    "The", "This", "These", "Those", "In", "We", "It", "Its", "Our", "However", "As", "At", "For", "From", "To", "Thus",
    "Therefore", "Moreover", "Furthermore", "When", "While", "Although", "After", "Before", "By", "On", "Here", "There",
    "They", "Their", "Both", "All", "Each", "Since", "Because", "Interestingly", "Finally", "Then", "Next", "If", "An",
    "Similarly", "Additionally", "Notably", "Together", "Overall", "Also", "During", "Among", "Results", "Figure",
    "Figures", "Fig", "Figs", "Table",
}  # fmt: skip


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence of a tidy paragraph begins and ends.

    Knows abbreviations (``Fig.``, ``et al.``, ``e.g.``), initials (``E. coli``), decimals and citations set behind the
    full stop (``cells.12 The``).  A sentence that begins in lower case stays with the one before.

    Returns:
        (start, end) offsets into ``text``, without the spaces between sentences; none for an empty text.
    """
    return list(_sentences(text, 0))


_WINDOW = 320
"""Characters before a place that are searched first for the beginning of its sentence; most are shorter."""


def sentence_at(text: str, place: int, since: int = 0) -> tuple[int, int]:
    """The sentence of ``sentences(text)`` that holds the character at ``place``; the last one, where none does.

    Reads the neighbourhood only: a paragraph is long, and few of its sentences cite a figure.

    Args:
        text: a tidy paragraph.
        place: offset into it.
        since: where some sentence at or before ``place`` is known to begin.
    """
    width = _WINDOW
    while True:
        window = max(since, place - width)
        span, first = (0, len(text)), True
        for found in _sentences(text, window):
            span = found
            if span[1] > place:
                break
            first = False
        if not first or window == since:  # else the first sentence of a window has lost its beginning
            return span
        width *= 8


def _sentences(text: str, start: int) -> Iterator[tuple[int, int]]:
    for stop in _STOP.finditer(text, start):
        if _ends(text, start, stop):
            yield start, start + len(text[start : stop.end()].rstrip())
            start = stop.end()
    if start < len(text):
        yield start, len(text)


def _ends(text: str, start: int, stop: re.Match[str]) -> bool:
    following = stop["next"]
    if following[0].islower():
        return False
    at = stop.start()
    if stop["citation"]:  # "cells.12 The" ends, "0.12 The" is a number
        return (
            at > 0 and (text[at - 1].isalpha() or text[at - 1] in ")]") and not _abbreviated(text, start, at, following)
        )
    return text[at] != "." or not _abbreviated(text, start, at, following)


def _abbreviated(text: str, start: int, at: int, following: str) -> bool:
    """Whether the full stop at ``at`` belongs to the word before it."""
    word = text[max(text.rfind(" ", start, at) + 1, start) : at].lstrip("([{\"'“‘<")
    if len(word) > _LONGEST_ABBREVIATION:
        return False
    lower = word.lower()
    if lower in _NEVER_LAST:
        return True
    initial = (len(word) == 1 and word.isupper()) or _DOTTED.fullmatch(word) is not None  # J. Smith, i.v. injection
    return (initial or lower in _SELDOM_LAST) and following not in _BEGINNINGS
