"""Answers do not depend on company: not on the batch, not on what was encoded before."""

import hashlib
import shutil

import pytest
import torch

from medvlm_cli.core import generate
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.features import Cache, Original
from medvlm_cli.core.generate import Generator, Picture, Request, find_checkpoint
from tests.core.generate_cases import QUESTIONS, REQUESTS, picture, request_of, untimed, with_generation_config


@pytest.fixture(scope="module")
def generator(tiny_checkpoint):
    return Generator(tiny_checkpoint, "bf16")


@pytest.fixture(scope="module")
def alone(generator):
    """Every request answered in a batch of its own, without its time."""
    return untimed(generator.answers(REQUESTS, 1, 12))


@pytest.mark.parametrize("batch", [2, 4, 6])
def test_an_answer_does_not_depend_on_its_batch(generator, alone, batch):
    assert untimed(generator.answers(REQUESTS, batch, 12)) == alone
    assert len({answer.text for answer in alone.values()}) == len(QUESTIONS)  # or equality would prove nothing


def test_the_answer_depends_on_the_image(generator):
    same_words = [request_of("What is shown?", seed) for seed in range(6)]
    assert len({answer.text for _, answer in generator.answers(same_words, 6, 12)}) > 1


def test_rows_with_and_without_images_share_a_batch(generator):
    mixed = [request_of("What is shown?", 0, 1), request_of("What is shown?"), request_of("Where is it?", 1)]
    assert untimed(generator.answers(mixed, 3, 12)) == untimed(generator.answers(mixed, 1, 12))


def test_greedy_search_equals_that_of_transformers(generator, alone):
    ids = torch.tensor([generate.prompts.generation_prompt(generator.processor, REQUESTS[1].turns)])
    features = generator.encode(REQUESTS[1].pictures)
    out = generator.model.generate(input_ids=ids, image_features=features, max_new_tokens=12, do_sample=False)
    text = generator.processor.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert alone[1].text == text.strip()


def tokens_of(generator, request):
    """The tokens of the greedy answer, 12 of them."""
    steps = generator.grow([generator.prompt(request)], generator.encode(request.pictures), generate.likeliest, 12)
    return list(steps)[-1][0].tokens


def test_an_answer_ends_before_a_stop_token_of_the_generation_config(generator, alone, tiny_checkpoint, tmp_path):
    tokens = tokens_of(generator, REQUESTS[0])
    stopping = with_generation_config(tiny_checkpoint, tmp_path / "stop", eos_token_id=[tokens[3], 2])
    (_, answer), *_ = stopping.answers(REQUESTS[:1], 1, 12)
    assert (alone[0].finish, alone[0].tokens) == ("length", 12)
    assert (answer.finish, answer.tokens) == ("stop", tokens.index(tokens[3]))
    assert answer.text == generator.decode(tokens[: answer.tokens]).strip()


def test_a_short_answer_is_not_lengthened_by_a_long_one_in_its_batch(generator, tiny_checkpoint, tmp_path):
    stop = tokens_of(generator, REQUESTS[0])[3]
    stopping = with_generation_config(tiny_checkpoint, tmp_path / "stop", eos_token_id=[stop])
    together, apart = (untimed(stopping.answers(REQUESTS, batch, 12)) for batch in (6, 1))
    assert together == apart
    assert {answer.finish for answer in together.values()} == {"stop", "length"}


def test_the_placeholder_of_an_image_is_never_an_answer(generator, tiny_checkpoint, tmp_path):
    image, other = generator.processor.tokenizer.convert_tokens_to_ids(["<image>", "a"])
    assert image in generator.model.generation_config.suppress_tokens
    others = [token for token in range(generator.model.lm_head.out_features) if token not in (image, other)]
    saying_a = with_generation_config(tiny_checkpoint, tmp_path / "a", suppress_tokens=others)
    assert [answer.text for _, answer in saying_a.answers(REQUESTS[:1], 1, 5)] == ["aaaaa"]


def test_each_different_image_is_encoded_once(tiny_checkpoint, monkeypatch):
    generator, encoded = Generator(tiny_checkpoint, "fp32"), []
    encode = generator.model.model.vision_tower.encode
    monkeypatch.setattr(generator.model.model.vision_tower, "encode", lambda x: encoded.append(len(x)) or encode(x))
    list(generator.answers([request_of(question, 0, 1) for question in QUESTIONS], 2, 2))
    list(generator.answers([request_of("And now?", 1, 2)], 1, 2))
    assert encoded == [2, 1]


def test_the_new_images_of_a_batch_go_through_the_tower_together(tiny_checkpoint, alone, monkeypatch):
    generator, encoded = Generator(tiny_checkpoint, "fp32"), []
    encode = generator.model.model.vision_tower.encode
    monkeypatch.setattr(generator.model.model.vision_tower, "encode", lambda x: encoded.append(len(x)) or encode(x))
    assert untimed(generator.answers(REQUESTS, 4, 12)) == alone
    assert encoded == [4, 2]


def test_features_are_the_same_to_the_bit_whatever_else_is_encoded(generator):
    together, apart = (features_of(generator, *groups) for groups in ([range(6)], [[seed] for seed in range(6)]))
    assert torch.equal(together, apart)


def features_of(generator, *groups):
    """Features of some pictures, those of a group encoded together, with nothing kept."""
    encode = generator._encode_new
    return torch.cat([encode([Picture(picture(seed), "") for seed in group]) for group in groups])


def test_features_on_disk_are_read_and_only_others_encoded(tiny_checkpoint, alone, tmp_path, monkeypatch):
    generator, encoded = Generator(tiny_checkpoint, "fp32"), []
    cache = Cache(tmp_path, generator.model, generator.processor)
    data = [picture(seed) for seed in range(4)]
    kept = [Original(hashlib.sha256(one).digest(), str(seed), "", lambda one=one: one) for seed, one in enumerate(data)]
    cache.make(kept, lambda *_: None)
    generator.read_features(cache.features)
    encode = generator.model.model.vision_tower.encode
    monkeypatch.setattr(generator.model.model.vision_tower, "encode", lambda x: encoded.append(len(x)) or encode(x))
    assert untimed(generator.answers(REQUESTS, 6, 12)) == alone
    assert encoded == [2]


def test_features_that_take_too_much_memory_are_made_again(tiny_checkpoint, alone, monkeypatch):
    monkeypatch.setattr(generate, "CACHED_BYTES", 1)
    generator = Generator(tiny_checkpoint, "fp32")
    assert untimed(generator.answers(REQUESTS, 4, 12)) == alone
    assert len(generator._features._kept) == 1


def test_an_answer_stops_where_the_context_ends(generator, tiny_checkpoint, tmp_path):
    endless = with_generation_config(tiny_checkpoint, tmp_path / "endless", suppress_tokens=sorted(generator._stops))
    long = request_of("Why? " * 60, 0)
    used = len(generate.prompts.generation_prompt(generator.processor, long.turns))
    (_, answer), *_ = endless.answers([long], 1, 1000)
    assert (answer.tokens, answer.finish) == (512 - used, "length")


def test_a_prompt_over_the_context_is_refused_by_name(generator):
    with pytest.raises(DataError, match=r"question 1: \d+ tokens, and the model reads 512"):
        list(generator.answers([request_of("Why? " * 512, 0)], 1, 4))


def test_an_image_that_cannot_be_decoded_is_named(generator):
    broken = Request(REQUESTS[0].turns, [lambda: Picture(picture(0)[:-40], "row 7")], "question 1")
    with pytest.raises(DataError, match="row 7"):
        list(generator.answers([broken], 1, 4))


def test_a_small_model_runs_in_float32_on_a_cpu(generator):
    assert (generator.device.type, generator.dtype) == ("cpu", torch.float32)


def test_a_large_one_runs_as_it_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "_SMALL_BYTES", 4)
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    asked = [generate._dtype(tmp_path, precision, torch.device("cpu")) for precision in ("bf16", "fp32")]
    assert asked == [torch.bfloat16, torch.float32]


def test_two_trainings_in_one_folder_have_two_names(tiny_checkpoint, tmp_path):
    folder = tmp_path / "finetune"
    shutil.copytree(tiny_checkpoint, folder)
    first = find_checkpoint(folder)
    (folder / "run.json").write_text("{}")
    second = find_checkpoint(str(folder))
    assert first.name.startswith("finetune@")
    assert len({first.name, second.name}) == len({first.run_sha256, second.run_sha256}) == 2


def test_a_checkpoint_without_a_record_is_named_by_its_weights(tiny_checkpoint, tmp_path):
    folder = tmp_path / "finetune"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "run.json").unlink()
    found = find_checkpoint(folder)
    (folder / "more.safetensors").write_bytes(b"")
    assert found.run_sha256 is None
    assert find_checkpoint(folder).name != found.name


@pytest.mark.parametrize("missing", ["checkpoints/nowhere", "checkpoints"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch, missing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match="checkpoint") as refused:
        find_checkpoint(missing)
    assert "medvlm finetune" in refused.value.fix
    assert "make demo" in refused.value.fix


def test_a_hub_id_is_left_to_the_hub():
    assert find_checkpoint("someone/some-model").where == "someone/some-model"
