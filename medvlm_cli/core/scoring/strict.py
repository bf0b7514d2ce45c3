"""Rules that are hard to game: whole words, one choice named, and nothing to gain by repetition.

The published rules look for substrings, so that the constant answer "yes or no" scores 92 of 100 on the closed
questions of VQA-RAD and "normal" is a hit for "no"; here both score 0.  Numbers of the two protocols are not
comparable: ``PROTOCOL`` stands beside every number of this one.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvlm_cli.core.scoring.answered import answered
from medvlm_cli.core.scoring.items import Item

PROTOCOL = "strict/1"
"""Name of these rules, printed and stored with every score; change a rule, raise the number."""

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")  # 1.5 and 10,000 are one word; punctuation parts words everywhere else
_ARTICLES = frozenset({"a", "an", "the"})
_YES, _NO = ("yes",), ("no",)


@dataclass(frozen=True)
class Strict:
    """Scores of one set of answers."""

    rows: dict[str, dict[str, float]]
    """By question id.  Open: ``recall``, ``f1``, ``exact_match`` from 0 to 1, and ``words``, the answer's length.
    Closed: ``accuracy`` and ``unparsed``, 0 or 1, and where the gold answer is yes or no ``said_yes``, 0 or 1."""


def strict(items: Sequence[Item], answers: Mapping[str, str]) -> Strict:
    """Score answers; every gold answer of a question is right, the best counts.

    Raises:
        DataError: a question without answer or gold, or an id that comes twice.
    """
    score = {"open": _open_scores, "closed": _closed_scores}
    return Strict({item.question_id: score[item.kind](item, answer) for item, answer in answered(items, answers)})


def is_binary(item: Item) -> bool:
    """Whether the question is closed and its gold answer is yes or no."""
    return item.kind == "closed" and any(words(gold) in (_YES, _NO) for gold in item.golds)


def _open_scores(item: Item, answer: str) -> dict[str, float]:
    return {
        "recall": open_recall(answer, item.golds),
        "f1": token_f1(answer, item.golds),
        "exact_match": float(exact_match(answer, item.golds)),
        "words": float(len(words(answer))),
    }


def _closed_scores(item: Item, answer: str) -> dict[str, float]:
    named = closed_choice(answer, item.golds, item.choices)
    scores = {
        "accuracy": float(named in {words(gold) for gold in item.golds}),
        "unparsed": float(named is None),
    }
    return scores | {"said_yes": float(named == _YES)} if is_binary(item) else scores


def words(text: str) -> tuple[str, ...]:
    """The words of ``text``, lower case, without punctuation and articles.

    "The right lower lobe." gives ``("right", "lower", "lobe")``.  An article stays where it is the whole text, as in
    the choice "A", and so does punctuation, as in "%".  Source: the normalisation of SQuAD, Rajpurkar et al. 2016,
    arXiv:1606.05250, section 6.1.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    found = tuple(_WORD.findall(plain)) or tuple(plain.split())
    return tuple(word for word in found if word not in _ARTICLES) or found


def open_recall(answer: str, golds: Sequence[str]) -> float:
    """Share of the words of a gold answer that the answer holds, 0 to 1; the best over ``golds``.

    Capped: a word counts at most as often as the gold answer holds it, so repetition gains nothing,
    ``sum(min(p[w], g[w])) / sum(g[w])`` over word counts p of the answer and g of the gold.  An answer that says the
    same words over and over, oftener than the gold answer says any word, counts as if it said them once.  A gold answer
    without any word is met by an answer without any.

    Source: LLaVA-Med, Li et al. 2023, arXiv:2306.00890, section 5.2 ("recall to evaluate the ratio that ground-truth
    tokens appear"), with the cap of SQuAD's token overlap, which the published code lacks.
    """
    said = words(answer)
    once, times = _once(said)
    every, first = Counter(said), Counter(once)
    shares = (
        _share(first if times > max(gold.values(), default=0) else every, gold, gold.total()) for gold in _counts(golds)
    )
    return max(shares, default=0.0)


def _once(said: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The words that ``said`` says over and over, and how often: all of it once, where it does not."""
    sizes = (size for size in range(1, len(said) // 2 + 1) if len(said) % size == 0)
    return next(((said[:size], len(said) // size) for size in sizes if said[size:] == said[:-size]), (said, 1))


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and capped recall over words, 0 to 1; the best over ``golds``.

    Source: SQuAD, Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
    """
    said = Counter(words(answer))
    return max((_share(said, gold, (said.total() + gold.total()) / 2) for gold in _counts(golds)), default=0.0)


def _counts(golds: Sequence[str]) -> list[Counter[str]]:
    return [Counter(words(gold)) for gold in golds]


def _share(said: Counter[str], gold: Counter[str], of: float) -> float:
    return (said & gold).total() / of if gold else float(not said)


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the normalised answer is one of the normalised gold answers, word for word."""
    return words(answer) in {words(gold) for gold in golds}


def closed_choice(answer: str, golds: Sequence[str], choices: Sequence[str] = ()) -> tuple[str, ...] | None:
    """The one choice a closed question's answer names, as words; None where it names none or several (unparsed).

    The choices are ``yes`` and ``no`` where a gold answer is one of them, and else ``choices`` with the gold answers;
    they are sought as whole words, the longest first, so that "left lower lobe" does not name "left" as well.  An
    answer that names nothing but gold answers names the first of them.  Without ``choices``, a question whose gold is
    not yes or no has no rivals to find: a benchmark with such questions should list their choices.
    """
    right = {words(gold) for gold in golds}
    phrases = right | {words(choice) for choice in choices}
    if phrases & {_YES, _NO}:
        phrases |= {_YES, _NO}
    said = words(answer)
    if not said:
        return () if () in right else None
    named = _named(said, phrases - {()})
    return named[0] if named and (len(set(named)) == 1 or right.issuperset(named)) else None


def _named(said: tuple[str, ...], phrases: set[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The phrases in ``said`` from left to right, the longest wherever several begin, none overlapping."""
    found, at = [], 0
    longest_first = sorted(phrases, key=len, reverse=True)
    while at < len(said):
        hit = next((phrase for phrase in longest_first if said[at : at + len(phrase)] == phrase), None)
        found += [hit] if hit else []
        at += len(hit) if hit else 1
    return found


def closed_hit(answer: str, golds: Sequence[str], choices: Sequence[str] = ()) -> bool:
    """Whether a closed question's answer names the gold choice and no rival; an unparsed answer is wrong.

    Source: the strict rule for LLaVA-Med's closed questions (arXiv:2306.00890, section 5.2, accuracy), with whole
    words in place of its code's substrings.
    """
    named = closed_choice(answer, golds, choices)
    return named is not None and named in {words(gold) for gold in golds}
