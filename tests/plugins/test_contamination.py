"""V10: what a benchmark asks is neither written about nor kept."""

import pytest

from medvlm_cli.teachers.contamination import Benchmarks

LONG = "does the left lower lobe show a wedge shaped opacity that reaches the pleura on this frontal view"
ROWS = [
    ("vqa-rad", LONG, "yes"),
    ("slake", "Which organ is abnormal in the upper left part here?", "Spleen"),
    ("pathvqa", "what is seen", "nuclei"),
    *[("slake", "Is this an image of the whole abdomen?", "Yes")] * 4,
]


@pytest.fixture
def benchmarks():
    return Benchmarks.of(ROWS)


def test_thirteen_words_in_a_row_of_a_benchmark_are_a_hit(benchmarks):
    words = LONG.split()
    assert benchmarks.hit(f"We ask: {' '.join(words[2:15])} and more") == "vqa-rad"
    assert benchmarks.hit(f"We ask: {' '.join(words[2:14])} and more") is None


def test_case_and_punctuation_hide_nothing(benchmarks):
    assert benchmarks.hit(LONG.upper().replace(" ", ", ")) == "vqa-rad"


def test_a_question_with_its_answer_is_a_hit_as_a_whole(benchmarks):
    question = "which organ is abnormal, in the upper left part here?"
    assert benchmarks.hit_pair(question, "Spleen.") == "slake"
    assert benchmarks.hit_pair(question, "The liver.") is None


def test_a_short_question_is_nobodys(benchmarks):
    assert benchmarks.hit_pair("What is seen?", "nuclei") is None


def test_a_question_that_many_rows_ask_is_nobodys(benchmarks):
    assert benchmarks.hit_pair("Is this an image of the whole abdomen?", "Yes") is None


def test_without_benchmarks_nothing_is_a_hit():
    assert Benchmarks.of([]).hit(LONG) is None
    assert Benchmarks.of([]).hit_pair(LONG, "yes") is None
