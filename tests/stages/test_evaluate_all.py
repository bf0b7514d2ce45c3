"""Several benchmarks in one call: one summary, and what cannot be had is named and does not end the others."""

import json

import pytest

from medvlm_cli.core.errors import DataError, RemoteError
from medvlm_cli.core.exam import Examinee
from medvlm_cli.core.generate import Generator
from medvlm_cli.core.scoring.published_rows import COUNTS, beside_all
from medvlm_cli.stages.evaluate import evaluate, evaluate_all
from tests.inside import medvlm
from tests.stages.eval_cases import CONFIG, answers, question, silent, write


@pytest.fixture
def sets(tmp_path):
    """Two benchmarks by name."""
    first = write(tmp_path / "w" / "questions" / "first", [question(number) for number in range(4)])
    second = write(
        tmp_path / "w" / "questions" / "second", [question(number, benchmark="other") for number in range(6)]
    )
    return {"first": lambda: first, "second": lambda: second}


def refused():
    raise RemoteError("the server refuses", "ask later")


def test_every_benchmark_is_answered_by_a_model_that_is_loaded_once(sets, tiny_checkpoint, tmp_path, monkeypatch):
    loaded, load = [], Generator.__init__

    def counted(generator, *given):
        loaded.append(given)
        load(generator, *given)

    monkeypatch.setattr(Generator, "__init__", counted)
    summary = evaluate_all(sets, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert len(loaded) == 1
    assert list(summary["headline"]) == ["first", "second"]
    assert (len(answers(tmp_path / "out" / "first")), len(answers(tmp_path / "out" / "second"))) == (4, 6)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    alone = evaluate(sets["first"](), tiny_checkpoint, tmp_path / "alone", CONFIG, silent)
    assert summary["headline"]["first"] == alone["headline"]["model"]


def test_one_that_cannot_be_had_is_named_and_the_others_go_on(sets, tiny_checkpoint, tmp_path):
    summary = evaluate_all({"gone": refused, **sets}, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert summary["failed"] == {"gone": "the server refuses; ask later"}
    assert list(summary["headline"]) == ["first", "second"]


def test_all_asks_the_published_three_and_those_of_the_workspace_and_exits_3_without_them(
    sets, tiny_checkpoint, tmp_path
):
    nowhere = "http://127.0.0.1:9"
    empty, preset = tmp_path / "empty", tmp_path / "offline.yaml"
    empty.mkdir()
    preset.write_text(f"fetch: {{mirror: [{empty}], osf: {nowhere}, pathvqa_files: {nowhere}, tries: 1}}\n")
    ask = ["eval", "--bench", "all", "--checkpoint", tiny_checkpoint, "-w", tmp_path / "w", "--json", "-q"]
    quick = ["-c", preset, "--set", "draws=50", "--set", "max_new_tokens=2", "--set", "overlap=false"]
    done = medvlm(*ask, *quick, HF_ENDPOINT=nowhere)
    summary = json.loads(done.stdout)
    assert (done.returncode, sorted(summary["failed"])) == (3, ["pathvqa", "slake", "vqa-rad"])
    assert list(summary["headline"]) == ["first", "second"]
    assert (tmp_path / "w/answers/finetune/first/manifest.json").is_file()


def test_a_missing_model_ends_all(sets, tmp_path):
    with pytest.raises(DataError, match="no checkpoint"):
        evaluate_all(sets, tmp_path / "nowhere", tmp_path / "out", CONFIG, silent)


def test_the_mean_is_over_the_six_cells_of_table_3():
    def sheet(name, recall, accuracy):
        cells = {"recall": {"value": recall, "low": 0, "high": 1}, "accuracy": {"value": accuracy, "low": 0, "high": 1}}
        return {"counts": dict(zip(("open", "closed"), COUNTS[name], strict=True)), "llama3med": cells}

    sheets = {name: sheet(name, 0.1 * place, 0.5) for place, name in enumerate(COUNTS)}
    assert beside_all(sheets)["this model"]["mean"] == 30.0


def test_an_examinee_is_not_loaded_before_it_is_asked(tiny_checkpoint):
    told = []
    examinee = Examinee(tiny_checkpoint, "fp32", lambda what, *_: told.append(what))
    assert (examinee.checkpoint.name.split("@")[0], told) == ("finetune", [])
