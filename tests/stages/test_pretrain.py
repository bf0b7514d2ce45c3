"""The first training stage as it is called: what it changes, what it logs, what it refuses, how it goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from medvlm_cli.core import train
from medvlm_cli.core.arrow import open_dataset, write_all
from medvlm_cli.core.commit import Lock
from medvlm_cli.core.config import PretrainConfig
from medvlm_cli.core.errors import BusyError, ConfigError, DataError, MedVLMError
from medvlm_cli.core.features import Cache
from medvlm_cli.core.model import hub_id
from medvlm_cli.core.model.three_scale import S2ClipVisionModel
from medvlm_cli.core.model.vlm import build_model
from medvlm_cli.core.samples import Figures, Samples, Split
from medvlm_cli.core.schemas import CONVERSATIONS, STEPS
from medvlm_cli.core.steps import Job
from medvlm_cli.stages import pretrain as stage
from tests.training_cases import ROWS, conversation, cut_at, quiet, write_figures


class Cut(BaseException):
    """Ends a training in the middle, without the courtesy of a signal."""


def cut():
    raise Cut


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_only_the_connector_changes(pretrained, tiny_tower, tiny_llm):
    before = build_model(tiny_tower, tiny_llm, (32, 64, 96))[0].state_dict()
    after = pretrained.weights("pretrain")
    changed = {name.rsplit(".", 2)[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"model.multi_modal_projector"}


def test_every_optimiser_step_is_a_row_of_the_log(pretrained):
    rows = list(open_dataset(pretrained.path("pretrain") / "steps", STEPS).rows())
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(
        row["loss"] > 0 and row["grad_norm"] > 0 and row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows
    )
    assert rows[-1]["tokens"] < 0.6 * rows[0]["tokens"], "the last step has 4 of 8 conversations"


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(pretrained):
    rates = [row["lr"] for row in pretrained.steps("pretrain")]
    assert rates[0] == 0 and rates[1] == pytest.approx(1e-3)  # one step of warm-up: 3 % of 6, rounded up
    assert rates[3] == pytest.approx(0.5e-3 * (1 + torch.cos(torch.tensor(torch.pi * 2 / 5)).item()), rel=1e-5)


def test_the_checkpoint_says_how_it_came_about(pretrained):
    run = json.loads((pretrained.path("pretrain") / "run.json").read_text())
    assert run["stage"] == "pretrain" and run["config"]["batch"] == 8 and run["steps"] == 6
    assert run["conversations"] == {"train": 22, "val": 4} and run["held_out_loss"] > 0
    assert set(run["inputs"]) == {"conversations", "figures 0", "tower", "llm"}
    assert not pretrained.state("pretrain").exists()


def test_the_loss_is_the_mean_over_all_target_words_of_the_step(bench, training_data, tiny_tower, tiny_llm):
    bench.pretrain("one", epochs=1, batch=22, micro_batch=2)  # the one step of 22 starts from the untrained model
    model, processor = build_model(tiny_tower, tiny_llm, (32, 64, 96))
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    samples = Samples(split, split.train, model, processor, 2048, None)
    expected = model(**samples.collate([samples[row] for row in range(22)])).loss.item()
    assert bench.steps("one")[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_the_loss_falls(bench):
    bench.pretrain("longer", epochs=4, lr=1e-2, save_every=1000)
    losses = [row["loss"] for row in bench.steps("longer")]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_the_split_into_micro_batches_does_not_change_the_result(bench, pretrained, micro):
    bench.pretrain("other", micro_batch=micro)
    expected, found = pretrained.steps("pretrain"), bench.steps("other")
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=2e-6)
    weights = pretrained.weights("pretrain")
    assert all(torch.allclose(weights[name], weight, atol=1e-6) for name, weight in bench.weights("other").items())


@pytest.fixture
def encoded(monkeypatch):
    """How many images each call of any tower had."""
    calls, encode = [], S2ClipVisionModel.encode

    def counted(tower, pixels):
        calls.append(len(pixels))
        return encode(tower, pixels)

    monkeypatch.setattr(S2ClipVisionModel, "encode", counted)
    return calls


def test_cached_features_train_as_the_images_do_to_the_last_bit(bench, pretrained, encoded):
    bench.pretrain("cached", cache_features=True)
    assert bench.steps("cached") == pretrained.steps("pretrain")
    assert same(bench.weights("cached"), pretrained.weights("pretrain"))
    assert sum(encoded) == ROWS


def captions_of(folder, figures):
    """A caption for each of the first figures."""
    made = {"stage": "synthesize", "config": {}, "keys": [str(number) for number in range(figures)], "tell": quiet}
    write_all(folder, CONVERSATIONS, lambda key: conversation(key, "caption"), **made)
    return folder


def test_one_more_figure_is_one_more_image_to_encode(bench, tmp_path, encoded):
    bench.captions = captions_of(tmp_path / "some", ROWS - 1)
    bench.pretrain("first", cache_features=True, epochs=0.5)
    bench.captions = captions_of(tmp_path / "all", ROWS)
    bench.pretrain("second", cache_features=True, epochs=0.5)
    assert encoded == [ROWS - 1, 1]


def test_int8_features_train_nearly_as_exact_ones_and_their_error_is_told(bench, pretrained):
    told = []
    bench.pretrain("int8", lambda what, done, total: told.append(what), cache_features=True, cache_precision="int8")
    expected = [row["loss"] for row in pretrained.steps("pretrain")]
    found = [row["loss"] for row in bench.steps("int8")]
    assert found == pytest.approx(expected, abs=1e-2) and found != expected
    assert sum(what.startswith("features in int8: relative error ") for what in told) == 1


def test_a_rank_that_is_not_the_first_waits_for_the_features_and_encodes_none(
    bench, training_data, tiny_model, tiny_tower, tiny_llm, encoded, monkeypatch
):
    model, processor = build_model(tiny_tower, tiny_llm, (32, 64, 96))
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    job = Job(
        stage="pretrain", conversations="", figures=[], state="", config={"cache_precision": "exact"}, model={},
        micro=1, accumulation=1, run={}, features=str(bench.root / "features"),
    )  # fmt: skip
    first = threading.Timer(0.5, Cache(bench.root / "features", *tiny_model).make, [split.originals(), lambda *_: None])
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(model.model.vision_tower, "encode", None)  # calling it would raise
    first.start()
    features = train._features(job, model, processor, split, lambda *_: None)
    first.join()
    assert [original.sha256 in features for original in split.originals()] == [True] * ROWS
    assert encoded == [ROWS]


def test_the_flag_sets_the_setting(training_data, tmp_path):
    inputs = [training_data / "captions", "--figures", training_data / "figures", "--set", "cache_features=false"]
    command = [sys.executable, "-m", "medvlm_cli", "pretrain", *map(str, inputs), "--cache-features"]
    told = subprocess.check_output([*command, "--dry-run", "--json"], cwd=tmp_path, text=True)
    assert json.loads(told)["settings"]["cache_features"] is True


def test_activation_checkpointing_does_not_change_the_result(bench, pretrained):
    bench.pretrain("recomputed", checkpointing=True)
    assert same(bench.weights("recomputed"), pretrained.weights("pretrain"))


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_run_that_was_cut_goes_on_as_if_nothing_had_happened(bench, pretrained, step):
    with pytest.raises(Cut):
        bench.pretrain("again", cut_at(step, cut))
    summary = bench.pretrain("again")
    assert summary.get("resumed") == {1: None, 3: "step-00000002", 6: "step-00000004"}[step]
    assert bench.steps("again") == pretrained.steps("pretrain")
    assert same(bench.weights("again"), pretrained.weights("pretrain"))


def test_sigterm_saves_and_leaves_with_143(bench, pretrained):
    with pytest.raises(SystemExit) as left:
        bench.pretrain("stopped", cut_at(2, terminate), save_every=1000)
    assert left.value.code == 143
    assert bench.pretrain("stopped", save_every=1000)["resumed"] == "step-00000003"
    assert bench.steps("stopped") == pretrained.steps("pretrain")
    assert same(bench.weights("stopped"), pretrained.weights("pretrain"))


def test_a_killed_process_loses_nothing_but_time(bench, pretrained, training_data, tiny_tower, tiny_llm):
    command = [sys.executable, "-m", "tests.training_cases", training_data, bench.root, tiny_tower, tiny_llm]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment)
    next(line for line in process.stdout if line.startswith("pretrain 4 "))
    time.sleep(0.01)  # checkpoint 4 is being written now
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert bench.pretrain("killed")["resumed"] in ("step-00000002", "step-00000004")
    assert bench.steps("killed") == pretrained.steps("pretrain")
    assert same(bench.weights("killed"), pretrained.weights("pretrain"))


def test_a_half_written_checkpoint_is_skipped_and_said_so(bench, pretrained):
    with pytest.raises(Cut):
        bench.pretrain("again", cut_at(5, cut))
    file = bench.state("again") / "step-00000004" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-1])
    told = []
    summary = bench.pretrain("again", lambda what, done, total: told.append(what))
    assert "step-00000004 is skipped: optimizer.pt is cut off or missing" in told
    assert summary["resumed"] == "step-00000002"
    assert bench.steps("again") == pretrained.steps("pretrain")


def test_checkpoints_hold_nothing_frozen(bench):
    with pytest.raises(Cut):
        bench.pretrain("again", cut_at(3, cut))
    files = {path.name: path.stat().st_size for path in (bench.state("again") / "step-00000002").iterdir()}
    assert files["trainable.safetensors"] < 4 * (192 + 1 + 96 + 1) * 96 + 1000  # the connector in float32


def test_a_finished_run_has_nothing_to_do(bench, pretrained):
    shutil.copytree(pretrained.path("pretrain"), bench.path("pretrain"))
    before = (bench.path("pretrain") / "run.json").stat().st_mtime_ns
    assert bench.pretrain("pretrain")["nothing to do"]
    assert (bench.path("pretrain") / "run.json").stat().st_mtime_ns == before


def finished(bench, pretrained):
    shutil.copytree(pretrained.path("pretrain"), bench.path("pretrain"))


def unfinished(bench, pretrained):
    with pytest.raises(Cut):
        bench.pretrain("pretrain", cut_at(3, cut))


@pytest.mark.parametrize("there", [finished, unfinished])
def test_another_run_is_refused_with_what_differs(bench, pretrained, there):
    there(bench, pretrained)
    with pytest.raises(BusyError, match=re.escape("config lr: 0.001 -> 0.002")) as refused:
        bench.pretrain("pretrain", lr=2e-3)
    assert "remove" in refused.value.fix


def test_a_language_model_of_the_hub_belongs_to_the_run_with_its_commit(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(hub_id, "pinned", lambda where: where and where._replace(revision="a" * 40))
    monkeypatch.setattr(stage, "run_stage", lambda training, *_: made.append(training) or {})
    for llm in ("lab/model", str(tmp_path)):
        stage.pretrain(tmp_path, [tmp_path], tmp_path / "out", PretrainConfig(llm=llm, tower="tower"), quiet)
    assert [one.model["llm"] for one in made] == [f"lab/model@{'a' * 40}", str(tmp_path)]
    assert [one.config["llm"] for one in made] == [f"lab/model@{'a' * 40}", str(tmp_path)]


def test_another_number_of_devices_is_refused(bench):
    with pytest.raises(Cut):
        bench.pretrain("again", cut_at(3, cut))
    with pytest.raises(ConfigError, match="holds this run on 1 devices; its state does not fit 2") as refused:
        bench.pretrain("again", gpus=2)
    assert "--gpus 1" in refused.value.fix


def test_a_second_process_is_told_that_the_folder_is_busy(bench):
    bench.state("again").mkdir(parents=True)
    lock = Lock(bench.state("again"))
    lock.acquire()
    with pytest.raises(BusyError, match=f"is being written by process {os.getpid()}@"):
        bench.pretrain("again")
    lock.release()


def test_a_foreign_folder_is_not_touched(bench):
    bench.path("mine").mkdir(parents=True)
    (bench.path("mine") / "thesis.tex").touch()
    with pytest.raises(BusyError, match="is no checkpoint of medvlm"):
        bench.pretrain("mine")
    assert (bench.path("mine") / "thesis.tex").exists()


def test_instructions_are_refused(bench):
    bench.captions = bench.instruct
    with pytest.raises(DataError, match=r"row 0 \(instruct\d+\): kind is 'instruct', this stage learns 'caption'"):
        bench.pretrain("again")


def test_a_figure_that_is_nowhere_is_named(bench, tmp_path):
    bench.figures = [write_figures(tmp_path / "some", [str(number) for number in range(ROWS - 1)])]
    with pytest.raises(DataError, match="conversation caption25 names figure figure25, which is in none"):
        bench.pretrain("again")


def test_a_figure_that_is_in_two_datasets_is_named(bench, tmp_path):
    bench.figures = [*bench.figures, write_figures(tmp_path / "twice", ["7"])]
    with pytest.raises(DataError, match="conversation caption7 names figure figure7, which is in 2 datasets"):
        bench.pretrain("again")


@pytest.mark.parametrize("cached", [False, True])
def test_a_damaged_image_is_named_with_its_dataset(bench, tmp_path, cached):
    bench.figures = [write_figures(tmp_path / "damaged", [str(number) for number in range(ROWS)], damaged="9")]
    with pytest.raises(DataError, match=r"figure figure9|figure9: its image could not be decoded"):
        bench.pretrain("again", cache_features=cached)


def test_a_run_that_diverges_stops_and_keeps_the_last_good_state(bench):
    with pytest.raises(MedVLMError, match=r"step \d of 6: loss .*; training has diverged") as stopped:
        bench.pretrain("wild", lr=1e38, save_every=1)
    step = int(re.search(r"step (\d)", stopped.value.what)[1])
    assert (bench.state("wild") / f"step-{step - 1:08d}" / "COMPLETE.json").exists()
    assert not (bench.state("wild") / f"step-{step:08d}").exists()


def test_two_processes_with_zero_2_train_as_one_does(bench, pretrained):
    told = []
    bench.pretrain("two", lambda *progress: told.append(progress), gpus=2, micro_batch=2, zero=2)
    assert ("pretrain", 6, 6) in told
    expected, found = pretrained.steps("pretrain"), bench.steps("two")
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-4)
    weights = pretrained.weights("pretrain")
    assert all(torch.allclose(weights[name], weight, atol=1e-4) for name, weight in bench.weights("two").items())
