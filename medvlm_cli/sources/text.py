"""Text out of publishers' files: what cannot be seen is removed, and sentences are told apart."""

import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]+")
"""Soft hyphens, zero-width characters, marks of direction, byte order marks: nothing a reader sees."""
_NO_CHARACTER = re.compile("[\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]+")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def tidy(text: str) -> str:
    """``text`` in NFC, without invisible characters, every run of white space (NBSP, thin spaces ...) one space."""
    text = " ".join(text.split())
    if not text.isprintable():  # seldom; the test is 20 times as fast as the cure
        text = " ".join(_CONTROL.sub(" ", _INVISIBLE.sub("", text)).split())
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean(text: str) -> str:
    """As ``tidy``, and without noncharacters and lone surrogates, which Arrow would refuse."""
    return tidy(text if text.isascii() else _NO_CHARACTER.sub("", text))


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
    spans = []
    start = 0
    for stop in _STOP.finditer(text):
        if _ends(text, start, stop):
            spans.append((start, start + len(text[start : stop.end()].rstrip())))
            start = stop.end()
    if start < len(text):
        spans.append((start, len(text)))
    return spans


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
    before = text[max(start, at - 24) : at].split()
    word = before[-1].lstrip("([{\"'“‘<") if before else ""
    if word.lower() in _NEVER_LAST:
        return True
    initial = (len(word) == 1 and word.isupper()) or _DOTTED.fullmatch(word) is not None  # J. Smith, i.v. injection
    return (initial or word.lower() in _SELDOM_LAST) and following not in _BEGINNINGS
