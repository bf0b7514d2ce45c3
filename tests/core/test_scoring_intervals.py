"""Intervals from drawn images, and the tests that tell two sets of answers apart, against values known otherwise."""

import itertools
import math

import numpy as np
import pytest

from medvlm_cli.core.scoring import intervals

NAN = float("nan")


def simulated(seed, images=120):
    """Hits on questions whose images differ in how easy they are: their means, and the image of each."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 9, images)
    ease = random.beta(2, 1, images)  # mean 2/3
    image = np.repeat(np.arange(images), sizes)
    return (random.random(len(image)) < ease[image]).astype(float), image.tolist()


def covers(seed, truth=2 / 3):
    scores, images = simulated(seed)
    mean = intervals.means_with_intervals({"hits": scores}, images, draws=400, seed=seed)["hits"]
    return mean.low <= truth <= mean.high


def balanced_covers(seed, truth=0.7):
    """Questions of an image are answered yes with a chance of their own; hits 0.8 of yes and 0.6 of no."""
    random = np.random.default_rng(seed)
    image = np.repeat(np.arange(120), random.integers(1, 9, 120))
    gold = random.random(len(image)) < random.random(120)[image]
    hit = (random.random(len(image)) < np.where(gold, 0.8, 0.6)).astype(float)
    yes, no = np.where(gold, hit, NAN), np.where(gold, NAN, hit)
    mean = intervals.balanced_accuracy(yes, no, image.tolist(), draws=400, seed=seed)
    return mean.low <= truth <= mean.high


def false_alarm(seed):
    """Whether two sets of answers of the same worth are told apart at 5 %."""
    (one, images), random = simulated(seed), np.random.default_rng(1000 + seed)
    swap = random.random(len(one)) < 0.3
    other = np.where(swap, 1 - one, one)
    even = random.random(len(one)) < 0.5
    first, second = np.where(even, one, other), np.where(even, other, one)
    return intervals.paired(first, second, images, draws=400, seed=seed).p <= 0.05


def test_the_mean_counts_questions_and_its_interval_draws_whole_images():
    mean = intervals.mean_with_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert (mean.value, mean.rows, mean.images) == (0.75, 4, 2)
    assert (mean.low, mean.high) == (0.0, 1.0)  # drawn by rows, 0.25 to 1


def test_every_draw_of_three_images_is_what_drawing_by_hand_gives():
    totals, counts = [3.0, 0.0, 1.0], [3, 1, 2]  # by image
    draws = [
        sum(totals[one] for one in drawn) / sum(counts[one] for one in drawn)
        for drawn in itertools.product(range(3), repeat=3)
    ]
    mean = intervals.mean_with_interval([1, 1, 1, 0, 1, 0], ["a", "a", "a", "b", "c", "c"], draws=20_000, seed=3)
    assert (mean.low, mean.high) == tuple(np.quantile(draws, (0.025, 0.975), method="inverted_cdf"))


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    scores, images = np.random.default_rng(0).random(200).tolist(), list(range(200))
    first = intervals.mean_with_interval(scores, images, draws=300, seed=1)
    assert intervals.mean_with_interval(scores, images, draws=300, seed=1) == first
    assert intervals.mean_with_interval(scores, images, draws=300, seed=2) != first


def test_the_interval_of_independent_questions_is_the_normal_one():
    mean = intervals.mean_with_interval([1.0] * 300 + [0.0] * 100, range(400), draws=4000)
    half_width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (mean.low, mean.high) == pytest.approx((0.75 - half_width, 0.75 + half_width), abs=0.005)


def test_500_simulated_benchmarks_are_covered_as_often_as_said():
    assert 0.93 <= np.mean([covers(seed) for seed in range(500)]) <= 0.97


def test_500_balanced_accuracies_are_covered_as_often_as_said():
    assert 0.93 <= np.mean([balanced_covers(seed) for seed in range(500)]) <= 0.97


def test_two_equals_are_told_apart_as_seldom_as_said():
    assert np.mean([false_alarm(seed) for seed in range(300)]) <= 0.08


@pytest.mark.parametrize(("scores", "images"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_scores_without_their_images_are_refused(scores, images):
    with pytest.raises(ValueError, match="one image for each"):
        intervals.mean_with_interval(scores, images)


def test_a_column_counts_only_the_questions_that_have_its_score():
    columns = {"some": [1.0, NAN, 0.0, NAN], "none": [NAN] * 4, "all": [1.0, 1.0, 1.0, 1.0]}
    means = intervals.means_with_intervals(columns, ["a", "b", "b", "c"], draws=50)
    assert (means["some"].value, means["some"].rows, means["some"].images) == (0.5, 2, 2)
    assert means["all"] == intervals.Mean(1.0, 1.0, 1.0, 4, 3)
    assert means["none"] is None


def test_many_columns_give_what_each_gives_alone():
    scores, images = simulated(5)
    other = np.where(np.arange(len(scores)) % 3 == 0, NAN, 1 - scores)
    together = intervals.means_with_intervals({"one": scores, "other": other}, images, draws=300, seed=4)
    alone = intervals.means_with_intervals({"other": other}, images, draws=300, seed=4)
    one = intervals.mean_with_interval(scores.tolist(), images, draws=300, seed=4)
    assert vars(together["one"]) == pytest.approx(vars(one))
    assert vars(together["other"]) == pytest.approx(vars(alone["other"]))


def test_no_question_gives_no_mean():
    assert intervals.means_with_intervals({"hits": []}, [], draws=10) == {"hits": None}


def test_a_column_of_another_length_is_refused_by_its_name():
    with pytest.raises(ValueError, match="column 'hits' has shape"):
        intervals.means_with_intervals({"hits": [1.0]}, ["a", "b"])


def test_balanced_accuracy_is_the_mean_of_both_recalls():
    mean = intervals.balanced_accuracy([1, 1, 1, NAN, NAN], [NAN, NAN, NAN, 0, 1], list("abcde"), draws=100)
    assert (mean.value, mean.rows, mean.images) == (0.75, 5, 5)
    assert 0.5 <= mean.low < 0.75 < mean.high <= 1.0


def test_who_always_says_yes_has_a_balanced_accuracy_of_one_half_whatever_is_drawn():
    mean = intervals.balanced_accuracy([1, 1, 1, NAN], [NAN, NAN, NAN, 0], list("abcd"), draws=100)
    assert (mean.value, mean.low, mean.high) == (0.5, 0.5, 0.5)


def test_there_is_no_balanced_accuracy_where_no_gold_answer_is_no():
    assert intervals.balanced_accuracy([1.0, 0.0], [NAN, NAN], ["a", "b"], draws=10) is None


def test_a_set_of_answers_does_not_differ_from_itself():
    scores, images = simulated(1)
    assert intervals.paired(scores, scores, images, draws=500) == intervals.Paired(0.0, 0.0, 0.0, 1.0)
    assert intervals.mcnemar(scores, scores) == 1.0


def test_sums_that_differ_by_rounding_alone_are_no_difference():
    images = np.repeat(np.arange(30), 3).tolist()
    pair = intervals.paired([0.1, 0.2, 0.3] * 30, [0.3, 0.2, 0.1] * 30, images, draws=200)
    assert (pair.low, pair.high, pair.p) == (0.0, 0.0, 1.0)


def test_who_is_better_on_every_image_differs_with_the_least_p_that_the_draws_can_tell():
    better = intervals.paired([1.0] * 40, [0.0, 1.0] * 20, np.repeat(np.arange(20), 2).tolist(), draws=999)
    assert (better.difference, better.low, better.high, better.p) == (0.5, 0.5, 0.5, 2 / 1000)
    worse = intervals.paired([0.0, 1.0] * 20, [1.0] * 40, np.repeat(np.arange(20), 2).tolist(), draws=999)
    assert (worse.difference, worse.p) == (-0.5, 2 / 1000)


def test_a_paired_interval_is_narrower_than_what_the_two_means_vary_by():
    scores, images = simulated(2, images=200)
    other = scores.copy()
    other[:20] = 1 - other[:20]
    pair = intervals.paired(scores, other, images, draws=500)
    alone = intervals.mean_with_interval(scores.tolist(), images, draws=500)
    assert pair.high - pair.low < (alone.high - alone.low) / 2


def test_a_pair_may_lack_scores_of_some_questions_but_not_all():
    assert intervals.paired([1.0, NAN, 1.0], [NAN, 0.0, 0.0], ["a", "b", "c"], draws=50).difference == 1.0
    with pytest.raises(ValueError, match="no score"):
        intervals.paired([1.0, 1.0], [NAN, NAN], ["a", "b"], draws=50)


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (5, 0, 2 / 2**5),
        (6, 1, 2 * (1 + 7) / 2**7),
        (1, 6, 2 * (1 + 7) / 2**7),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
        (3000, 3761, math.erfc(761 / math.sqrt(6761) / math.sqrt(2))),  # the normal limit
    ],
)
def test_mcnemar_is_a_two_sided_throw_of_a_coin(first_only, second_only, p):
    one = [1] * first_only + [0] * second_only + [1, 0, NAN]
    other = [0] * first_only + [1] * second_only + [1, 0, 1]
    assert intervals.mcnemar(one, other) == pytest.approx(p, rel=0.1 if first_only > 1000 else 1e-12)


@pytest.mark.parametrize(("one", "other"), [([1], [1, 0]), ([0.5], [1.0])])
def test_mcnemar_refuses_what_is_no_pair_of_hits(one, other):
    with pytest.raises(ValueError, match=r"same questions|0 or 1"):
        intervals.mcnemar(one, other)


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_multiplies_the_least_p_by_their_number_and_never_turns_round(ps, adjusted):
    assert intervals.holm(ps) == pytest.approx(adjusted)
