"""What a dry run says of a training: its arithmetic on the published setting, its choices, and how it shows a sample.

The published setting: Llama-3-8B, DFN5B ViT-H/14 at three scales; 785 tokens a conversation in pretraining, 50 of them
targets, and 1,050 with 280 in finetuning.
"""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from medvlm_cli import render
from medvlm_cli.core import devices, sizes
from medvlm_cli.core.config import FinetuneConfig, PretrainConfig
from medvlm_cli.core.cost import (
    Split,
    activations,
    block_bytes,
    disk,
    feature_bytes,
    flop_per_sample,
    logits,
    seconds_per_step,
    states,
)
from medvlm_cli.core.devices import DEVICES, GB, find_device
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.estimate import FASTER, Question, estimate
from medvlm_cli.core.lengths import Lengths, Rows, pieces
from medvlm_cli.core.presets import load
from medvlm_cli.core.prompts import IGNORED, encode
from medvlm_cli.core.sizes import parts_of_names, sizes_of
from tests.inside import medvlm

LENGTHS = {"pretrain": (785, 50), "finetune": (1050, 280)}
H100 = DEVICES["h100-80gb"]


@pytest.fixture(scope="module")
def published():
    """Sizes of the published model; no weights, no network."""
    return sizes_of(parts_of_names(load(PretrainConfig, "llama3-med-8b")))


def layout(stage, **changes):
    base = Split(stage=stage, world=4, zero=2, precision="bf16", recomputed=0.0)
    return dataclasses.replace(base, **changes)


def asked(stage, out, preset="llama3-med-8b", **changes):
    kind = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}[stage]
    parts = load(PretrainConfig, preset)
    known = {"config": load(kind, preset), "parts": parts, "conversations": None, "gpus": 4, "gpu_type": "h100-80gb"}
    return estimate(Question(stage=stage, out=out, **known | changes))


def test_the_published_model_has_its_published_sizes(published):
    assert (published.llm, published.connector) == (8_030_261_248, 32_514_048)
    assert published.tower == 632_682_240 - 1280 * 1024  # open_clip counts its projection into the text space
    assert published.tokens == 729 and published.channels == 3840
    assert published.tower_flop == pytest.approx(13.66e12, rel=0.001)


def test_the_table_has_mistral_as_large_as_it_is():
    counted = sizes_of(parts_of_names(load(PretrainConfig, "llava-med-mistral-7b")))
    assert counted.llm == 7_241_732_096 and counted.tokens == 576 and counted.channels == 1024


@pytest.mark.parametrize(
    ("stage", "zero", "world", "gigabytes"),
    [
        ("finetune", 2, 2, 73.8), ("finetune", 2, 4, 45.6), ("finetune", 2, 8, 31.5), ("finetune", 0, 1, 130.3),
        ("finetune", 3, 2, 65.1), ("finetune", 3, 4, 32.6), ("finetune", 3, 8, 16.3), ("pretrain", 2, 4, 17.8),
        ("pretrain", 0, 1, 17.8),
    ],
)  # fmt: skip
def test_states_of_the_published_setting(published, stage, zero, world, gigabytes):
    found = states(published, layout(stage, zero=zero, world=world))
    assert sum(found.values()) / GB == pytest.approx(gigabytes, rel=0.02)


@pytest.mark.parametrize(("adapter", "gigabytes"), [("lora", 23.2), ("qlora", 23.2 - 6.979 * (2 - 0.516))])
def test_states_with_adapters_of_rank_128(published, adapter, gigabytes):
    split = layout("finetune", zero=0, world=1, adapter=adapter, rank=128)
    assert sum(states(published, split).values()) / GB == pytest.approx(gigabytes, rel=0.01)
    assert published.trained(split) - published.connector == pytest.approx(335.5e6, rel=0.001)


def test_adapters_spare_the_gradients_of_the_weights_and_add_little(published):
    whole, adapted, frozen = (
        flop_per_sample(published, layout(stage, **how), 1050, 280, tower=False)
        for stage, how in (("finetune", {}), ("finetune", {"adapter": "lora", "rank": 128}), ("pretrain", {}))
    )
    assert adapted - frozen == pytest.approx(6 * 335.5e6 * 1050, rel=0.001)
    assert whole - adapted > 10e12


ENGINEERED = {"pretrain": {"recomputed": 0.0}, "finetune": {"recomputed": 0.5}}
REFERENCE = {stage: {"recomputed": 1.0, "all_logits": True} for stage in LENGTHS}


@pytest.mark.parametrize(
    ("stage", "how", "tera"),
    [
        ("pretrain", ENGINEERED, 36.1), ("finetune", ENGINEERED, 67.1), ("pretrain", REFERENCE, 49.6),
        ("finetune", REFERENCE, 78.0),
    ],
)  # fmt: skip
def test_operations_of_a_sample_of_the_published_setting(published, stage, how, tera):
    found = flop_per_sample(published, layout(stage, **how[stage]), *LENGTHS[stage])
    assert found / 1e12 == pytest.approx(tera, rel=0.02)


@pytest.mark.parametrize(
    ("stage", "batch", "rows", "seconds", "gpu_hours"),
    [("pretrain", 256, 600_000, 5.2, 13.5), ("finetune", 128, 80_000, 4.8, 3.4)],
)
def test_time_of_the_published_setting(published, stage, batch, rows, seconds, gpu_hours):
    flop = flop_per_sample(published, layout(stage, **ENGINEERED[stage]), *LENGTHS[stage])
    step = seconds_per_step(flop, batch, 4, H100.peak)
    assert step == pytest.approx(seconds, rel=0.02)
    assert step * (rows / batch) * 4 / 3600 == pytest.approx(gpu_hours, rel=0.02)


@pytest.mark.parametrize(("words", "gigabytes"), [(785, 32), (50, 2.1)])
def test_logits_of_the_published_setting(published, words, gigabytes):
    assert logits(published, layout("pretrain"), 32, words) / GB == pytest.approx(gigabytes, rel=0.03)


def test_with_recomputation_a_token_keeps_the_input_of_every_block_and_one_block_whole(published):
    split = layout("finetune", recomputed=1.0)
    token = activations(published, split, 1, 1050) - activations(published, split, 1, 1049)
    assert token - block_bytes(published, split) == 262_144


def test_recomputing_half_of_the_blocks_keeps_the_other_half_whole(published):
    kept, half = (activations(published, layout("finetune", recomputed=share), 1, 1050) for share in (0.0, 0.5))
    whole = 1050 * block_bytes(published, layout("finetune"))
    assert kept - half == pytest.approx(15 * whole - 1050 * 16 * 8192)  # 16 inputs, and one block at a time


def test_the_cache_of_features_takes_terabytes(published):
    assert feature_bytes(published, 2, 600_000) == pytest.approx(3.36e12, rel=0.001)
    assert feature_bytes(published, 1, 3362) == 3362 * (729 * 3840 + 4 * 3840)


def test_a_checkpoint_holds_what_is_trained_and_its_moments(published):
    found = disk(published, layout("pretrain", world=1, zero=0), 2)
    assert found["checkpoint"] == pytest.approx(12 * 32_514_048 / GB)
    assert found["checkpoints"] == pytest.approx(3 * found["checkpoint"])
    assert found["model"] == pytest.approx(2 * (8_030_261_248 + 32_514_048 + 631_371_520) / GB)


def saved_bytes(blocks, dtype, trained):
    """What autograd keeps in a Llama of so many blocks, in bytes a token."""
    text = AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=64, intermediate_size=224, num_hidden_layers=blocks, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="sdpa",
    )  # fmt: skip
    llm = AutoModelForCausalLM.from_config(text, dtype=dtype).requires_grad_(trained).train()
    weights = {weight.untyped_storage().data_ptr() for weight in llm.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # the tensor too, or its memory would be another's next
        return tensor

    words = torch.zeros(1, 16, 64, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        llm.model(inputs_embeds=words, position_ids=torch.arange(16)[None])
    return sum(kept[place].untyped_storage().nbytes() for place in kept.keys() - weights) / 16


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_autograd_keeps_of_a_block_what_the_formula_says(published, stage, precision, dtype):
    tiny = dataclasses.replace(published, width=64, inner=224, attention=64, keys=32, heads=4)
    trained = stage == "finetune"
    found = saved_bytes(3, dtype, trained) - saved_bytes(2, dtype, trained)
    assert found == block_bytes(tiny, layout(stage, precision=precision))


def test_the_published_setting_fits_four_h100_with_zero_2(tmp_path):
    said = asked("finetune", tmp_path)
    assert said["chosen"] == {"zero": 2, "micro_batch": 16, "accumulation": 2, "fits": True}
    assert said["memory_gb"]["chosen"]["total"] < 72 < said["memory_gb"]["chosen"]["total"] * 2
    assert any("sizes from the table, config.json not reached" in note for note in said["notes"])
    assert any("45%" in note for note in said["notes"])


def test_where_memory_allows_it_the_faster_layout_is_named(tmp_path):
    said = asked("pretrain", tmp_path)
    assert said["time"][FASTER]["seconds_per_step"] == pytest.approx(5.2, rel=0.02)
    assert any("--set checkpointing=false --set micro_batch=8 --set zero=2" in note for note in said["notes"])


def test_where_zero_2_does_not_fit_zero_3_is_chosen_and_the_settings_named(tmp_path):
    said = asked("finetune", tmp_path, gpu_type="a100-40gb")
    assert said["chosen"]["zero"] == 3 and said["chosen"]["fits"]
    assert "the settings as they are do not fit; these do: --set micro_batch=2 --set zero=3" in said["notes"]


def test_where_nothing_fits_the_ways_out_are_named(tmp_path):
    said = asked("finetune", tmp_path, gpus=2, gpu_type="rtx4090-24gb")
    assert not said["chosen"]["fits"] and said["chosen"]["micro_batch"] == 0
    note = next(note for note in said["notes"] if "usable" in note)
    assert "--set adapter=lora --set zero=3, or --set adapter=qlora --set zero=2" in note
    assert "8 x rtx4090-24gb (ZeRO-3)" in note and "2 x h100-80gb" in note and "l40s" not in note


def test_processes_on_one_processor_share_its_memory():
    assert find_device("cpu").usable(4) == pytest.approx(find_device("cpu").usable(1) / 4)
    assert H100.usable(4) == H100.usable(1)


def test_a_processor_promises_no_hours(tmp_path):
    said = asked("pretrain", tmp_path, gpus=1, gpu_type="cpu")
    assert said["time"]["chosen"]["gpu_hours"] is None
    assert any("no datasheet states the speed of cpu" in note for note in said["notes"])


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", None), ("NVIDIA A100-SXM4-40GB", 312e12)]
)
def test_an_own_gpu_has_its_own_memory_and_the_speed_of_its_datasheet(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: type("Seen", (), {"total_memory": 7}))
    found = devices.find_device("")
    assert (found.memory, found.peak) == (7, peak)


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(ConfigError, match="h100-80gb, h200-141gb"):
        find_device("h100")


def test_padding_is_what_fills_a_micro_batch_up_to_its_longest():
    lengths = Lengths(rows=2, images=2, tokens=np.array([10, 30]), targets=1.0, cut=0, source="measured")
    assert lengths.padded(1) == pytest.approx(20, abs=0.5)
    assert lengths.padded(8) == pytest.approx(30, abs=0.5)


def test_packed_conversations_are_not_padded_and_take_the_memory_of_a_pack(tmp_path):
    config = dataclasses.replace(load(PretrainConfig, "llama3-med-8b"), pack_tokens=8 * 785)
    packed, padded = asked("pretrain", tmp_path, config=config), asked("pretrain", tmp_path)
    assert packed["memory_gb"]["as set"]["total"] == pytest.approx(padded["memory_gb"]["as set"]["total"])
    assert packed["memory_gb"]["chosen"]["total"] < padded["memory_gb"]["chosen"]["total"]


def parts(tower, llm):
    return PretrainConfig(tower=tower, llm=llm, scales=(32, 64, 96), batch=8, micro_batch=4)


def test_conversations_at_hand_are_measured(training_data, tiny_tower, tiny_llm, tmp_path):
    config = parts(tiny_tower, tiny_llm)
    said = asked("pretrain", tmp_path, config=config, parts=config, conversations=training_data / "captions")
    processor = parts_of_names(config).processor
    rows = Rows(training_data / "captions", config, "caption")
    known = [rows.encoded(row, processor) for row in rows.train]
    assert said["length"]["source"] == "measured" and said["length"]["conversations"] == 22
    assert said["length"]["tokens"] == pytest.approx(np.mean([len(one["input_ids"]) for one in known]))
    assert said["length"]["longest"] == max(len(one["input_ids"]) for one in known)


def test_the_processor_is_the_one_of_training(training_data, tiny_tower, tiny_llm, tiny_model):
    turns = [{"role": "user", "text": "Is it <image> left?"}, {"role": "assistant", "text": "Yes."}]
    mine = parts_of_names(parts(tiny_tower, tiny_llm)).processor
    assert encode(mine, turns) == encode(tiny_model[1], turns)


def test_the_sample_shows_the_answers_as_targets_and_the_image_once(training_data, tiny_checkpoint, tmp_path):
    config = FinetuneConfig(batch=8, seed=3)
    instruct = training_data / "instruct"
    said = asked("finetune", tmp_path, config=config, parts=tiny_checkpoint, conversations=instruct)
    shown = said["sample"]["pieces"]
    turns = {row["conversation_id"]: row["turns"] for row in Rows(instruct, config, "instruct").dataset.rows()}
    answers = [turn["text"] + "<|eot_id|>" for turn in turns[said["sample"]["conversation"]][1::2]]
    assert [piece["text"] for piece in shown if piece["kind"] == "target"] == answers
    assert [piece for piece in shown if piece["kind"] == "image"] == [
        {"kind": "image", "text": "<image>", "tokens": 16}
    ]


def test_pieces_lose_no_token(tiny_model):
    processor = tiny_model[1]
    turns = [{"role": "user", "text": "Is it?"}, {"role": "assistant", "text": "Yes é."}]
    encoded = encode(processor, turns)
    shown = pieces(processor, encoded["input_ids"], encoded["labels"])
    assert sum(piece["tokens"] for piece in shown) == len(encoded["input_ids"])
    learned = sum(label != IGNORED for label in encoded["labels"])
    assert [piece["tokens"] for piece in shown if piece["kind"] == "target"] == [learned]


def test_conversations_of_the_other_stage_are_refused(training_data, tiny_checkpoint, tmp_path):
    with pytest.raises(DataError, match="kind is 'caption', this stage learns 'instruct'"):
        asked("finetune", tmp_path, parts=tiny_checkpoint, conversations=training_data / "captions")


def test_no_checkpoint_is_said_in_one_line(tmp_path):
    with pytest.raises(DataError, match="there is no checkpoint"):
        asked("finetune", tmp_path, parts=tmp_path / "nothing")


def test_an_unreachable_language_model_that_no_table_has_is_refused(tmp_path):
    config = dataclasses.replace(load(PretrainConfig, "llama3-med-8b"), llm="someone/something")
    with pytest.raises(ConfigError, match=r"its config\.json could not be read"):
        asked("pretrain", tmp_path, config=config, parts=config)


def test_the_hub_is_asked_once_and_not_again_where_it_does_not_answer(monkeypatch):
    asked_hub, asked_files = [], []

    def from_pretrained(name, revision, trust_remote_code, local_files_only):
        asked_files.append(local_files_only)
        raise OSError

    monkeypatch.setattr(sizes.HfApi, "model_info", lambda *_, **__: asked_hub.append(1) or 1 / 0)
    monkeypatch.setattr(sizes.AutoConfig, "from_pretrained", from_pretrained)
    parts_of_names(load(PretrainConfig, "llama3-med-8b"))
    assert (asked_hub, asked_files) == ([1], [True])


SAMPLE = {
    "conversation": "c[bold]1",
    "pieces": [
        {"kind": "ignored", "text": "user: [/data] \x1b[2J", "tokens": 3},
        {"kind": "image", "text": "<image>", "tokens": 729},
        {"kind": "target", "text": "[red]Yes\u202e<|eot_id|>", "tokens": 2},
    ],
}


def test_off_a_terminal_targets_stand_in_brackets_and_nothing_steers_it(capsys):
    render.result({"sample": SAMPLE}, as_json=False)
    shown = capsys.readouterr().out
    assert shown == (
        "sample c[bold]1, targets in [[ ]]:\nuser: [/data] \\u001b[2J<image> x 729[[[red]Yes\\u202e<|eot_id|>]]\n"
    )


def test_on_a_terminal_targets_are_coloured_and_nothing_else_steers_it(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    render.result({"sample": SAMPLE}, as_json=False)
    shown = capsys.readouterr().out
    assert "\x1b[1;32m[red]Yes\\u202e<|eot_id|>\x1b[0m" in shown and "\x1b[36m<image> x 729\x1b[0m" in shown
    assert "\x1b[2muser: [/data] \\u001b[2J" in shown and "\x1b[2J" not in shown


def test_a_terminal_that_wants_no_colour_gets_brackets(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    render.result({"sample": SAMPLE}, as_json=False)
    assert "[[[red]Yes\\u202e<|eot_id|>]]" in capsys.readouterr().out


def test_the_verb_answers_as_json_and_writes_nothing(tmp_path):
    options = ("-c", "llama3-med-8b", "--gpus", "4", "--gpu-type", "h100-80gb", "-w", tmp_path / "w", "--json")
    done = medvlm("pretrain", "--dry-run", *options, HF_HUB_OFFLINE="1")
    said = json.loads(done.stdout)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    assert said["dry_run"] and said["settings"]["micro_batch"] == 8 and said["device"]["count"] == 4
    assert said["time"]["chosen"]["steps"] == 2344


def test_finetune_without_a_checkpoint_estimates_the_presets_model(tmp_path):
    done = medvlm("finetune", "--dry-run", "-c", "tiny", "--gpu-type", "cpu", "-w", tmp_path / "w", "--json")
    said = json.loads(done.stdout)
    assert said["parameters"]["llm"]["trained"] and 200_000 < said["parameters"]["llm"]["parameters"] < 400_000
    assert said["length"]["source"] == "assumed" and list(tmp_path.iterdir()) == []


def test_a_device_named_without_a_dry_run_is_refused(tmp_path):
    done = medvlm("pretrain", "--gpu-type", "h100-80gb", "-w", tmp_path / "w")
    assert done.returncode == 2 and "add --dry-run" in done.stderr
