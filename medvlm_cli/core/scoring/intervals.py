"""Means with intervals from whole images drawn with replacement, and what tells two sets of answers apart.

Questions about one image are not independent, so the bootstrap draws images, each with all its questions.  Sums are
taken by image once; a draw is then a row of counts, and all columns of all draws are one matrix product.  Shapes: Q
questions, I images, C columns, D draws.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_LEVELS = (0.025, 0.975)
_DRAWS_AT_ONCE = 250  # draws in memory together: 250 x 7,000 images x 8 bytes = 14 MB, twice


@dataclass(frozen=True)
class Mean:
    """A mean score with its 95 % interval, and what it was taken over.

    The interval of a single image has no width: it is no interval.
    """

    value: float
    low: float
    high: float
    rows: int
    images: int


@dataclass(frozen=True)
class Paired:
    """How much more one set of answers scores than another on the same questions."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, from the share of draws on the other side of no difference."""


def mean_with_interval(scores: Sequence[float], images: Sequence[Hashable], draws: int = 1000, seed: int = 0) -> Mean:
    """The mean of ``scores`` with a 95 % percentile interval from a bootstrap over images.

    Source: the cluster bootstrap, Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8;
    percentile interval, section 5.3.1.

    Args:
        scores: one score a question.
        images: the image of each question, anything hashable, in the same order.
        draws: bootstrap samples.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: no scores, or another number of images.
    """
    if not len(scores) or len(scores) != len(images):
        raise ValueError(f"{len(scores)} scores and {len(images)} images: give one image for each of 1 or more scores")
    mean = means_with_intervals({"": np.asarray(scores)}, images, draws, seed)[""]
    if mean is None:
        raise ValueError("no score is a number: give one or more")
    return mean


def means_with_intervals(
    columns: Mapping[str, ArrayLike], images: Sequence[Hashable], draws: int = 10_000, seed: int = 0
) -> dict[str, Mean | None]:
    """Each column's mean over the questions that have such a score, with its interval; all from the same draws.

    Args:
        columns: by name, ``(Q,)`` scores; NaN where a question has no such score.
        images: the image of each of the Q questions, anything hashable.
        draws: bootstrap samples.  One that holds no question of a column is left out of that column's interval.
        seed: of the draws.

    Returns:
        By name; None for a column without any score.

    Raises:
        ValueError: a column of another length than ``images``.

    Source: as ``mean_with_interval``.
    """
    table = _Table(columns, images)
    drawn = np.concatenate(list(table.means(draws, seed)))
    return {name: table.mean(drawn[:, at], [at]) for at, name in enumerate(columns)}


def balanced_accuracy(
    yes: ArrayLike, no: ArrayLike, images: Sequence[Hashable], draws: int = 10_000, seed: int = 0
) -> Mean | None:
    """The mean of the recall of yes and the recall of no, with its interval; one half for whoever always says the same.

    Args:
        yes: ``(Q,)`` hits where the gold answer is yes, NaN elsewhere.
        no: ``(Q,)`` hits where the gold answer is no, NaN elsewhere.
        images: the image of each question.
        draws: bootstrap samples.
        seed: of the draws; with the seed of ``means_with_intervals`` the same images are drawn.

    Returns:
        None where no gold answer is yes, or none is no.
    """
    table = _Table({"yes": yes, "no": no}, images)
    drawn = np.concatenate(list(table.means(draws, seed)))
    return table.mean(drawn.mean(axis=1), [0, 1])


def paired(one: ArrayLike, other: ArrayLike, images: Sequence[Hashable], draws: int = 10_000, seed: int = 0) -> Paired:
    """The difference of two means over the same questions, ``one`` less ``other``, with interval and p.

    Both means are taken of the same drawn images, so that what makes an image easy for both cancels out.

    Args:
        one: ``(Q,)`` scores of one set of answers; NaN where a question has no such score.
        other: scores of the other set.
        images: the image of each question: all that either set has.
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        ValueError: a column of another length than ``images``, or without any score.

    Source: p as twice the smaller tail, Davison and Hinkley 1997, section 4.4, each tail counting the data themselves
    as one draw more.
    """
    table = _Table({"one": one, "other": other}, images)
    means = table.values()
    if np.isnan(means).any():
        raise ValueError("one of the two has no score: give one or more of each")
    drawn = np.concatenate(list(table.means(draws, seed)))
    drawn = (drawn[:, 0] - drawn[:, 1])[~np.isnan(drawn).any(axis=1)]
    drawn[np.abs(drawn) < 1e-12] = 0.0  # sums in another order, not a difference
    tails = [(1 + np.count_nonzero(side)) / (1 + len(drawn)) for side in (drawn <= 0, drawn >= 0)]
    low, high = np.quantile(drawn, _LEVELS)
    return Paired(float(means[0] - means[1]), float(low), float(high), float(min(1.0, 2 * min(tails))))


def mcnemar(one: ArrayLike, other: ArrayLike) -> float:
    """Probability of hits this unevenly divided between two sets of answers, were both as good: exact, two-sided.

    Only questions that one set hits and the other misses tell; they are a fair coin's throws where both are as good.

    Args:
        one: ``(Q,)`` hits of one set, 0 or 1; NaN where a question has none.
        other: hits of the other set.

    Raises:
        ValueError: different lengths, or something else than 0, 1 and NaN.

    Source: McNemar 1947, doi:10.1007/BF02295996, with the binomial in place of its approximation.
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} hits and {second.size}: give both sets on the same questions")
    both = np.stack([first, second])[:, ~(np.isnan(first) | np.isnan(second))]
    if not np.isin(both, (0.0, 1.0)).all():
        raise ValueError("a hit is 0 or 1")
    first_only = int(np.count_nonzero(both[0] > both[1]))
    second_only = int(np.count_nonzero(both[0] < both[1]))
    throws = first_only + second_only
    term, tail = 1, 0
    for heads in range(min(first_only, second_only) + 1):
        tail += term
        term = term * (throws - heads) // (heads + 1)
    return min(1.0, 2 * tail / 2**throws)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for how many are looked at, in the order given.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = least
    return adjusted


class _Table:
    """Scores summed by image."""

    def __init__(self, columns: Mapping[str, ArrayLike], images: Sequence[Hashable]) -> None:
        index: dict[Hashable, int] = {}
        self.cluster = np.array([index.setdefault(image, len(index)) for image in images], dtype=np.intp)
        self.images = len(index)
        self.present: list[NDArray[np.bool_]] = []
        sums, counts = [], []
        for name, column in columns.items():
            scores = np.asarray(column, dtype=np.float64)
            if scores.shape != (len(images),):
                raise ValueError(f"column {name!r} has shape {scores.shape}, and there are {len(images)} images")
            present = ~np.isnan(scores)
            sums.append(np.bincount(self.cluster, np.where(present, scores, 0.0), minlength=self.images))
            counts.append(np.bincount(self.cluster, present, minlength=self.images))
            self.present.append(present)
        shape = (len(columns), self.images)
        self.sums: Floats = np.array(sums, dtype=np.float64).reshape(shape).T  # (I, C)
        self.counts: Floats = np.array(counts, dtype=np.float64).reshape(shape).T

    def values(self) -> Floats:
        """``(C,)`` means; NaN where a column has no score."""
        return _ratio(self.sums.sum(axis=0), self.counts.sum(axis=0))

    def means(self, draws: int, seed: int) -> Iterator[Floats]:
        """``(D, C)`` means of drawn images, some draws at a time."""
        random = np.random.default_rng(seed)
        for start in range(0, draws, _DRAWS_AT_ONCE):
            many = min(_DRAWS_AT_ONCE, draws - start)
            if not self.images:
                yield np.full((many, self.sums.shape[1]), np.nan)
                continue
            chosen = random.integers(0, self.images, (many, self.images))
            chosen += self.images * np.arange(many)[:, None]  # one range of numbers a draw, so one count is enough
            times = np.bincount(chosen.ravel(), minlength=many * self.images).reshape(many, self.images)
            yield _ratio(times @ self.sums, times @ self.counts)

    def mean(self, drawn: Floats, columns: Sequence[int]) -> Mean | None:
        """The mean of some columns' means, with the interval that its ``(D,)`` draws give."""
        value = float(self.values()[list(columns)].mean())
        if math.isnan(value):
            return None
        rows = np.logical_or.reduce([self.present[column] for column in columns])
        low, high = np.quantile(drawn[~np.isnan(drawn)], _LEVELS)
        return Mean(value, float(low), float(high), int(rows.sum()), len(np.unique(self.cluster[rows])))


def _ratio(sums: Floats, counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)
