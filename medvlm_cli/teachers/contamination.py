"""V10: what is trained on must not be what is asked later.

A benchmark's question is short, so thirteen words in a row hardly ever are in one: those are looked for in captions and
answers.  A question with its answer is looked for as a whole, and only where the question is particular: "is this a CT
or an MRI" is asked by everybody.  On the test splits of VQA-RAD, SLAKE and PathVQA together, a question counts as
particular when it has six words or more and no more than three rows ask it.
"""

from collections import Counter
from collections.abc import Iterable

from medvlm_cli.teachers.leaks import words_of

GRAM = 13
WORDS = 6
"""Fewest words of a question that is compared as a whole."""
ROWS = 3
"""Most rows of a benchmark that may ask a question for it to be particular."""


class Benchmarks:
    """What the benchmarks of a workspace ask; made by ``of``.  Holds hashes, not words."""

    def __init__(self) -> None:
        self._grams: dict[int, str] = {}
        self._pairs: dict[int, str] = {}

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> "Benchmarks":
        """From the name of the benchmark, question and answer of every row."""
        benchmarks = cls()
        asked: Counter[int] = Counter()
        pairs: list[tuple[int, int, str]] = []
        for name, question, answer in rows:
            words, said = words_of(question), words_of(answer)
            for gram in _grams([*words, *said]):
                benchmarks._grams.setdefault(gram, name)
            if len(words) >= WORDS:
                key = hash(tuple(words))
                asked[key] += 1
                pairs.append((key, hash((*words, "", *said)), name))
        benchmarks._pairs = {pair: name for key, pair, name in pairs if asked[key] <= ROWS}
        return benchmarks

    def hit(self, text: str) -> str | None:
        """The benchmark of which a text has thirteen words in a row; None for none."""
        if not self._grams:
            return None
        return next((self._grams[gram] for gram in _grams(words_of(text)) if gram in self._grams), None)

    def hit_pair(self, question: str, answer: str) -> str | None:
        """The benchmark that asks this question and wants this answer, or has thirteen words in a row of the two."""
        if not self._grams and not self._pairs:
            return None
        words, said = words_of(question), words_of(answer)
        if found := self._pairs.get(hash((*words, "", *said))):
            return found
        return next((self._grams[gram] for gram in _grams([*words, *said]) if gram in self._grams), None)


def _grams(words: list[str]) -> Iterable[int]:
    return (hash(tuple(words[at : at + GRAM])) for at in range(len(words) - GRAM + 1))
