"""Answers, gold answers and candidates made elsewhere: read by id, and refused by file and line."""

import json
import re

import pytest

from medvlm_cli.core.arrow import Harvest, write_all
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import ANSWERS, QUESTIONS
from medvlm_cli.core.scoring.files import read_candidates, read_predictions, read_references, refuse_mismatch
from medvlm_cli.core.scoring.items import Item

QUESTION = {
    "question_id": "q1", "benchmark": "small-vqa", "split": "test", "kind": "closed", "image_id": "i1",
    "image": {"bytes": b"png", "path": None}, "question": "Left or right?", "choices": ["left", "right"],
    "answers": ["left"], "category": "side",
}  # fmt: skip
ANSWER = {
    "question_id": "q1", "benchmark": "small-vqa", "checkpoint": "finetune@0123", "prompt": "Left or right?",
    "answer": "left", "finish": "stop", "tokens": 2, "seconds": 0.5,
}  # fmt: skip


def no_choices(question, gold):
    return [question, gold]


def dataset(folder, schema, rows):
    rows = {row["question_id"]: dict.fromkeys(schema.names) | row for row in rows}
    make = {"stage": "test", "config": {}, "keys": list(rows), "tell": lambda *_: None}
    write_all(folder, schema, lambda key: Harvest(1, [rows[key]], []), **make)
    return folder


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def entry(**changes):
    turns = [{"from": "human", "value": "<image>\nIs it big?"}, {"from": "gpt", "value": "Yes"}]
    return {"id": 7, "image": "a.png", "answer_type": "CLOSED", "conversations": turns} | changes


def references(tmp_path, *entries):
    path = tmp_path / "test.json"
    path.write_text(json.dumps(entries))
    return path


def test_answers_are_read_by_id_whatever_else_a_line_holds(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"question_id": 7, "text": "a", "prompt": "Q?", "x": NaN}\r\n\n{"text": "", "question_id": "b"}'
    )
    read = read_predictions(path)
    assert read.answers == {"7": "a", "b": ""}
    assert read.prompts == {"7": "Q?"}


def test_a_dataset_and_json_lines_of_the_same_answers_are_read_alike(tmp_path):
    folder = dataset(tmp_path / "answers", ANSWERS, [ANSWER, ANSWER | {"question_id": "q2", "answer": "no"}])
    told = {"text": "left", "prompt": "Left or right?", "model_id": "finetune@0123"}
    path = lines(tmp_path / "a.jsonl", {"question_id": "q1"} | told, {"question_id": "q2"} | told | {"text": "no"})
    by_folder, by_line = read_predictions(folder), read_predictions(path)
    assert (by_folder.answers, by_folder.prompts) == (by_line.answers, by_line.prompts)
    assert by_folder.models == by_line.models == ("finetune@0123",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no answers in it"),
        (b"\n \n", "no answers in it"),
        (b'{"question_id": 1, "text": "a"}\n{"question_id": 2, "te', "line 2: not whole JSON"),
        (b'{"question_id": 1, "text": "a"}\n{"question_id": "1", "text": "b"}', "line 2: question_id '1' is in line 1"),
        (b'{"text": "a"}', "line 1: no 'question_id'"),
        (b'{"question_id": 1}', "line 1: no 'text'"),
        (b'{"question_id": 1, "text": null}', "line 1: 'text' is null, not a text"),
        (b'{"question_id": 1, "text": NaN}', "line 1: 'text' is the number nan, not a text"),
        (b'{"question_id": 1.5, "text": "a"}', "line 1: 'question_id' is the number 1.5"),
        (b'{"question_id": true, "text": "a"}', "line 1: 'question_id' is true"),
        (b'{"question_id": "", "text": "a"}', "line 1: 'question_id' is empty"),
        (b'{"question_id": 1, "text": "\xff"}', "line 1: not UTF-8"),
        (b'{"question_id": 1, "text": "\\ud800"}', "line 1: lone surrogate \\ud800"),
        (b'{"question_id": 1, "text": "a", "prompt": "\\udfff"}', "line 1: lone surrogate \\udfff"),
        (b'[{"question_id": 1, "text": "a"}]', "line 1: a list, not an object"),
        (b"7", "line 1: the number 7, not an object"),
        (b"[" * 100_000, "line 1: not JSON that can be read"),
        (b'{"question_id": ' + b"9" * 5000 + b', "text": "a"}', "line 1: not JSON that can be read"),
        (b"\x1f\x8b\x08\x00\x00", "line 1: not UTF-8"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_answer_is_refused_by_its_number(tmp_path, data, said):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=re.escape(said)) as refused:
        read_predictions(path)
    assert refused.value.what.startswith(str(path))
    assert refused.value.fix
    assert "\n" not in refused.value.what


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(DataError, match=r"lost\.jsonl: no such file"):
        read_predictions(tmp_path / "lost.jsonl")


def test_a_json_list_becomes_questions_with_the_words_of_its_labels(tmp_path):
    opened = entry(id="x", answer_type="OPEN", image=None, category="organ")
    read = read_references(references(tmp_path, entry(), opened), "test", no_choices)
    closed = Item("7", "a.png", "closed", "Is it big?", ("Yes",), ("Is it big?", "Yes"), "", "CLOSED")
    assert read.items == [closed, Item("x", "x", "open", "Is it big?", ("Yes",), (), "organ", "OPEN")]
    assert read.name == "test.json"


@pytest.mark.parametrize(
    ("answer_type", "gold", "kind"),
    [("CLOSED ", "CT", "closed"), ("open", "no", "open"), ("yes/no", "No", "closed"), ("other", "lung", "open")],
)  # fmt: skip
def test_a_label_the_published_script_does_not_know_keeps_its_words(tmp_path, answer_type, gold, kind):
    turns = [{"value": "What?"}, {"value": gold}]
    read = read_references(references(tmp_path, entry(answer_type=answer_type, conversations=turns)), "", no_choices)
    assert (read.items[0].kind, read.items[0].answer_type) == (kind, answer_type)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "an empty list"),
        ({"id": 7}, "an object, not a list"),
        ("text", "a text, not a list"),
        ([7], "entry 1: the number 7, not an object"),
        ([entry(), entry(id="7")], "entry 2: id '7' is in entry 1 already"),
        ([{"answer_type": "OPEN"}], "entry 1: no 'id'"),
        ([{"id": 1, "conversations": entry()["conversations"]}], "entry 1 ('1'): no 'answer_type'"),
        ([entry(answer_type=None)], "entry 1 ('7'): 'answer_type' is null"),
        ([entry(conversations=[{"value": "What?"}])], "entry 1 ('7'): 'conversations' is not a list of a question and"),
        ([entry(conversations="What?")], "entry 1 ('7'): 'conversations' is not a list of a question and"),
        ([entry(conversations=entry()["conversations"][::-1])], "entry 1 ('7'): the conversation begins with the"),
        ([entry(conversations=[{"value": "How?"}, {"value": 2}])], "entry 1 ('7'), turn 2: 'value' is the number 2"),
        ([entry(category="\ud800")], "entry 1: lone surrogate \\ud800"),
    ],
)  # fmt: skip
def test_an_entry_that_is_no_question_is_refused_by_its_number(tmp_path, entries, said):
    path = tmp_path / "test.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(DataError, match=re.escape(said)) as refused:
        read_references(path, "test", no_choices)
    assert refused.value.what.startswith(str(path))
    assert refused.value.fix


@pytest.mark.parametrize("data", [b"", b"  \n", b'[{"id": 1, ', b"\xff\xfe[]"])
def test_a_cut_or_foreign_file_of_questions_is_refused_by_its_name(tmp_path, data):
    (tmp_path / "test.json").write_bytes(data)
    with pytest.raises(DataError, match=r"test\.json: "):
        read_references(tmp_path / "test.json", "test", no_choices)


def test_a_dataset_gives_the_questions_of_one_split_and_what_training_knows(tmp_path):
    rows = [QUESTION, QUESTION | {"question_id": "q0", "split": "train", "answers": ["right", "both"]}]
    read = read_references(dataset(tmp_path / "small", QUESTIONS, rows), "test", no_choices)
    assert read.items == [Item("q1", "i1", "closed", "Left or right?", ("left",), ("left", "right"), "side", "CLOSED")]
    assert (read.benchmark, read.name, read.train_split) == ("small-vqa", "small", "train")
    assert [item.golds for item in read.train] == [("right", "both")]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    folder = dataset(tmp_path / "small", QUESTIONS, [QUESTION])
    with pytest.raises(DataError, match="no question of split 'val'; splits: test"):
        read_references(folder, "val", no_choices)


@pytest.mark.parametrize("change", [{"kind": "either"}, {"answers": []}])
def test_a_question_that_cannot_be_scored_is_refused_by_its_id(tmp_path, change):
    folder = dataset(tmp_path / "small", QUESTIONS, [QUESTION | change])
    with pytest.raises(DataError, match="question q1: kind '"):
        read_references(folder, "test", no_choices)


def test_candidates_are_read_in_their_order(tmp_path):
    (tmp_path / "candidate.json").write_text('["right", "left", "right"]')
    assert read_candidates(tmp_path / "candidate.json")[0] == ["right", "left", "right"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"0": ["left"]}', "an object, not a list"),
        ("[]", "an empty list"),
        ('["left", 3]', "entry 2: the number 3, not a text"),
        ('["left", ["right"]]', "entry 2: a list, not a text"),
        ('["left"', "not whole JSON"),
    ],
)  # fmt: skip
def test_candidates_of_another_form_are_refused_with_the_form_they_need(tmp_path, data, said):
    (tmp_path / "candidate.json").write_text(data)
    with pytest.raises(DataError, match=re.escape(said)) as refused:
        read_candidates(tmp_path / "candidate.json")
    assert refused.value.fix.startswith("give a list of")


def test_ids_that_do_not_agree_are_counted_and_the_first_are_named():
    items = [Item(f"q{number}", "i", "open", "?", ("a",)) for number in range(6)]
    said = "a.jsonl: 3 answers to 6 questions: 5 questions have no answer ('q1', 'q2', 'q3', ...); 2 answers have no"
    with pytest.raises(DataError, match=re.escape(said)):
        refuse_mismatch(items, {"q0": "a", "x": "b", "y": "c"}, "a.jsonl")


def test_ids_that_agree_may_be_in_any_order():
    items = [Item(id_, "i", "open", "?", ("a",)) for id_ in ("q1", "q2")]
    refuse_mismatch(items, {"q2": "a", "q1": "b"}, "a.jsonl")
