"""The tiny preset's parts: plain Hugging Face folders, the same for the same seed, there only when complete."""

import hashlib

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionConfig, CLIPVisionModel

from medvlm_cli.core.model import tiny
from medvlm_cli.core.prompts import LLAMA3

SHORT = tiny.TinyRecipe(figures=16, texts=60, tower_steps=3, llm_steps=3, batch=8, llm_batch=4)
HOSTILE = ["Zürich ≥ 5 µm 漢字 🫁", "tabs\tand\nlines  and spaces ", "\x00\x1f", "naïve café ﬁ", "−0.5 ± 2 × 10⁻³"]


def silent(what, done, total):
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny.make_tiny(tmp_path_factory.mktemp("models") / "tiny-0", 0, silent, SHORT)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_tower_is_a_plain_clip_vision_model_of_the_stated_size(made):
    tower = CLIPVisionModel.from_pretrained(made / "tower")
    config = tower.config
    assert (config.image_size, config.patch_size, config.hidden_size) == (32, 8, 64)
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_act) == (3, 2, "quick_gelu")
    assert tower(pixel_values=torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 17, 64)


def test_the_language_model_reads_2048_tokens_and_ends_with_its_own_token(made):
    llm, tokenizer = AutoModelForCausalLM.from_pretrained(made / "llm"), AutoTokenizer.from_pretrained(made / "llm")
    assert llm.config.max_position_embeddings == 2048
    assert llm.config.vocab_size == len(tokenizer) == llm.get_input_embeddings().num_embeddings
    assert tokenizer.eos_token == "<|eot_id|>"
    assert llm.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back_from_its_tokens(made, text):
    tokenizer = AutoTokenizer.from_pretrained(made / "llm")
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("word", ["speckled", "smooth", "left", "right", "histology", "opacity"])
def test_the_words_of_the_phantoms_are_single_tokens(made, word):
    tokenizer = AutoTokenizer.from_pretrained(made / "llm")
    assert len(tokenizer.tokenize(f" {word}")) == 1


@pytest.mark.parametrize("token", tiny.SPECIAL)
def test_special_tokens_are_one_token_each(made, token):
    tokenizer = AutoTokenizer.from_pretrained(made / "llm")
    assert tokenizer.convert_ids_to_tokens(tokenizer(token, add_special_tokens=False)["input_ids"]) == [token]


def test_the_language_model_was_taught_in_the_chat_template_it_is_used_with(made):
    tokenizer = AutoTokenizer.from_pretrained(made / "llm")
    ((question, answer), *_) = tiny._dialogues("CT", "Axial CT.", {})
    turns = [{"role": "user", "content": f"CT\n{tiny.DESCRIBE[0]}"}, {"role": "assistant", "content": "Axial CT."}]
    assert tokenizer.apply_chat_template(turns, chat_template=LLAMA3, tokenize=False) == question + answer


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    assert digests(tiny.make_tiny(tmp_path / "again", 0, silent, SHORT)) == digests(made)


def test_another_seed_gives_other_weights(made, tmp_path):
    other = digests(tiny.make_tiny(tmp_path / "other", 1, silent, SHORT))
    assert other.keys() == digests(made).keys()
    assert not {name for name in other if name.suffix == ".safetensors" and other[name] == digests(made)[name]}


def test_what_is_there_is_left_as_it_is(made):
    before = digests(made)
    assert tiny.make_tiny(made, 1, silent, SHORT) == made
    assert digests(made) == before


def test_a_run_that_fails_leaves_nothing(tmp_path):
    def fail(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.make_tiny(tmp_path / "models" / "tiny-0", 0, fail, SHORT)
    assert list((tmp_path / "models").iterdir()) == []


def test_making_it_does_not_disturb_the_caller_s_random_numbers(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny.make_tiny(tmp_path / "tiny-0", 0, silent, SHORT)
    assert torch.equal(torch.rand(3), expected)


def test_patch_filters_begin_at_the_same_power_in_every_direction_the_pictures_vary():
    torch.manual_seed(0)
    config = CLIPVisionConfig(image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    tower = CLIPVisionModel(config)
    coarse = torch.nn.functional.interpolate(torch.randn(200, 3, 4, 4), size=32, mode="bilinear")
    pixels = coarse + 0.3 * torch.randn(200, 3, 32, 32)
    tiny._whiten(tower, pixels)
    power = tower.embeddings.patch_embedding(pixels).permute(0, 2, 3, 1).reshape(-1, 64).var(0)
    assert power.max() / power.min() < 1.2
