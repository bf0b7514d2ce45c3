"""Trivial answers to the real questions, by both protocols: set ``MEDVLM_BENCHMARKS`` to the published files' folder.

The percentages were measured with the published scripts' rules when the protocol was planned, independently of this
code.
"""

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from medvlm_cli.benchmarks import BENCHMARKS
from medvlm_cli.benchmarks.choices import named_choices
from medvlm_cli.core.plugins import resolve
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.published_words import normalise

FOLDER = os.environ.get("MEDVLM_BENCHMARKS", "")
NAMES = ("vqa-rad", "slake", "pathvqa")

pytestmark = pytest.mark.skipif(not FOLDER, reason="MEDVLM_BENCHMARKS names no folder with the published files")


@cache
def questions(name):
    """Every question of the published files of one benchmark."""
    benchmark = resolve(name, BENCHMARKS, "benchmark").BENCHMARK
    found = []
    for published in benchmark.files:
        paths = [path for one in published.names for path in sorted((Path(FOLDER) / name).rglob(one))]
        content = json.loads(paths[0].read_bytes())
        found += benchmark.parse(content, published.counts[0].split)
    return found


@cache
def items(name):
    return [
        Item(
            question.id,
            question.image,
            question.kind,
            question.question,
            (question.answer,),
            tuple(named_choices(question.question, question.answer)) if question.kind == "closed" else (),
            question.category or "",
            question.kind.upper(),
        )
        for question in questions(name)
        if question.split == "test"
    ]


def always(name, answer):
    return {item.question_id: answer for item in items(name)}


def gold(name):
    return {item.question_id: item.golds[0] for item in items(name)}


def closed(name, answers):
    return round(llama3med.published(items(name), answers).means()["accuracy"], 2)


def strict_mean(name, answers, metric):
    rows = strict.strict(items(name), answers).rows.values()
    scores = [row[metric] for row in rows if metric in row]
    assert scores
    return 100 * sum(scores) / len(scores)


def commonest_words(name, times):
    """The 50 commonest words of the open gold answers of train, so many times over."""
    golds = [question.answer for question in questions(name) if question.split == "train" and question.kind == "open"]
    counts = Counter(word for gold in golds for word in normalise(gold.lower()).split())
    return " ".join([word for word, _ in counts.most_common(50)] * times)


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ("yes or no", (92.28, 85.34, 100.0)),
        ("no", (48.90, 43.27, 45.62)),
        ("normal", (48.90, 43.27, 45.62)),
        ("I am not sure", (48.90, 43.27, 45.62)),
        ("yes", (43.38, 42.07, 54.38)),
    ],
)
def test_a_constant_answer_scores_under_the_published_rules_what_was_measured(answer, scores):
    assert tuple(closed(name, always(name, answer)) for name in NAMES) == scores


def test_the_gold_answers_themselves_meet_the_ceiling_of_the_published_rules():
    assert tuple(closed(name, gold(name)) for name in NAMES) == (93.38, 85.34, 100.0)
    means = [llama3med.published(items(name), gold(name)).means() for name in NAMES]
    assert [mean["recall"] for mean in means] == [100.0] * 3


@pytest.mark.parametrize(("name", "ceiling"), [("vqa-rad", 33.0), ("slake", 82.9)])
def test_the_candidates_of_train_cap_open_accuracy(name, ceiling):
    candidates = [question.answer for question in questions(name) if question.split == "train"]
    means = llama3med.published(items(name), gold(name), candidates).means()
    assert round(means["open_accuracy"], 1) == ceiling


@pytest.mark.parametrize("name", NAMES)
def test_gold_answers_score_100_on_every_strict_metric_and_tricks_nothing(name):
    metrics = ("recall", "f1", "exact_match", "accuracy")
    assert [strict_mean(name, gold(name), metric) for metric in metrics] == [100.0] * 4
    assert strict_mean(name, gold(name), "unparsed") == 0
    assert strict_mean(name, always(name, "yes or no"), "accuracy") == 0
    assert strict_mean(name, always(name, "normal"), "accuracy") == 0


@pytest.mark.parametrize(("name", "recalls"), [("vqa-rad", [45.2, 59.9]), ("slake", [83.1, 86.6])])
def test_repeating_common_words_raises_the_published_recall_and_not_the_strict_one(name, recalls):
    once, often = (always(name, commonest_words(name, times)) for times in (1, 20))
    published = [llama3med.published(items(name), answers).means()["recall"] for answers in (once, often)]
    assert [round(recall, 1) for recall in published] == recalls
    assert strict_mean(name, often, "recall") == pytest.approx(strict_mean(name, once, "recall"), abs=0.5)
