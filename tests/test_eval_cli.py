"""``medvlm eval`` as a user types it: what goes together, what does not, and what is printed."""

import json
import shutil

import pytest

from medvlm_cli.core.commit import Lock
from tests.inside import medvlm
from tests.stages.eval_cases import answers, question, write
from tests.training_cases import write_figures

FILES = ("--predictions", "a.jsonl", "--references", "a.json")
QUICK = ("--set", "draws=50", "--set", "max_new_tokens=4", "-q")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_checkpoint):
    """A workspace with a benchmark in two splits, answered once, and what that printed."""
    root = tmp_path_factory.mktemp("workspace")
    rows = [question(number) for number in range(8)]
    rows += [question(number, split="train") for number in range(20, 24)]
    write(root / "questions" / "small-vqa", rows)
    ask = ("eval", "--bench", "small-vqa", "--checkpoint", tiny_checkpoint, "-w", root, "--json", *QUICK)
    return root, medvlm(*ask)


def test_a_benchmark_of_the_workspace_is_answered_scored_and_shown(workspace):
    root, done = workspace
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    out = root / "answers" / "finetune" / "small-vqa"
    assert (summary["questions"], summary["answers"]) == (8, str(out))
    assert [path.name for path in (out / "scores.json", out / "report.html") if not path.exists()] == []
    assert len(answers(out)) == len(answers(out.with_name("small-vqa-blank"))) == 8


def test_what_the_benchmark_shares_with_its_other_splits_is_said(workspace):
    lines = json.loads(workspace[1].stdout)["overlap"]
    assert any("train" in line and "8 of 8" in line for line in lines)


def test_hashes_that_another_process_makes_cost_no_scores(workspace, tiny_checkpoint, tmp_path):
    root, figures = tmp_path / "w", tmp_path / "w" / "figures" / "some"
    write_figures(figures, ["1", "2"])
    shutil.copytree(workspace[0] / "questions", root / "questions")
    ask = ("eval", "--bench", "small-vqa", "--checkpoint", tiny_checkpoint, "-w", root, "--json", *QUICK)
    medvlm(*ask)
    manifest = next(root.glob("hashes/**/manifest.json"))
    manifest.unlink()
    lock = Lock(manifest.parent)
    lock.acquire()
    done = medvlm(*ask)
    lock.release()
    summary = json.loads(done.stdout)
    assert summary["overlap"][0].startswith("not looked for, run the command again: ")
    assert summary["headline"]["model"]


def test_overlap_can_be_left_out(workspace, tiny_checkpoint, tmp_path):
    ask = ("eval", "--bench", workspace[0] / "questions/small-vqa", "--checkpoint", tiny_checkpoint)
    done = medvlm(*ask, "-w", tmp_path, "-o", tmp_path / "out", "--json", *QUICK, "--set", "overlap=false")
    assert json.loads(done.stdout)["overlap"] == []
    assert not (tmp_path / "hashes").exists()


def test_a_run_compared_with_itself_differs_in_nothing(workspace):
    root, _ = workspace
    out = root / "answers" / "finetune" / "small-vqa"
    done = medvlm("eval", "compare", out, out, "-w", root, "--json", *QUICK)
    cells = json.loads(done.stdout)["compare"]
    assert {(cell["difference"], cell["p"]) for cell in cells.values()} == {(0.0, 1.0)}


def test_answers_of_a_run_scored_as_predictions_have_its_scores(workspace):
    root, done = workspace
    files = ("--predictions", root / "answers/finetune/small-vqa", "--references", root / "questions/small-vqa")
    again = medvlm("eval", *files, "--json", *QUICK)
    headline = json.loads(again.stdout)["headline"]
    assert headline["model"] == json.loads(done.stdout)["headline"]["model"]


def test_the_table_of_the_published_script_is_printed_bare(workspace):
    root, _ = workspace
    files = ("--predictions", root / "answers/finetune/small-vqa", "--references", root / "questions/small-vqa")
    done = medvlm("eval", *files, "--as-printed", "-q")
    assert done.stdout.splitlines()[0] == "num_open 4  num_close 4"
    assert json.loads(medvlm("eval", *files, "--as-printed", "--json", "-q").stdout)["printed"] == done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to do"),
        (("--predictions", "a.jsonl"), "--references is missing"),
        (("--bench", "slake", "--as-printed"), "--references, --protocol and --as-printed go with --predictions"),
        (("--bench", "slake", "--engine", "vllm"), "engine is 'vllm': vLLM and others have no three-scale tower"),
        (("--bench", "slake", "--shard", "0/2", "--gpus", "2"), "--shard is one part, --gpus makes all of them"),
        (("compare", "a"), "eval compare a: not `eval compare A B`"),
        (("a", "b", "c"), "eval a b c: not `eval compare A B`"),
        (("compare", "a", "b", "--protocol", "strict"), "--protocol does not go with eval compare"),
        ((*FILES, "--bench", "slake", "--gpus", "2"), "--bench, --gpus do not go with --predictions"),
        ((*FILES, "--as-printed", "--protocol", "strict"), "--as-printed is the table of llama3med, not of strict"),
        ((*FILES, "--as-printed", "-o", "x"), "-o does not go with --as-printed"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(tmp_path, words, message):
    done = medvlm("eval", *words, "-w", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []
