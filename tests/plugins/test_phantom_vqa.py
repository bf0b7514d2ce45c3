"""The source ``phantom`` and the benchmark ``phantom-vqa``: rows of the schemas, and no figure in common."""

import hashlib
import io
from collections import Counter

import pytest
from PIL import Image

from medvlm_cli.benchmarks import phantom_vqa
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.schemas import FIGURES, QUESTIONS
from medvlm_cli.sources import phantom

CONFIG = FetchConfig(n=40, questions=40, seed=0)
FIGURE_ROWS = [row for key in phantom.keys(CONFIG) for row in phantom.harvest(key, CONFIG).rows]
QUESTION_ROWS = [row for key in phantom_vqa.keys(CONFIG) for row in phantom_vqa.harvest(key, CONFIG).rows]


def test_every_row_has_exactly_the_columns_of_its_schema():
    assert {tuple(sorted(row)) for row in FIGURE_ROWS} == {tuple(sorted(FIGURES.names))}
    assert {tuple(sorted(row)) for row in QUESTION_ROWS} == {tuple(sorted(QUESTIONS.names))}


def test_one_figure_a_key_and_three_or_four_questions_a_figure():
    assert len({row["figure_id"] for row in FIGURE_ROWS}) == 40
    assert set(Counter(row["image_id"] for row in QUESTION_ROWS).values()) == {3, 4}
    assert len({row["question_id"] for row in QUESTION_ROWS}) == len(QUESTION_ROWS)


def test_figures_are_free_of_rights_and_carry_their_hash():
    row = FIGURE_ROWS[0]
    assert (row["license"], row["commercial_ok"], row["modality_source"]) == ("CC0-1.0", True, "phantom")
    assert row["image_sha256"] == hashlib.sha256(row["image"]["bytes"]).digest()
    assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (row["width"], row["height"])


def test_no_figure_asked_about_is_a_training_figure():
    trained = {row["image_sha256"] for row in FIGURE_ROWS}
    asked = {hashlib.sha256(row["image"]["bytes"]).digest() for row in QUESTION_ROWS}
    assert not trained & asked


@pytest.mark.parametrize("category", ["presence", "side", "small lesion"])
def test_the_answers_of_a_closed_category_are_its_choices_equally_often(category):
    rows = [row for row in QUESTION_ROWS if row["category"] == category]
    counts = Counter(row["answers"][0] for row in rows)
    assert sorted(counts) == sorted(rows[0]["choices"])
    assert len(set(counts.values())) == 1


def test_an_open_answer_is_never_in_its_question():
    rows = [row for row in QUESTION_ROWS if row["kind"] == "open"]
    assert len(rows) == 40
    assert not [row for row in rows if row["answers"][0].lower() in row["question"].lower()]


@pytest.mark.parametrize("column", ["figure_id", "label"])
def test_what_names_a_training_figure_holds_no_finding(column):
    words = {"smooth", "speckled", "left", "right", "ct", "mri", "xray", "histology", "gross"}
    assert not words & {word for row in FIGURE_ROWS for word in row[column].lower().replace("-", " ").split()}
