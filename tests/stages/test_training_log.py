"""What a training tells of itself: its log, its held-out loss, its curves, and what it keeps when it goes wrong."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama.modeling_llama import LlamaMLP

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.bad_step import TracedSamples
from medvlm_cli.core.config import PretrainConfig, as_dict
from medvlm_cli.core.errors import ConfigError, MedVLMError, ResourceError
from medvlm_cli.core.flops import Counts, Speed, _sizes, _split, count
from medvlm_cli.core.model.vlm import freeze
from medvlm_cli.core.samples import Figures, Split
from medvlm_cli.core.schemas import STEPS
from medvlm_cli.core.steps import Job
from medvlm_cli.core.train import _spread, fit
from tests.training_cases import SETTINGS, cut_at, quiet

COUNTED = ("step", "loss", "grad_norm", "tokens", "target_tokens", "images", "padding", "held_out_loss")


class Cut(BaseException):
    """Ends a training in the middle."""


def cut():
    raise Cut


def logged(bench, name):
    return list(open_dataset(bench.path(name) / "steps", STEPS).rows())


def curves(folder):
    """Every point of every curve, as TensorBoard reads it, none of them purged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.fixture
def job(bench):
    """A pretraining without the folders around it; settings and fields are changed by name."""

    def make(name="job", track="", **changes):
        config = as_dict(PretrainConfig(**SETTINGS | bench.parts | {"lr": 1e-3} | changes))
        state = bench.root / name
        state.mkdir()
        return Job(
            stage="pretrain", conversations=str(bench.captions), figures=[str(folder) for folder in bench.figures],
            state=str(state), config=config, model={name: bench.parts[name] for name in ("tower", "llm")},
            micro=4, accumulation=2, run={"stage": "pretrain", "fingerprint": "0" * 64, "config": config}, track=track,
        )  # fmt: skip

    return make


@pytest.fixture
def traced(training_data, tiny_model):
    """All captions to train on."""
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    return TracedSamples(split, split.train, *tiny_model, 2048, None)


# ---- steps/1 ----------------------------------------------------------------------------------------------------


def test_a_step_says_what_it_went_through(pretrained, traced):
    rows = logged(pretrained, "pretrain")
    samples = [traced[row] for row in range(len(traced))]
    targets = sum(label != -100 for sample in samples for label in sample["labels"][1:])
    assert [row["images"] for row in rows] == [8, 8, 8, 8, 8, 4]
    assert sum(row["target_tokens"] for row in rows) == 2 * targets
    assert sum(row["tokens"] for row in rows) == 2 * sum(len(sample["input_ids"]) for sample in samples)


def test_a_step_says_how_fast_it_was(pretrained):
    for row in logged(pretrained, "pretrain"):
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"], rel=1e-5)
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"], rel=1e-5)


def test_without_a_datasheet_there_is_no_utilisation(pretrained):
    assert {row["mfu"] for row in logged(pretrained, "pretrain")} == {None}


def test_padding_is_the_share_of_what_was_computed(bench, traced):
    bench.pretrain("one", epochs=1, batch=22, micro_batch=22)
    (row,) = logged(bench, "one")
    longest = max(len(traced[place]["input_ids"]) for place in range(22))
    assert row["padding"] == pytest.approx(1 - row["tokens"] / (22 * longest), rel=1e-5) and row["padding"] > 0


@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_run_has_every_row_once_and_as_it_would_have_been(bench, pretrained, step):
    with pytest.raises(Cut):
        bench.pretrain("again", cut_at(step, cut))
    bench.pretrain("again")
    expected, found = logged(pretrained, "pretrain"), logged(bench, "again")
    assert [[row[name] for name in COUNTED] for row in found] == [[row[name] for name in COUNTED] for row in expected]


def test_a_sample_without_targets_is_computed_and_not_counted(traced):
    batch = traced.collate([traced[3], traced[~5]])
    counts = count([batch])
    assert (counts.conversations, counts.images, batch["rows"]) == (1, 1, [3, ~5])
    assert counts.targets == sum(label != -100 for label in traced[3]["labels"][1:])


def test_a_pack_is_counted_as_its_conversations_are(traced):
    samples = [traced[row] for row in (0, 1, 2)]
    alone, packed = count([traced.collate([one]) for one in samples]), count([traced.pack(samples)])
    assert packed == alone and packed.padding == 0 and packed.conversations == 3


# ---- utilisation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_operations_are_those_that_pytorch_counts(fresh_model, traced, stage):
    """Ours leave out the masked half of attention, and nothing that is large: at these sizes within a tenth."""
    model = fresh_model[0]
    freeze(model, stage)
    batch = traced.collate([traced[0], traced[4]])
    speed = Speed(sizes=_sizes(model), split=_split(model, "bf16", 1), peak=1e12, cached=True)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    inputs["image_features"] = model.model.vision_tower.encode(batch["pixel_values"])  # fused, so not counted
    with FlopCounterMode(display=False) as counted:
        model.train()(**inputs, use_cache=False).loss.backward()
    assert speed.flop(count([batch])) == pytest.approx(counted.get_total_flops(), rel=0.1)


def test_utilisation_is_one_when_a_step_takes_as_long_as_it_must(tiny_model):
    model = tiny_model[0]
    speed = Speed(sizes=_sizes(model), split=_split(model, "bf16", 4), peak=1e12, cached=True)
    counts = Counts(targets=100, tokens=400, padding=50, conversations=8, images=8)
    assert speed.mfu(counts, speed.flop(counts) / 4e12) == pytest.approx(1)


def test_each_target_costs_a_head_that_is_trained_one_pass_forward_and_two_back(tiny_model):
    speed = Speed(sizes=_sizes(tiny_model[0]), split=_split(tiny_model[0], "bf16", 1), peak=1e12, cached=True)
    few, more = (
        speed.flop(Counts(targets=targets, tokens=400, padding=0, conversations=8, images=8)) for targets in (80, 81)
    )
    assert more - few == pytest.approx(6 * speed.sizes.head)


def test_features_from_the_cache_are_no_operations(tiny_model):
    model, counts = tiny_model[0], Counts(targets=100, tokens=400, padding=0, conversations=8, images=8)
    cached, plain = (
        Speed(sizes=_sizes(model), split=_split(model, "bf16", 1), peak=1e12, cached=whether)
        for whether in (True, False)
    )
    assert plain.flop(counts) - cached.flop(counts) == pytest.approx(8 * plain.sizes.tower_flop)


# ---- held-out loss ----------------------------------------------------------------------------------------------


@pytest.fixture
def dropping(bench, tiny_llm, tmp_path):
    """A language model that drops at random, so that a training draws numbers in every step."""
    folder = Path(shutil.copytree(tiny_llm, tmp_path / "dropping"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    bench.parts["llm"] = str(folder)


def test_measuring_the_held_out_loss_does_not_change_a_training(bench, job, dropping):
    fit(job("often", held_out_every=1), quiet)
    fit(job("never", held_out_every=1000), quiet)
    often, never = (rows_of(bench.root / name) for name in ("often", "never"))
    assert [row["loss"] for row in often] == [row["loss"] for row in never]
    weights = [load_file(bench.root / name / "out" / "model.safetensors") for name in ("often", "never")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row["held_out_loss"] is None for row in never] == [True] * 5 + [False]
    assert None not in [row["held_out_loss"] for row in often]


def test_the_model_of_that_test_does_draw_numbers(bench, job, dropping, pretrained):
    fit(job(), quiet)
    losses = [row["loss"] for row in rows_of(bench.root / "job")]
    assert losses != pytest.approx([row["loss"] for row in pretrained.steps("pretrain")], abs=1e-4)


def rows_of(state):
    return [json.loads(line) for line in (state / "steps.jsonl").read_text().splitlines()]


def test_the_last_step_measures_all_that_is_held_out(pretrained):
    run = json.loads((pretrained.path("pretrain") / "run.json").read_text())
    losses = [row["held_out_loss"] for row in logged(pretrained, "pretrain")]
    assert losses[-1] == pytest.approx(run["held_out_loss"], rel=1e-6)
    assert losses[0] != losses[-1]


def test_the_held_out_loss_is_measured_ten_times_where_nothing_is_said(bench):
    bench.pretrain("longer", epochs=8, save_every=1000)
    measured = [row["step"] for row in logged(bench, "longer") if row["held_out_loss"] is not None]
    assert measured == [3, 6, 9, 12, 15, 18, 21, 22]


def test_few_of_many_are_taken_at_even_distances():
    assert _spread(range(100), 4) == [0, 25, 50, 75] and _spread([3, 5], 4) == [3, 5]


# ---- what went wrong ----------------------------------------------------------------------------------------------


def kept(state):
    """Rank -> tensors and story of the only bad step."""
    (folder,) = state.glob("bad-step-*")
    files = sorted(folder.glob("*.json"))
    return folder, [(load_file(file.with_suffix(".safetensors")), json.loads(file.read_text())) for file in files]


def test_the_conversations_of_a_step_that_diverges_are_kept(bench, traced):
    with pytest.raises(MedVLMError, match="training has diverged; its conversations are kept in") as stopped:
        bench.pretrain("wild", lr=1e38, save_every=1)
    folder, [(tensors, told)] = kept(bench.state("wild"))
    step = int(re.search(r"step (\d)", stopped.value.what)[1])
    assert str(folder) in stopped.value.what and folder.name == f"bad-step-{step:08d}" and told["step"] == str(step)
    assert [len(part["conversations"]) for part in told["micro_batches"]] == [4, 4]
    parts = sum(float(part["loss"]) for part in told["micro_batches"])
    assert parts == pytest.approx(float(told["loss"]), rel=1e-5, nan_ok=True) and not math.isfinite(parts)
    by_name = {traced.told(row)["conversation_id"]: row for row in range(len(traced))}
    for number, part in enumerate(told["micro_batches"]):
        rows = [by_name[one["conversation_id"]] for one in part["conversations"]]
        expected = traced.collate([traced[row] for row in rows])
        assert part["conversations"] == [traced.told(row) for row in rows]
        assert all(torch.equal(tensors[f"{number}.{name}"], expected[name]) for name in ("input_ids", "labels"))


@pytest.fixture
def poisoned(bench, tiny_llm, tmp_path, traced):
    """A language model that does not survive the words that only the odd conversations have."""
    folder = Path(shutil.copytree(tiny_llm, tmp_path / "poisoned"))
    words: list[set] = [set(), set()]
    for row in range(len(traced)):
        words[number_of(traced.told(row)) % 2] |= set(traced[row]["input_ids"])
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][sorted(words[1] - words[0])] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    bench.parts["llm"] = str(folder)


def number_of(told):
    return int(told["conversation_id"].removeprefix("caption"))


def test_the_story_tells_which_conversations_made_the_loss_what_it_is(bench, poisoned):
    with pytest.raises(MedVLMError, match="step 1 of 6: loss nan"):
        bench.pretrain("wild", micro_batch=1)
    _, [(_, told)] = kept(bench.state("wild"))
    stories = [(number_of(part["conversations"][0]), part["loss"] == "nan") for part in told["micro_batches"]]
    assert stories == [(number, number % 2 == 1) for number, _ in stories]
    assert len(stories) == 8 and {odd for _, odd in stories} == {True, False}


def test_the_story_of_a_conversation_leads_to_its_image(traced, training_data):
    import hashlib

    from tests.training_cases import picture

    told = traced.told(2)
    number = number_of(told)
    assert told["image_sha256"] == hashlib.sha256(picture(number)).hexdigest()
    assert told["figure_id"] == f"figure{number}" and told["learnt"] and not traced.told(~2)["learnt"]


def test_every_rank_keeps_its_own_conversations(bench):
    with pytest.raises(MedVLMError, match=r"rank \d of 2: step \d of 6: .*training has diverged"):
        bench.pretrain("wild", gpus=2, micro_batch=2, zero=0, lr=1e38, warmup=0)
    _, parts = kept(bench.state("wild"))
    names = [
        one["conversation_id"] for _, told in parts for part in told["micro_batches"] for one in part["conversations"]
    ]
    assert [told["rank"] for _, told in parts] == [0, 1] and len(names) == len(set(names)) == 8


def test_a_disk_that_refuses_does_not_hide_why_the_run_stopped(bench, monkeypatch):
    def full(*given):
        raise ResourceError("no space left", "")

    monkeypatch.setattr("medvlm_cli.core.steps.keep", full)
    with pytest.raises(MedVLMError, match="training has diverged; its conversations could not be kept: no space left"):
        bench.pretrain("wild", lr=1e38)


# ---- curves -------------------------------------------------------------------------------------------------------


def test_the_checkpoint_has_the_log_as_curves(pretrained):
    rows, drawn = logged(pretrained, "pretrain"), curves(pretrained.path("pretrain") / "tensorboard")
    assert [step for step, _ in drawn["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in drawn["train/loss"]] == [row["loss"] for row in rows]
    assert [value for _, value in drawn["held_out/loss"]] == [row["held_out_loss"] for row in rows]
    assert "speed/mfu" not in drawn and len(drawn["speed/tokens_per_second"]) == 6


def test_a_resumed_run_has_every_point_once(bench, pretrained):
    with pytest.raises(Cut):
        bench.pretrain("again", cut_at(5, cut))
    assert (bench.state("again") / "tensorboard").is_dir()
    bench.pretrain("again")
    found, expected = (
        curves(one.path(name) / "tensorboard") for one, name in [(bench, "again"), (pretrained, "pretrain")]
    )
    assert found["train/loss"] == expected["train/loss"]


def test_the_curves_do_not_name_the_machine(pretrained):
    import socket

    files = list((pretrained.path("pretrain") / "tensorboard").iterdir())
    assert [file.name for file in files] == ["events.out.tfevents.medvlm"]
    assert socket.gethostname().encode() not in files[0].read_bytes()


def test_a_tracker_that_is_not_there_is_said_before_anything_is_loaded(job):
    asked = job(track="trackio")
    asked.model["tower"] = "nowhere"
    with pytest.raises(ConfigError, match="trackio is not installed") as refused:
        fit(asked, quiet)
    assert refused.value.fix == "pip install trackio, or leave --track out"


# ---- what is shown ------------------------------------------------------------------------------------------------


def test_the_figures_of_each_step_are_shown_before_it_counts_as_done(bench):
    told = []

    class Listener:
        def __call__(self, what, done, total):
            told.append((what, done))

        def figures(self, values):
            told.append(("figures", values))

    bench.pretrain("shown", Listener())
    rows = logged(bench, "shown")
    assert [what for what, _ in told[-12:]] == ["figures", "pretrain"] * 6
    shown = [values for what, values in told if what == "figures"]
    assert [one["held_out_loss"] for one in shown] == pytest.approx([row["held_out_loss"] for row in rows])
    assert [one["lr"] for one in shown] == pytest.approx([row["lr"] for row in rows])
    assert shown[-1]["loss"] == pytest.approx(sum(row["loss"] for row in rows) / 6)


# ---- activations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["all", "half", "none", True, False])
def test_recomputing_activations_does_not_change_the_result(bench, job, pretrained, setting):
    fit(job(checkpointing=setting), quiet)
    found, expected = rows_of(bench.root / "job"), pretrained.steps("pretrain")
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], rel=1e-6)
    weights = load_file(bench.root / "job" / "out" / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in pretrained.weights("pretrain").items())


@pytest.mark.parametrize(("setting", "calls"), [("all", 4), ("half", 3), ("none", 2)])
def test_half_computes_every_second_layer_again(job, monkeypatch, setting, calls):
    """Of two layers, in the one micro-batch of the one step."""
    called, forward = [], LlamaMLP.forward

    def counted(part, hidden):
        called.append(part.training)
        return forward(part, hidden)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    asked = job(checkpointing=setting, batch=22, epochs=1)
    fit(Job(**vars(asked) | {"micro": 22, "accumulation": 1}), quiet)
    assert sum(called) == calls
