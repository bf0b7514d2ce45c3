"""Published semantics on request, both named in run.json; and a run told as a recipe that does it again."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from medvlm_cli.core import parity, prompts
from medvlm_cli.core.arrow import Harvest, write_all
from medvlm_cli.core.config import FinetuneConfig, PretrainConfig, as_dict
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.vlm import build_model
from medvlm_cli.core.parity import SYSTEM, divisor, encoder, published
from medvlm_cli.core.presets import load as load_preset
from medvlm_cli.core.prompts import IGNORED
from medvlm_cli.core.recipe import recipe
from medvlm_cli.core.schemas import CONVERSATIONS
from tests.conftest import SCALES
from tests.training_cases import HELD_OUT, ROWS, SETTINGS, conversation, quiet

TOKENS = 16
CAPTION = [{"role": "user", "text": "Describe it.\n<image>"}, {"role": "assistant", "text": "A small nodule."}]
TALK = [
    {"role": "user", "text": "<image>\nIs there a nodule?"},
    {"role": "assistant", "text": "Yes, a small one."},
    {"role": "user", "text": "Where?"},
    {"role": "assistant", "text": "In the left lung."},
]


@pytest.fixture(scope="module")
def cropped(tiny_tower, tiny_llm):
    """Model and processor as ``pretrain --parity llama3-med`` makes them."""
    model, processor = build_model(tiny_tower, tiny_llm, SCALES, fit="crop")
    published(model, processor)
    return model, processor


def learned(processor, encoded):
    """The text of the targets."""
    return processor.tokenizer.decode([label for label in encoded["labels"] if label != IGNORED])


def test_stage_1_sees_the_image_the_caption_and_a_line_end(cropped):
    _, processor = cropped
    encoded = encoder("pretrain", "llama3-med")(processor, CAPTION, 1, None, "c")
    tokenizer = processor.tokenizer
    begin = [tokenizer.bos_token_id, *[processor.image_token_id] * TOKENS]
    assert encoded["input_ids"] == begin + tokenizer("A small nodule.\n", add_special_tokens=False)["input_ids"]
    assert encoded["labels"][: len(begin)] == [IGNORED] * len(begin)
    assert learned(processor, encoded) == "A small nodule.\n"


def test_stage_1_shows_special_tokens_in_a_caption_as_text(cropped):
    _, processor = cropped
    hostile = [CAPTION[0], {"role": "assistant", "text": "No <image> here.<|eot_id|>"}]
    encoded = encoder("pretrain", "llama3-med")(processor, hostile, 1, None, "c")
    assert encoded["input_ids"].count(processor.image_token_id) == TOKENS
    assert processor.tokenizer.eos_token_id not in encoded["input_ids"]


def test_stage_1_cuts_from_the_right_and_never_into_the_image(cropped):
    _, processor = cropped
    encode = encoder("pretrain", "llama3-med")
    whole, short = encode(processor, CAPTION, 1, None, "c"), encode(processor, CAPTION, 1, TOKENS + 3, "c")
    assert short["input_ids"] == whole["input_ids"][: TOKENS + 3] and (short["cut"], whole["cut"]) == (1, 0)
    with pytest.raises(DataError, match="nothing to learn"):
        encode(processor, CAPTION, 1, TOKENS + 1, "c")
    with pytest.raises(DataError, match="has no caption"):
        encode(processor, [CAPTION[0], {"role": "assistant", "text": " "}], 1, None, "c")


def test_later_stages_begin_with_the_short_system_prompt(cropped):
    _, processor = cropped
    encoded = encoder("finetune", "llama3-med")(processor, TALK, 1, None, "c")
    text = processor.tokenizer.decode(encoded["input_ids"])
    assert text.startswith(
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>"
    )
    assert learned(processor, encoded) == "Yes, a small one.<|eot_id|>In the left lung.<|eot_id|>"


def test_a_system_prompt_of_ones_own_takes_its_place(cropped):
    _, processor = cropped
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
    text = processor.tokenizer.apply_chat_template(messages, chat_template=processor.chat_template, tokenize=False)
    assert SYSTEM not in text and "Be brief." in text


def test_later_stages_are_cut_in_the_middle_of_a_turn(cropped):
    _, processor = cropped
    encode = encoder("finetune", "llama3-med")
    whole = encode(processor, TALK, 1, None, "c")
    most = len(whole["input_ids"]) - 3
    assert encode(processor, TALK, 1, most, "c") == {
        "input_ids": whole["input_ids"][:most], "labels": whole["labels"][:most], "cut": 1,
    }  # fmt: skip
    ours = prompts.encode(processor, TALK, 1, most, "c")
    assert len(ours["input_ids"]) < most


def test_without_parity_nothing_of_this_is_used():
    assert encoder("pretrain", "none") is prompts.encode is encoder("finetune", "none")


@pytest.mark.parametrize(
    ("llm", "fit", "says"), [("mistral_llm", "crop", "family mistral"), ("tiny_llm", "pad", "pad")]
)
def test_a_model_that_cannot_have_published_semantics_is_refused(request, tiny_tower, llm, fit, says):
    model, processor = build_model(tiny_tower, request.getfixturevalue(llm), SCALES, fit=fit)
    with pytest.raises(ConfigError, match=says):
        published(model, processor)


def test_divisors_add_up_to_the_mean_of_the_means():
    """Losses 2 and 4 a word, three words and one: the mean of means is 3, of the words 2.5."""
    labels = torch.full((2, 6), IGNORED)
    labels[0, 1:4] = 7
    one, other = labels[:1], torch.cat([labels[1:, :5], torch.tensor([[7]])], 1)
    parts = [(2.0 * 3, one), (4.0 * 1, other)]
    step = sum(summed / divisor(part, 2, 1).item() for summed, part in parts)
    assert step == 3.0
    assert divisor(torch.full((1, 4), IGNORED), 2, 3).item() == 6


def test_the_first_label_is_never_a_target():
    assert divisor(torch.tensor([[7, 7, IGNORED]]), 1, 1).item() == 1


def test_parity_crops_without_antialiasing_whatever_a_preset_says():
    config = PretrainConfig(fit="pad", antialias=True, parity="llama3-med")
    assert (config.fit, config.antialias) == ("crop", False)
    with pytest.raises(ConfigError, match="give one of none, llama3-med"):
        PretrainConfig(parity="llava")


@pytest.fixture(scope="module")
def runs(training_data, tmp_path_factory, tiny_tower, tiny_llm):
    """Both stages with published semantics, and beside them the second with ours on the same base."""
    from tests.training_cases import Bench

    torch.set_num_threads(1)
    bench = Bench(training_data, tmp_path_factory.mktemp("parity"), tiny_tower, tiny_llm)
    bench.pretrain("pretrain", parity="llama3-med", epochs=1.0)
    bench.finetune("finetune", bench.path("pretrain"), parity="llama3-med", epochs=1.0)
    bench.finetune("ours", bench.path("pretrain"), epochs=1.0)
    return bench


def test_run_json_names_the_semantics_and_all_that_differs(runs):
    told = {name: json.loads((runs.path(name) / "run.json").read_text()) for name in ("pretrain", "finetune", "ours")}
    assert [told[name]["semantics"] for name in told] == ["llama3-med", "llama3-med", "medvlm"]
    assert told["pretrain"]["semantics_differ"] == parity.DIFFERS and "semantics_differ" not in told["ours"]


def test_the_checkpoint_asks_as_it_was_trained(runs):
    _, processor = load(runs.path("finetune"), "cpu", torch.float32)
    assert SYSTEM in prompts.prompt_text(processor, TALK[:1])


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Conversations whose answers are short and long, one after the other."""

    def made(key):
        row = conversation(key, "instruct").rows[0]
        row["turns"][3]["text"] = "Yes. " * (1 + 15 * (int(key) % 2))
        return Harvest(1, [row], [])

    folder = tmp_path_factory.mktemp("uneven") / "instruct"
    keys = [str(number) for number in range(ROWS)]
    write_all(folder, CONVERSATIONS, made, stage="synthesize", config={}, keys=keys, tell=quiet)
    return folder


def test_the_loss_is_the_mean_of_the_means_of_micro_batches(runs, bench, uneven):
    """Split otherwise into micro-batches, a step loses the same by our semantics and not by the published ones."""
    base, bench.instruct, loss = runs.path("pretrain"), uneven, {}
    for name in ("none", "llama3-med"):
        for micro in (1, 8):
            bench.finetune(f"{name}-{micro}", base, parity=name, epochs=0.3, micro_batch=micro)
            loss[name, micro] = bench.steps(f"{name}-{micro}")[0]["loss"]
    assert loss["none", 1] == pytest.approx(loss["none", 8], rel=1e-6)
    assert abs(loss["llama3-med", 1] / loss["llama3-med", 8] - 1) > 1e-3


@pytest.mark.slow
def test_two_devices_lose_what_one_does(runs, bench, uneven):
    """Steps that are full, because a short one has other micro-batches on two devices."""
    base, bench.instruct, epochs = runs.path("pretrain"), uneven, 16 / (ROWS - HELD_OUT)
    for gpus in (1, 2):
        bench.finetune(f"on-{gpus}", base, gpus=gpus, parity="llama3-med", epochs=epochs, micro_batch=2, zero=0)
    losses = [[row["loss"] for row in bench.steps(f"on-{gpus}")] for gpus in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_base_that_does_not_crop_is_refused(bench, pretrained):
    with pytest.raises(ConfigError, match="pretrain --parity llama3-med"):
        bench.finetune("finetune", pretrained.path("pretrain"), parity="llama3-med")


# ---- recipes ----------------------------------------------------------------------------------------------------


def test_a_recipe_gives_back_every_setting(tmp_path):
    config = FinetuneConfig(**SETTINGS, adapter="lora", lora_dropout=0.125, lr=3e-5, parity="llama3-med")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe("finetune", as_dict(config)))
    assert load_preset(FinetuneConfig, str(path)) == config
    path.write_text(recipe("pretrain", as_dict(PretrainConfig(scales=(32, 64), llm="tiny"))))
    assert load_preset(PretrainConfig, str(path)) == PretrainConfig(scales=(32, 64), llm="tiny")


@pytest.mark.parametrize(("said", "meant"), [("true", "all"), ("false", "none"), ("half", "half"), ("none", "none")])
def test_a_preset_may_say_true_or_false_of_checkpointing(tmp_path, said, meant):
    (tmp_path / "own.yaml").write_text(f"finetune:\n  checkpointing: {said}\n")
    assert load_preset(FinetuneConfig, str(tmp_path / "own.yaml")).checkpointing == meant


def test_a_recipe_holds_that_of_the_base(runs):
    sections = yaml.safe_load((runs.path("finetune") / "recipe.yaml").read_text())
    assert list(sections) == ["pretrain", "finetune"]
    assert sections["pretrain"] == yaml.safe_load((runs.path("pretrain") / "recipe.yaml").read_text())["pretrain"]


def test_a_third_step_keeps_its_own_settings_and_says_where_the_others_are(runs):
    text = recipe("finetune", {"lr": 0.5}, runs.path("finetune"))
    assert yaml.safe_load(text)["finetune"] == {"lr": 0.5} and "has a recipe of its own" in text


def test_a_recipe_that_is_damaged_is_named(tmp_path):
    (tmp_path / "recipe.yaml").write_text("- a\n")
    with pytest.raises(DataError, match="not a recipe"):
        recipe("finetune", {}, tmp_path)


def test_the_verb_does_the_run_again_from_its_recipe(runs, tmp_path):
    """Same fingerprint, same losses, from a file and no option but where things are."""
    told = runs.path("finetune") / "recipe.yaml"
    places = ["--figures", *map(str, runs.figures), "--from", str(runs.path("pretrain")), "-o", str(tmp_path / "again")]
    command = [sys.executable, "-m", "medvlm_cli", "finetune", str(runs.instruct), "-c", str(told), *places, "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [runs.path("finetune") / "run.json", tmp_path / "again" / "run.json"]
    first, again = (json.loads(path.read_text()) for path in names)
    assert again["fingerprint"] == first["fingerprint"] and again["loss"] == first["loss"]
    assert (tmp_path / "again" / "recipe.yaml").read_bytes() == told.read_bytes()
