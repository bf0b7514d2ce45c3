"""What scores without looking: a constant, and what the training questions alone make one guess.

A score means little beside nothing.  Under the published rule "no" is right in nearly half of the closed questions, and
on PathVQA the commonest training answers, without any image, in four of five.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medvlm_cli.core.scoring.items import Item

ALWAYS_NO = "always no"
TRAIN_PRIOR = "train prior"
BEST_CONSTANT = "best constant"
"""What stands in the place of the prior where no training question is known: it has seen the gold answers."""

Key = tuple[str, ...]
"""What a guess may go by."""


@dataclass(frozen=True)
class Baseline:
    """Answers that need no model."""

    answers: dict[str, str]
    """By question id."""
    source: str
    """One sentence: where they come from."""


def baselines(items: Sequence[Item], train: Sequence[Item], split: str = "train") -> dict[str, Baseline]:
    """What needs no eyes, by name: ``always no``, and ``train prior`` or else ``best constant``.

    The prior answers a question whose very words were seen in training with the commonest gold answer to them; any
    other with the commonest to questions that begin with the same two words, or the commonest of all.  Of equally
    common ones it takes the first in the alphabet; case makes no difference.  Without training questions it is the
    commonest answer of each kind and category of ``items`` themselves: a constant that knows the gold answers, so no
    constant is better.

    Args:
        items: what is asked.
        train: questions with gold answers that a guesser may know; see ``core.scoring.files.training``.
        split: what the sentence calls ``train``.
    """
    asked = f"the commonest answer in split {split} to the same question, else to the same first two words, else of all"
    best = "the commonest answer of each category of the asked questions themselves: the best constant there is"
    guesses = _guesses(items, train, _by_words) if train else _guesses(items, items, _by_category)
    return {
        ALWAYS_NO: Baseline({item.question_id: "no" for item in items}, 'the word "no"'),
        TRAIN_PRIOR if train else BEST_CONSTANT: Baseline(guesses, asked if train else best),
    }


def _guesses(items: Sequence[Item], known: Sequence[Item], keys: Callable[[Item], list[Key]]) -> dict[str, str]:
    """The commonest gold answer of the first key of each item that ``known`` has."""
    counts: dict[Key, Counter[str]] = {}
    for item in known:
        for key in keys(item):
            counts.setdefault(key, Counter())[item.golds[0].lower()] += 1
    best = {key: min(count, key=lambda gold: (-count[gold], gold)) for key, count in counts.items()}
    return {item.question_id: next(best[key] for key in keys(item) if key in best) for item in items}


def _by_words(item: Item) -> list[Key]:
    words = item.question.lower().split()
    return [("question", *words), ("begins", *words[:2]), ("any",)]


def _by_category(item: Item) -> list[Key]:
    return [(item.kind, item.category)]
