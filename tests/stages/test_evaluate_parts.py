"""A benchmark answered in parts: by calls that know nothing of each other, and by processes of one call."""

import json
from dataclasses import replace

import pytest

from medvlm_cli.core import side_by_side
from medvlm_cli.core.errors import BusyError, ConfigError, DataError, ResourceError
from medvlm_cli.stages.evaluate import Beside, evaluate
from tests.inside import medvlm
from tests.stages import part_cases
from tests.stages.eval_cases import CONFIG, answers, question, silent, write

QUESTIONS = 23


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Twelve batches, the last one of a single question."""
    return write(tmp_path_factory.mktemp("asked") / "small-vqa", [question(number) for number in range(QUESTIONS)])


@pytest.fixture(scope="module")
def whole(asked, tiny_checkpoint, tmp_path_factory):
    """Folder of the answers of a run in one piece."""
    out = tmp_path_factory.mktemp("whole") / "out"
    evaluate(asked, tiny_checkpoint, out, CONFIG, silent)
    return out


def shard(number, count):
    return replace(CONFIG, shard=f"{number}/{count}")


def scores(out):
    told = json.loads((out / "scores.json").read_text())
    return {name: sheet["strict"] for name, sheet in told["sheets"].items()}


def test_four_parts_in_any_order_give_the_rows_and_scores_of_one(asked, tiny_checkpoint, tmp_path, whole):
    out = tmp_path / "out"
    told = [evaluate(asked, tiny_checkpoint, out, shard(number, 4), silent) for number in (2, 0, 3)]
    assert [summary["part"] for summary in told] == ["2 of 4", "0 of 4", "3 of 4"]
    assert not (out / "scores.json").exists()
    last = evaluate(asked, tiny_checkpoint, out, shard(1, 4), silent)
    assert last["questions"] == QUESTIONS
    assert answers(out) == answers(whole)
    assert answers(out.with_name("out-blank")) == answers(whole.with_name("out-blank"))
    assert scores(out) == scores(whole)


def test_more_parts_than_batches_leave_some_empty_and_nothing_out(asked, tiny_checkpoint, tmp_path, whole):
    for number in range(14):
        evaluate(asked, tiny_checkpoint, tmp_path / "out", shard(number, 14), silent)
    assert answers(tmp_path / "out") == answers(whole)


def test_a_call_without_a_part_scores_finished_parts_and_loads_no_model(asked, tiny_checkpoint, tmp_path):
    for number in range(2):
        evaluate(asked, tiny_checkpoint, tmp_path / "out", shard(number, 2), silent)
    (tmp_path / "out" / "scores.json").unlink()
    told = []
    evaluate(asked, tiny_checkpoint, tmp_path / "out", CONFIG, lambda what, *_: told.append(what))
    assert set(told) == {"score", "report"}
    assert (tmp_path / "out" / "scores.json").exists()


def test_a_call_without_a_part_says_which_division_is_unfinished(asked, tiny_checkpoint, tmp_path):
    evaluate(asked, tiny_checkpoint, tmp_path / "out", shard(0, 3), silent)
    with pytest.raises(BusyError, match="parts of 3 that are not finished"):
        evaluate(asked, tiny_checkpoint, tmp_path / "out", CONFIG, silent)


def test_a_part_of_a_dataset_in_one_piece_is_refused(asked, tiny_checkpoint, whole):
    with pytest.raises(BusyError, match="in one piece"):
        evaluate(asked, tiny_checkpoint, whole, shard(0, 2), silent)


def test_parts_with_other_settings_are_not_joined(asked, tiny_checkpoint, tmp_path):
    evaluate(asked, tiny_checkpoint, tmp_path / "out", shard(0, 2), silent)
    with pytest.raises(DataError, match="not parts of one run"):
        evaluate(asked, tiny_checkpoint, tmp_path / "out", replace(shard(1, 2), system="Be brief."), silent)


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "1/0"])
def test_a_part_that_is_none_is_a_usage_error(asked, tiny_checkpoint, tmp_path, text):
    ask = ("eval", "--bench", asked, "--checkpoint", tiny_checkpoint, "-o", tmp_path / "out", "--shard", text)
    done = medvlm(*ask)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"error: --shard {text}: not i/N")


def test_processes_side_by_side_give_the_rows_of_one(asked, tiny_checkpoint, tmp_path, whole, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = []
    summary = evaluate(
        asked, tiny_checkpoint, tmp_path / "out", CONFIG, lambda *args: told.append(args), Beside(gpus=2)
    )
    assert len(list((tmp_path / "out").glob("shard-*"))) == 2
    assert answers(tmp_path / "out") == answers(whole)
    assert ("answer", QUESTIONS, QUESTIONS) in told
    assert summary["headline"] == json.loads(json.dumps(summary["headline"]))
    again = evaluate(asked, tiny_checkpoint, tmp_path / "out", CONFIG, silent, Beside(gpus=2))
    assert again == summary


def test_a_part_that_fails_ends_all_and_is_named():
    with pytest.raises(DataError, match="part 1 of 2: question q20: no image") as raised:
        side_by_side.run(part_cases.fail_or_wait, [(False,), (True,)], ["", ""], silent)
    assert raised.value.fix == "mend it"


def test_progress_of_processes_is_told_as_one():
    told = []
    values = side_by_side.run(part_cases.count, [(3,), (4,)], ["", ""], lambda *args: told.append(args))
    assert values == [9, 16]
    assert told[-1] == ("count", 7, 7)


def test_a_killed_process_is_named_and_ends_the_others():
    with pytest.raises(ResourceError, match=r"part 1 of 2 ended with status -9"):
        side_by_side.run(part_cases.die_or_wait, [(False,), (True,)], ["", ""], silent)


def test_a_bug_in_a_process_keeps_its_traceback():
    with pytest.raises(RuntimeError, match=r"part 0 of 1:(.|\n)*ZeroDivisionError"):
        side_by_side.run(part_cases.divide, [()], [""], silent)


@pytest.mark.parametrize(
    ("count", "there", "visible", "expected"),
    [(2, 0, "", ["", ""]), (2, 4, "", ["0", "1"]), (2, 2, "3,5", ["3", "5"]), (1, 1, "GPU-ab", ["GPU-ab"])],
)
def test_each_process_sees_one_gpu(monkeypatch, count, there, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert side_by_side.gpus_of(count, there) == expected


def test_each_process_has_the_environment_of_its_gpu():
    assert side_by_side.run(part_cases.visible, [(), ()], ["7", "8"], silent) == ["7", "8"]


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(ConfigError, match="--gpus 4, and this machine has 2"):
        side_by_side.gpus_of(4, 2)
