"""Two sets of answers to the same questions: what differs, whether by chance, and where the gold answers come from."""

import json
import shutil

import pytest

from medvlm_cli.core.config import EvalConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.stages.compare import compare
from tests.stages.answers_cases import GOLDS, SAID, answers, predictions, questions, references, silent

CONFIG = EvalConfig(draws=400)
TEN = [(f"c{n}", f"i{n}", "closed", f"Is {n} there?", "yes") for n in range(10)]
CELLS = ["llama3med open recall", "llama3med closed accuracy", "strict open recall", "strict closed accuracy"]


@pytest.fixture
def asked(tmp_path):
    return questions(tmp_path / "questions" / "small")


def compared(one, other, out=None, **where):
    return compare(one, other, CONFIG, out, silent, **where)


def test_a_set_of_answers_does_not_differ_from_itself(tmp_path):
    path, gold = predictions(tmp_path / "a.jsonl", SAID), references(tmp_path / "test.json")
    summary = compared(path, path, references=gold)
    assert list(summary["compare"]) == CELLS
    told = [
        (row["difference"], row["low"], row["high"], row["p"], row["p_holm"]) for row in summary["compare"].values()
    ]
    assert told == [(0.0, 0.0, 0.0, 1.0, 1.0)] * 4
    assert (summary["same"], summary["questions"], summary["images"]) == (5, 5, 3)


def test_closed_questions_that_one_alone_has_right_give_mcnemars_p(tmp_path):
    gold = references(tmp_path / "test.json", TEN)
    ids = [row[0] for row in TEN]
    one = predictions(tmp_path / "a.jsonl", dict.fromkeys(ids, "yes") | {"c0": "no"})
    other = predictions(tmp_path / "b.jsonl", dict.fromkeys(ids, "no") | {"c0": "yes", "c1": "yes"})
    line = compared(one, other, references=gold)["compare"]["strict closed accuracy"]
    assert (line["A"], line["B"], line["difference"]) == (90.0, 20.0, 70.0)
    assert (line["A only"], line["B only"], line["questions"]) == (8, 1, 10)
    assert line["p"] == 0.0391  # 2 (1 + 9) / 2 ** 9
    assert line["p_holm"] == 0.0781  # the least of two equal ones, twice
    assert line["low"] <= 70.0 <= line["high"]


def test_open_questions_have_the_p_of_the_bootstrap(tmp_path):
    gold = references(tmp_path / "test.json")
    one = predictions(tmp_path / "a.jsonl", GOLDS)
    other = predictions(tmp_path / "b.jsonl", GOLDS | {"o1": "left"})
    line = compared(one, other, references=gold)["compare"]["strict open recall"]
    assert (line["A"], line["B"], line["difference"]) == (100.0, 75.0, 25.0)
    assert 0.1 < line["p"] < 1.0  # one image of two differs
    assert "A only" not in line


def test_the_gold_answers_are_found_by_the_hash_that_the_run_left(tmp_path, asked):
    other_questions = questions(tmp_path / "questions" / "other", TEN)
    one, other = answers(tmp_path / "one", SAID, asked), answers(tmp_path / "two", GOLDS, asked)
    summary = compared(one, other, workspace_questions=[other_questions, asked])
    given = compared(one, other, references=asked)
    assert summary["compare"] == given["compare"]
    assert summary["compare"]["strict closed accuracy"]["B"] == 100.0


def test_json_lines_are_compared_with_a_run_by_the_questions_of_the_run(tmp_path, asked):
    one, other = predictions(tmp_path / "a.jsonl", SAID), answers(tmp_path / "two", SAID, asked)
    assert compared(one, other, workspace_questions=[asked])["same"] == 5


def test_json_lines_alone_need_the_questions(tmp_path):
    path = predictions(tmp_path / "a.jsonl", SAID)
    with pytest.raises(DataError, match="nothing says which questions these answer") as refused:
        compared(path, path)
    assert "--references FILE" in refused.value.fix


def test_questions_that_are_gone_are_named_by_their_hash(tmp_path, asked):
    one = answers(tmp_path / "one", SAID, asked)
    with pytest.raises(DataError, match=r"one: the questions it answers \(manifest sha256 [0-9a-f]{12}"):
        compared(one, one, workspace_questions=[])


def test_answers_to_different_questions_are_refused(tmp_path, asked):
    ten = questions(tmp_path / "questions" / "ten", TEN)
    one = answers(tmp_path / "one", SAID, asked)
    other = answers(tmp_path / "two", dict.fromkeys((row[0] for row in TEN), "yes"), ten)
    with pytest.raises(DataError, match=r"one answers split test of questions [0-9a-f]{12}, .*two split test of"):
        compared(one, other, workspace_questions=[asked, ten])
    with pytest.raises(DataError, match=r"two: 10 answers to 5 questions"):
        compared(one, other, references=asked)


def test_folders_of_several_benchmarks_are_compared_by_their_names(tmp_path, asked):
    ten = questions(tmp_path / "questions" / "ten", TEN)
    yes = dict.fromkeys((row[0] for row in TEN), "yes")
    for run in ("one", "two"):
        answers(tmp_path / run / "small", SAID, asked)
        answers(tmp_path / run / "ten", yes | {"c0": "no" if run == "two" else "yes"}, ten)
        answers(tmp_path / run / "ten-blank", yes, ten)
    summary = compared(tmp_path / "one", tmp_path / "two", tmp_path / "out", workspace_questions=[asked, ten])
    closed = [f"ten {name}" for name in CELLS if "closed" in name]
    assert list(summary["compare"]) == [*(f"small {name}" for name in CELLS), *closed]
    assert summary["compare"]["ten strict closed accuracy"]["difference"] == 10.0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.json", "small.html", "ten.html"]
    shutil.rmtree(tmp_path / "two" / "ten")
    with pytest.raises(DataError, match=r"not the same benchmarks: only in .*one: ten"):
        compared(tmp_path / "one", tmp_path / "two", workspace_questions=[asked, ten])


def test_the_record_and_the_page_hold_what_was_compared(tmp_path, asked):
    one, other = answers(tmp_path / "one", SAID, asked), answers(tmp_path / "two", SAID | {"o2": "a cyst"}, asked)
    summary = compared(one, other, tmp_path / "out", workspace_questions=[asked])
    document = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert document["schema"] == "compare/1"
    assert list(document["cells"]) == CELLS
    assert document["cells"]["strict closed accuracy"]["test"] == "McNemar, exact"
    assert list(document["benchmarks"]["small"]["sheets"]) == ["A", "B"]
    assert str(tmp_path) not in json.dumps(document)
    page = (tmp_path / "out" / "compare.html").read_text()
    assert summary["page"] == str(tmp_path / "out" / "compare.html")
    assert "a cyst" in page
    assert "data:image/" in page


def test_questions_of_a_file_make_a_page_without_images(tmp_path):
    path, gold = predictions(tmp_path / "a.jsonl", SAID), references(tmp_path / "test.json")
    other = predictions(tmp_path / "b.jsonl", SAID | {"o2": "a cyst"})
    compared(path, other, tmp_path / "out", references=gold)
    assert "a cyst" in (tmp_path / "out" / "compare.html").read_text()


def test_nothing_is_written_unless_asked(tmp_path):
    path, gold = predictions(tmp_path / "a.jsonl", SAID), references(tmp_path / "test.json")
    compared(path, path, references=gold)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "test.json"]


def test_a_file_is_no_folder_for_a_comparison(tmp_path):
    path = predictions(tmp_path / "a.jsonl", SAID)
    with pytest.raises(ConfigError, match="is a file"):
        compared(path, path, path)
