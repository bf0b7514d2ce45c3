"""A user's own questions: what becomes a question, and what is rejected by name."""

import json

import pytest
from PIL import Image

from medvlm_cli.benchmarks import own
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError


def take(root, text, name="questions.csv"):
    """Questions and rejects of a folder with one good image and a table."""
    Image.new("RGB", (8, 6), (10, 90, 200)).save(root / "a.png")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:40])
    (root / name).write_text(text, encoding="utf-8")
    config = FetchConfig(images=str(root))
    made = [own.harvest(key, config) for key in own.keys(config)]
    assert all(one.found == len(one.rows) + len(one.rejects) == 1 for one in made)
    return [row for one in made for row in one.rows], [reject for one in made for reject in one.rejects]


@pytest.mark.parametrize(
    ("columns", "kind", "choices"),
    [
        ({"answer": "Yes"}, "closed", []),
        ({"answer": "in the left lung"}, "open", []),
        ({"answer": "left", "choices": "left| right"}, "closed", ["left", "right"]),
        ({"answer": "left", "choices": ["left", "right"]}, "closed", ["left", "right"]),
        ({"answer": "no", "kind": "Open"}, "open", []),
    ],
)
def test_the_kind_follows_from_the_answer_unless_it_is_given(tmp_path, columns, kind, choices):
    line = {"image": "a.png", "question": "What?"} | columns
    (row,), rejects = take(tmp_path, json.dumps(line) + "\n", "questions.jsonl")
    assert (row["kind"], row["choices"], row["answers"]) == (kind, choices, [columns["answer"]])
    assert rejects == []


def test_a_row_becomes_a_question_with_its_own_id_category_and_split(tmp_path):
    text = "id,image,question,answer,category,split\nq7,a.png,Is it blue?,yes,colour,val\n"
    (row,), _ = take(tmp_path, text)
    assert (row["question_id"], row["category"], row["split"]) == ("q7", "colour", "val")
    assert row["image"]["bytes"] == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ("a.png,,yes,", "missing_question", "questions.csv, row 2: no question"),
        ("a.png,Is it?,,", "missing_answer", "questions.csv, row 2: no answer"),
        (",Is it?,yes,", "missing_image", "questions.csv, row 2: no image"),
        ("b.png,Is it?,yes,", "missing_image", "questions.csv, row 2: "),
        ("cut.png,Is it?,yes,", "corrupt_image", "questions.csv, row 2: "),
        ("a.png,Is it?,yes,maybe", "bad_row", "questions.csv, row 2: kind is 'maybe', which must be open or closed"),
    ],
)
def test_a_bad_row_is_rejected_by_its_number(tmp_path, line, reason, message):
    rows, (reject,) = take(tmp_path, f"image,question,answer,kind\n{line}\n")
    assert rows == []
    assert reject.reason == reason
    assert reject.message.startswith(message)


def test_a_table_without_an_answer_column_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"questions\.csv: no column 'answer'; it has image, question"):
        take(tmp_path, "image,question\na.png,What?\n")


def test_no_folder_is_refused():
    with pytest.raises(ConfigError, match="no folder of images"):
        own.keys(FetchConfig())
