"""What an answer is worth: closed accuracy, open token recall, exact match, and the interval around a mean.

The rules are meant to be hard to game.  The published scorer of LLaVA-Med and Llama3-Med looks for substrings, so the
constant answer "yes or no" scores 92 of 100 on the closed questions of VQA-RAD and "normal" is a hit for "no"; here
both score 0, and repeating a word gains nothing.  Numbers of the two protocols are not comparable: ``PROTOCOL`` stands
beside every number of this one.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

PROTOCOL = "strict/1"
"""Name of these rules, printed and stored with every score; change a rule, raise the number."""

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")  # 1.5 and 10,000 are one word; punctuation parts words everywhere else
_ARTICLES = frozenset({"a", "an", "the"})
_YES_NO = frozenset({("yes",), ("no",)})
_DRAWS_AT_ONCE = 250  # bootstrap draws in memory together: 250 x 7,000 images x 8 bytes = 14 MB


def words(text: str) -> tuple[str, ...]:
    """The words of ``text``, lower case, without punctuation and articles.

    "The right lower lobe." gives ``("right", "lower", "lobe")``.  An article stays where it is the whole text, as in
    the choice "A".  Source: the normalisation of SQuAD, Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
    """
    found = tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    return tuple(word for word in found if word not in _ARTICLES) or found


def open_recall(answer: str, golds: Sequence[str]) -> float:
    """Share of the words of a gold answer that the answer holds, 0 to 1; the best over ``golds``.

    Capped: a word counts at most as often as the gold answer holds it, so repetition gains nothing,
    ``sum(min(p[w], g[w])) / sum(g[w])`` over word counts p of the answer and g of the gold.  Source: LLaVA-Med, Li et
    al. 2023, arXiv:2306.00890, section 5.2 ("recall to evaluate the ratio that ground-truth tokens appear"), with the
    cap of SQuAD's token overlap, which the published code lacks.
    """
    said = Counter(words(answer))
    return max((_overlap(said, Counter(words(gold))) for gold in golds), default=0.0)


def _overlap(said: Counter[str], gold: Counter[str]) -> float:
    return (said & gold).total() / gold.total() if gold else 0.0


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the normalised answer is one of the normalised gold answers, word for word."""
    return words(answer) in {words(gold) for gold in golds}


def closed_choice(answer: str, golds: Sequence[str], choices: Sequence[str] = ()) -> tuple[str, ...] | None:
    """The one choice a closed question's answer names, as words; None where it names none or several (unparsed).

    The choices are ``yes`` and ``no`` where a gold answer is one of them, and else ``choices`` with the gold answers;
    they are sought as whole words, the longest first, so that "left lower lobe" does not name "left" as well.
    Without ``choices``, a question whose gold is not yes or no has no rivals to find: a benchmark with such questions
    should list their choices.
    """
    phrases = {words(text) for text in (*choices, *golds)}
    if phrases & _YES_NO:
        phrases |= _YES_NO
    named = set(_named(words(answer), phrases - {()}))
    return named.pop() if len(named) == 1 else None


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


@dataclass(frozen=True)
class Mean:
    """A mean score with its 95 % interval, all from 0 to 1, and what it was taken over."""

    value: float
    low: float
    high: float
    rows: int
    images: int


def mean_with_interval(scores: Sequence[float], images: Sequence[Hashable], draws: int = 1000, seed: int = 0) -> Mean:
    """The mean of ``scores`` with a 95 % percentile interval from a bootstrap over images.

    Questions about one image are not independent, so whole images are drawn with replacement, each with all its
    questions.  Source: the cluster bootstrap, Davison and Hinkley 1997, Bootstrap Methods and their Application,
    section 3.8; percentile interval, section 5.3.1.

    Args:
        scores: one score a question, 0 to 1.
        images: the image of each question, anything hashable, in the same order.
        draws: bootstrap samples.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: no scores, or another number of images.
    """
    if not scores or len(scores) != len(images):
        raise ValueError(f"{len(scores)} scores and {len(images)} images: give one image for each of 1 or more scores")
    index: dict[Hashable, int] = {}
    cluster = np.array([index.setdefault(image, len(index)) for image in images])
    totals = np.bincount(cluster, weights=np.asarray(scores, dtype=np.float64))  # sum of scores, by image
    counts = np.bincount(cluster).astype(np.float64)  # questions, by image
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        drawn = random.integers(0, len(index), (min(_DRAWS_AT_ONCE, draws - start), len(index)))
        means.append(totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Mean(float(totals.sum() / counts.sum()), float(low), float(high), len(scores), len(index))
