"""V4: what an answer carries over from the text that a viewer of the image could not know."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

GRAM = 8
"""Words in a row that are compared with the source."""
_DIGIT = re.compile(r"\d")
_LEAKY = re.compile(r"\d| et al|\bDr|\bProf")
"""Without one of these no pattern of ``leaks`` matches."""
_UNITS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SPELT = {word: number for number, word in enumerate(_UNITS, 1)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER_WORD = re.compile(
    rf"\b(?:({'|'.join(_TENS)})[ -])?\b({'|'.join(_SPELT)})"
    r"(?=[ -](?:(?:milli|centi|micro|nano)?met|(?:milli|kilo)?gram|per ?cent|hour|day|week|month|year|minute))",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")


class Patterns:
    """What leaks look like: ``allowed``, ``specifics``, ``leaks`` and ``names`` of ``rules.yaml``."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.allowed = re.compile("|".join(f"(?:{pattern})" for pattern in table["allowed"]))
        self.specifics = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in table["specifics"].items()}
        self.leaks = re.compile("|".join(f"(?:{pattern})" for pattern in table["leaks"]))
        self.names = [re.compile(pattern) for pattern in table["names"]]


class Leaks:
    """What would be a leak of one source.

    Args:
        source: caption and sentences.
        patterns: of the rules.
    """

    def __init__(self, source: str, patterns: Patterns) -> None:
        self._patterns = patterns
        source = _plain(source)
        bare = patterns.allowed.sub(" ", source) if _DIGIT.search(source) else ""
        self._numbers = {
            kind: found for kind, pattern in patterns.specifics.items() if (found := _found(pattern, bare))
        }
        named = (match[1] for pattern in patterns.names for match in pattern.finditer(source))
        self._names = [re.compile(rf"\b{re.escape(name)}\b") for name in dict.fromkeys(named) if len(name) > 2]
        words = words_of(source)
        self._grams = {tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)}

    def found_in(self, text: str) -> str:
        """The code of the first leak in a text; empty for none."""
        if _LEAKY.search(text) and self._patterns.leaks.search(text):
            return "V4_leak"
        if any(name.search(text) for name in self._names):
            return "V4_name"
        if self._numbers and _DIGIT.search(text := _plain(text)):
            bare = self._patterns.allowed.sub(" ", text)
            if any(numbers & _found(self._patterns.specifics[kind], bare) for kind, numbers in self._numbers.items()):
                return "V4_number"
        return ""

    def overlap(self, words: Sequence[str]) -> tuple[int, float]:
        """The longest run of words that is the source's, and the share of words that lie in runs of ``GRAM``.

        Args:
            words: of an answer.
        """
        if not self._grams or len(words) < GRAM:
            return 0, 0.0
        longest = run = covered = 0
        for at in range(len(words) - GRAM + 1):
            if tuple(words[at : at + GRAM]) in self._grams:
                run = run + 1 if run else GRAM
                covered += 1 if run > GRAM else GRAM
                longest = max(longest, run)
            else:
                run = 0
        return longest, min(1.0, covered / len(words))


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation at their ends."""
    return _WORD.findall(text.lower())


def _plain(text: str) -> str:
    """A text with its numbers and apostrophes written in one way: ``nine metres`` as ``9 m``, ``1,140`` as ``1140``."""
    text = text.replace("\u2019", "'")
    return _THOUSANDS.sub("", _NUMBER_WORD.sub(_digits, text))


def _digits(match: re.Match[str]) -> str:
    return str(sum(_SPELT[word.lower()] for word in match.groups() if word))


def _found(pattern: re.Pattern[str], text: str) -> frozenset[str]:
    """The numbers that a pattern finds; it has one group that matches."""
    return frozenset(
        re.sub(r"\s", "", match[match.lastindex or 0]).replace(",", ".").rstrip(".") for match in pattern.finditer(text)
    )
