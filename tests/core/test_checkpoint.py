"""Checkpoints: whole or not there, the same model when read again, and refused when damaged."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.conversion_mapping import get_model_conversion_mapping

from medvlm_cli.core.errors import DataError, RemoteError
from medvlm_cli.core.model.card import card
from medvlm_cli.core.model.checkpoint import load, save
from medvlm_cli.core.model.vlm import MedVLMForConditionalGeneration, freeze
from medvlm_cli.core.prompts import encode, generation_prompt

QUESTION = [{"role": "user", "text": "Is there a nodule?"}]
FRESH = """
import sys, torch
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.prompts import generation_prompt
model, processor = load(sys.argv[1], "cpu", torch.float32)
ids = torch.tensor([generation_prompt(processor, [{"role": "user", "text": "Is there a nodule?"}])])
with torch.no_grad():
    torch.save(model(ids, pixel_values=torch.load(sys.argv[2])).logits, sys.argv[3])
"""


def pixels():
    return torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def logits(model, processor):
    with torch.no_grad():
        return model(torch.tensor([generation_prompt(processor, QUESTION)]), pixel_values=pixels()).logits


@pytest.fixture(scope="module")
def written(tiny_model, tmp_path_factory):
    """Shared: a test that damages it takes ``checkpoint``."""
    folder = tmp_path_factory.mktemp("checkpoints") / "finetune"
    save(*tiny_model, folder, {"verb": "finetune", "steps": 3})
    return folder


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    save(*tiny_model, tmp_path / "finetune", {"verb": "finetune", "steps": 3})
    return tmp_path / "finetune"


def test_a_fresh_process_gives_identical_logits(written, tiny_model, tmp_path):
    torch.save(pixels(), tmp_path / "pixels.pt")
    command = [sys.executable, "-c", FRESH, str(written), str(tmp_path / "pixels.pt"), str(tmp_path / "logits.pt")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(*tiny_model))


def test_what_is_read_is_what_was_written(written, tiny_model):
    model, processor = load(written, "cpu", torch.float32)
    stored = tiny_model[0].state_dict()
    assert all(torch.equal(weight, stored[name]) for name, weight in model.state_dict().items())
    assert set(model.state_dict()) == set(stored)
    assert model.generation_config.eos_token_id == tiny_model[0].generation_config.eos_token_id
    turns = [*QUESTION, {"role": "assistant", "text": "No."}]
    assert encode(processor, turns) == encode(tiny_model[1], turns)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.model.vision_tower.parameters())


def test_transformers_opens_the_folder_by_itself(written, tiny_model):
    model, processor = AutoModelForImageTextToText.from_pretrained(written), AutoProcessor.from_pretrained(written)
    assert type(model) is MedVLMForConditionalGeneration
    assert torch.equal(logits(model, processor), logits(*tiny_model))


def test_the_folder_is_a_plain_one_with_the_hashes_of_its_weights(written):
    run = json.loads((written / "run.json").read_text(encoding="utf-8"))
    assert {path.name for path in written.iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "modeling_medvlm.py", "processor_config.json", "run.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (run["verb"], run["steps"], list(run["weights"])) == ("finetune", 3, ["model.safetensors"])
    assert [path.name for path in written.parent.iterdir()] == ["finetune"]


def test_a_checkpoint_names_no_folder_of_the_machine_that_made_it(written, tiny_tower):
    texts = [path.read_text(encoding="utf-8") for path in written.iterdir() if path.suffix != ".safetensors"]
    assert not [text for text in texts if os.path.dirname(tiny_tower) in text]


def test_a_name_of_weights_is_what_other_programs_expect(written):
    from safetensors import safe_open

    with safe_open(written / "model.safetensors", "pt") as weights:
        parts = {key.replace("model.", "", 1).split(".")[0] for key in weights.keys()}  # noqa: SIM118  not a dict
    assert parts == {"lm_head", "language_model", "multi_modal_projector", "vision_tower"}


def names(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        return set(weights.keys())


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_names_of_weights_are_the_same_after_every_stage_and_when_zero_3_loaded_them(
    written, fresh_model, tmp_path, stage
):
    model, processor = fresh_model
    freeze(model, stage)
    for module in (model, model.model, model.model.language_model, model.model.vision_tower.clip):
        module._weight_conversions = get_model_conversion_mapping(module)  # what loading under ZeRO-3 leaves behind
    model.save_pretrained(tmp_path / "mangled")
    save(model, processor, tmp_path / "out", {})
    assert names(tmp_path / "mangled") != names(written)
    assert names(tmp_path / "out") == names(written)


def test_saving_again_replaces_the_checkpoint(checkpoint, tiny_model):
    (checkpoint / "stray").write_text("old", encoding="utf-8")
    save(*tiny_model, checkpoint, {"verb": "finetune", "steps": 4})
    assert json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))["steps"] == 4
    assert not (checkpoint / "stray").exists()
    assert [path.name for path in checkpoint.parent.iterdir()] == ["finetune"]


def test_a_save_that_fails_leaves_the_old_checkpoint(checkpoint, tiny_model):
    with pytest.raises(TypeError):
        save(*tiny_model, checkpoint, {"verb": object()})
    assert json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))["steps"] == 3
    assert [path.name for path in checkpoint.parent.iterdir()] == ["finetune"]
    load(checkpoint, "cpu", torch.float32)


def test_a_flipped_bit_in_the_weights_is_found(checkpoint):
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors: not the weights that were saved"):
        load(checkpoint, "cpu", torch.float32)


def test_truncated_weights_are_found_without_hashes_too(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"model\.safetensors: not the weights that were saved \(1\d+ bytes, 1\d+ were"):
        load(checkpoint, "cpu", torch.float32)
    (checkpoint / "run.json").unlink()
    with pytest.raises(DataError, match="finetune: the checkpoint cannot be read"):
        load(checkpoint, "cpu", torch.float32)


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def with_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_config(folder):
    (folder / "config.json").unlink()


def of_another_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llava"}), encoding="utf-8")


def with_a_broken_record(folder):
    (folder / "run.json").write_text('{"weights": ', encoding="utf-8")


def with_a_shard_missing(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_weights, "finetune: it has no weights\n.*medvlm pretrain.*medvlm finetune.*make demo"),
        (with_pickles, r"finetune: its weights are pickles \(pytorch_model\.bin\)\n.*a pickle runs code"),
        (without_config, r"finetune: not a finished checkpoint, it has no config\.json"),
        (of_another_kind, "finetune: a model of type 'llava', not 'medvlm'"),
        (with_a_broken_record, r"run\.json: not JSON"),
        (with_a_shard_missing, r"model\.safetensors: the weight file is missing"),
    ],
)
def test_a_folder_that_is_no_whole_checkpoint_is_refused(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(DataError, match=message):
        load(checkpoint, "cpu", torch.float32)


def test_a_missing_checkpoint_names_the_commands_that_make_one(tmp_path):
    with pytest.raises(
        DataError, match=r"there is no checkpoint\n.*`medvlm pretrain` and `medvlm finetune`.*`make demo`"
    ):
        load(tmp_path / "finetune", "cpu", torch.float32)


def test_a_hub_id_that_cannot_be_fetched_is_a_remote_error():
    with pytest.raises(RemoteError, match="someone/nonesuch: no such folder, and the hub did not give it"):
        load("someone/nonesuch", "cpu", torch.float32)


def test_the_card_says_what_the_model_must_not_be_used_for(written):
    text = (written / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    assert "not a medical device" in text
    assert "Meta Llama 3" not in text  # it borrows its header tokens only


def carded(model, tower, llm):
    config = type(model.config).from_dict(model.config.to_dict())
    config.base_tower, config.base_llm = tower, llm
    return card(config, {})


def test_the_card_shows_both_ways_to_open_the_model(written):
    text = (written / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)" in text
    assert "import medvlm_cli.core.model.vlm" in text


@pytest.mark.parametrize(
    ("tower", "notice"),
    [
        ("dfn5b-vit-h-14-378", "non-commercial research only"),
        ("clip-vit-l-14-336", "clip-vit-l-14-336: MIT"),
        ("siglip-so400m-14-384", "Apache-2.0"),
        ("biomedclip-vit-b-16-224", "not for any deployed use"),
        ("tower", "vision tower tower: that of its maker"),
    ],
)
def test_the_card_carries_the_notice_of_its_tower(tiny_model, tower, notice):
    assert notice in carded(tiny_model[0], tower, "someone/llm")


@pytest.mark.parametrize(
    ("llm", "notice"),
    [
        ("mistralai/Mistral-7B-Instruct-v0.2", "v0.2: Apache-2.0"),
        ("mistralai/Ministral-8B-Instruct-2410", "that of its maker"),
        ("someone/llm", "that of its maker"),
    ],
)
def test_the_card_carries_the_notice_of_its_language_model(tiny_model, llm, notice):
    assert notice in carded(tiny_model[0], "tower", llm)


def test_the_card_of_a_llama_3_carries_the_notices_of_both_parts(tiny_model):
    config = type(tiny_model[0].config).from_dict(tiny_model[0].config.to_dict())
    config.base_tower, config.base_llm = "dfn5b-vit-h-14-378", "meta-llama/Meta-Llama-3-8B-Instruct"
    config.text_config.vocab_size = 128_320
    text = card(config, {})
    assert "Built with Meta Llama 3" in text
    assert "# Llama 3 medvlm (Meta-Llama-3-8B-Instruct)" in text
    assert "apple-amlr (research only)" in text
