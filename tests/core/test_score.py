"""Scores worked by hand, and the tricks that raise the published scores and must not raise these."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_cli.core import score

YES_NO = ("yes", "no")
SIDES = ("left", "left lower lobe", "right")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The right lower lobe.", ("right", "lower", "lobe")),
        ("A 1.5 cm, X-ray (T2)", ("1.5", "cm", "x", "ray", "t2")),
        ("10,000 cells.", ("10,000", "cells")),
        ("\uff34\uff12 \u00b5m", ("t2", "\u03bcm")),  # full width letters and the micro sign, in their plain forms
        ("A", ("a",)),  # a choice, not an article
        ("...", ()),
    ],
)
def test_words_are_normalised(text, words):
    assert score.words(text) == words


@pytest.mark.parametrize(
    ("answer", "golds", "recall"),
    [
        ("the right lung", ["right lung"], 1.0),
        ("right", ["right lung"], 0.5),
        ("right right right right", ["right lung"], 0.5),  # the published code: 4/5
        ("left lung", ["right lung", "left"], 1.0),  # the best gold answer counts
        ("lung lung", ["lung and lung"], 2 / 3),
        ("", ["right"], 0.0),
        ("right", [""], 0.0),
        ("right", [], 0.0),
    ],
)
def test_open_recall_is_the_capped_share_of_gold_words(answer, golds, recall):
    assert score.open_recall(answer, golds) == pytest.approx(recall)


@given(st.text(), st.lists(st.text(), max_size=3), st.integers(2, 20))
def test_repeating_an_answer_gains_nothing_once_it_holds_every_word_as_often_as_gold_does(answer, golds, times):
    holding = " ".join([answer] * max((len(score.words(gold)) for gold in golds), default=1))
    assert score.open_recall(" ".join([holding] * times), golds) == score.open_recall(holding, golds)


@given(st.text(st.characters(categories=("L", "N", "Z", "P")), min_size=1).filter(score.words))
def test_a_gold_answer_scores_full_marks(gold):
    assert score.open_recall(gold, [gold]) == 1.0
    assert score.exact_match(gold, [gold])
    assert score.closed_hit(gold, [gold], [gold, f"{gold} left", "right"])


@pytest.mark.parametrize(
    ("answer", "golds", "equal"),
    [("The Lung.", ["lung"], True), ("left lung", ["lung"], False), ("lung", ["liver", "a lung"], True)],
)
def test_exact_match_compares_normalised_words(answer, golds, equal):
    assert score.exact_match(answer, golds) is equal


@pytest.mark.parametrize(
    ("answer", "gold", "choices", "named"),
    [
        ("Yes, it is.", "yes", (), ("yes",)),
        ("It is not; no.", "No", YES_NO, ("no",)),
        ("yes yes", "no", (), ("yes",)),
        ("yes or no", "no", (), None),
        ("normal", "no", (), None),  # the published code counts a hit, "no" is inside
        ("I cannot see any nodule", "no", (), None),
        ("eyes", "yes", YES_NO, None),
        ("", "yes", (), None),
        ("maybe", "maybe", ("yes", "no", "maybe"), ("maybe",)),
        ("the left lower lobe", "left lower lobe", SIDES, ("left", "lower", "lobe")),
        ("the left lower lobe", "left", SIDES, ("left", "lower", "lobe")),
        ("the left lower lobe", "left lower lobe", (*SIDES, "lower lobe"), ("left", "lower", "lobe")),
        ("left, not right", "left", SIDES, None),
        ("left and left", "left", SIDES, ("left",)),
        ("lefty", "left", SIDES, None),
        ("a CT scan", "CT", (), ("ct",)),
        ("...", "...", (), None),
    ],
)
def test_a_closed_answer_names_one_choice_by_whole_words_or_is_unparsed(answer, gold, choices, named):
    assert score.closed_choice(answer, [gold], choices) == named


@pytest.mark.parametrize(
    ("answer", "hit"),
    [("Yes.", True), ("no", False), ("yes and no", False), ("", False), ("yesterday", False), ("yes " * 20, True)],
)
def test_a_closed_answer_hits_only_where_it_names_the_gold_choice_alone(answer, hit):
    assert score.closed_hit(answer, ["yes"]) is hit


def test_the_mean_counts_questions_and_its_interval_draws_whole_images():
    scores, images = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    mean = score.mean_with_interval(scores, images)
    assert (mean.value, mean.rows, mean.images) == (0.75, 4, 2)
    assert (mean.low, mean.high) == (0.0, 1.0)  # drawn by rows, 0.25 to 1


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    scores, images = np.random.default_rng(0).random(200).tolist(), list(range(200))
    first = score.mean_with_interval(scores, images, draws=300, seed=1)
    assert score.mean_with_interval(scores, images, draws=300, seed=1) == first
    assert score.mean_with_interval(scores, images, draws=300, seed=2) != first


def test_the_interval_of_independent_questions_is_the_normal_one():
    scores = [1.0] * 300 + [0.0] * 100
    mean = score.mean_with_interval(scores, range(400), draws=4000)
    half_width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (mean.low, mean.high) == pytest.approx((0.75 - half_width, 0.75 + half_width), abs=0.005)


@pytest.mark.parametrize(("scores", "images"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_scores_without_their_images_are_refused(scores, images):
    with pytest.raises(ValueError, match="one image for each"):
        score.mean_with_interval(scores, images)
