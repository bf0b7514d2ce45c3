"""What the model remembers of a conversation changes how soon it answers, and never what it says."""

import json
import random
import shutil

import pytest
import torch

from medvlm_cli.core.dialogue import Dialogue
from medvlm_cli.core.errors import ResourceError
from medvlm_cli.core.generate import Generator
from medvlm_cli.core.model.checkpoint import save
from medvlm_cli.core.model.vlm import build_model
from tests.core.generate_cases import QUESTIONS, REQUESTS, request_of, untimed, with_generation_config

LIMIT = 10


@pytest.fixture(scope="module")
def generator(tiny_checkpoint):
    return Generator(tiny_checkpoint, "fp32")


@pytest.fixture
def dialogue(generator):
    return Dialogue(generator)


def last(dialogue, request, limit=LIMIT):
    """The whole answer, greedily."""
    return list(dialogue.stream(request, limit, temperature=0.0, seed=0))[-1]


def said(reply):
    """What may not depend on what was read before."""
    return reply.text, reply.finish, reply.tokens, reply.prompt, reply.prompt_tokens


def follow_up(request, reply, question, *seeds):
    """The request behind an answer."""
    answer = {"role": "assistant", "text": reply.text.strip() or "Yes."}
    return request_of(question, *seeds, turns=[*request.turns, answer])


def conversation(generator, seed):
    """The requests of a conversation in which turns are asked, repeated, changed and taken back, and images change."""
    random_ = random.Random(seed)
    turns, images, requests = [], [0], []
    for _ in range(7):
        change = random_.choice(["ask", "ask", "ask", "retry", "edit", "reset", "add", "drop", "swap"])
        turns = {"reset": [], "retry": turns[:-2], "edit": turns[:-2]}.get(change, turns)
        if change == "add":
            images = [*images, random_.randrange(4)]
        if change == "drop":
            images = images[1:]
        if change == "swap":
            images = [*images[:-1], random_.randrange(4)]
        question = random_.choice(QUESTIONS)
        request = request_of(question, *images, turns=turns)
        requests.append(request)
        answer = last(Dialogue(generator), request).text.strip() or "Yes."
        turns = [*request.turns, {"role": "assistant", "text": answer}][-6:]
    return requests


@pytest.mark.parametrize("seed", range(8))
def test_answers_are_those_of_a_model_that_reads_everything_anew(generator, dialogue, seed):
    requests = conversation(generator, seed)
    anew = [said(last(Dialogue(generator), request)) for request in requests]
    remembered = [last(dialogue, request) for request in requests]
    assert [said(reply) for reply in remembered] == anew
    assert max(reply.known_tokens for reply in remembered) > 16  # or nothing was remembered


@pytest.mark.parametrize("index", range(len(QUESTIONS)))
def test_a_stream_ends_with_the_batch_answer_and_only_ever_grows(generator, dialogue, index):
    alone = untimed(generator.answers(REQUESTS[index : index + 1], 1, 12))[0]
    steps = [answer.text for answer in dialogue.stream(REQUESTS[index], 12, temperature=0.0, seed=0)]
    assert steps[-1].strip() == alone.text
    assert [steps[-1].startswith(step) for step in steps] == [True] * len(steps)
    assert len(steps) == 12


def test_half_a_character_is_held_back_until_it_is_whole(generator, tiny_checkpoint, tmp_path):
    # how byte-level BPE writes C3 and A9, the two bytes of an e acute
    two_bytes = generator.processor.tokenizer.convert_tokens_to_ids(["\u00c3", "\u00a9"])
    others = [token for token in range(generator.model.lm_head.out_features) if token not in two_bytes]
    spelling = Dialogue(with_generation_config(tiny_checkpoint, tmp_path / "bytes", suppress_tokens=others))
    steps = [answer.text for answer in spelling.stream(REQUESTS[0], 40, temperature=9.0, seed=0)]
    assert "\u00e9" in steps[-1]
    assert [steps[-1].startswith(step) for step in steps] == [True] * len(steps)


def test_a_seed_fixes_what_is_sampled_and_another_changes_it(dialogue):
    texts = [list(dialogue.stream(REQUESTS[0], 12, temperature=2.0, seed=seed))[-1].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.fixture
def reads(generator, monkeypatch):
    """Tokens of every call of the language model, and images of every call of the tower."""
    told = {"tokens": [], "images": []}
    forward, encode = generator.model.forward, generator.model.model.vision_tower.encode

    def reading(*args, **kwargs):
        told["tokens"].append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    def looking(pixels):
        told["images"].append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(generator.model, "forward", reading)
    monkeypatch.setattr(generator.model.model.vision_tower, "encode", looking)
    return told


def test_a_follow_up_reads_only_what_is_new_and_looks_at_no_image(dialogue, reads):
    first = request_of("What is shown?", 71)
    reply = last(dialogue, first)
    told = list(reads["tokens"])
    assert told == [reply.prompt_tokens, *[1] * (LIMIT - 1)]
    reads["tokens"].clear()
    second = last(dialogue, follow_up(first, reply, "Where?", 71))
    assert reads["tokens"][0] == second.prompt_tokens - second.known_tokens
    assert second.known_tokens >= reply.prompt_tokens
    assert reads["images"] == [1]


def test_the_same_prompt_again_reads_one_token(dialogue, reads):
    last(dialogue, REQUESTS[0])
    reads["tokens"].clear()
    last(dialogue, REQUESTS[0])
    assert reads["tokens"][0] == 1


def test_another_image_in_the_same_place_is_read_though_its_tokens_are_alike(generator, dialogue):
    last(dialogue, request_of("What is shown?", 0, 1))
    swapped = last(dialogue, request_of("What is shown?", 0, 2))
    assert 16 <= swapped.known_tokens < 32  # the first image and what stands before it
    assert said(swapped) == said(last(Dialogue(generator), request_of("What is shown?", 0, 2)))


def test_what_is_kept_is_what_was_read(dialogue):
    replies = list(dialogue.stream(REQUESTS[0], LIMIT, temperature=0.0, seed=0))
    assert dialogue.cached_tokens == replies[-1].prompt_tokens + LIMIT - 1


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("step", [0, 3])
def test_an_answer_broken_off_in_the_middle_of_a_layer_leaves_nothing_wrong(
    generator, dialogue, monkeypatch, layer, step
):
    first = request_of("What is shown?", 0)
    reply = last(dialogue, first)
    second = follow_up(first, reply, "Where?", 0)
    module, calls = generator.model.model.language_model.layers[layer].mlp, []
    forward = module.forward

    def breaking(states):
        calls.append(1)
        if len(calls) > step:
            raise KeyboardInterrupt
        return forward(states)

    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", breaking)
        with pytest.raises(KeyboardInterrupt):
            last(dialogue, second)
    after = last(dialogue, second)
    assert said(after) == said(last(Dialogue(generator), second))
    assert after.known_tokens >= reply.prompt_tokens  # what was read before is not lost


def test_a_stream_that_is_closed_goes_on_from_what_was_said(generator, dialogue):
    first = request_of("What is shown?", 0)
    stream = dialogue.stream(first, LIMIT, temperature=0.0, seed=0)
    reply = [next(stream) for _ in range(4)][-1]
    stream.close()
    second = follow_up(first, reply, "Go on.", 0)
    assert said(last(dialogue, second)) == said(last(Dialogue(generator), second))


def test_an_image_that_cannot_be_encoded_leaves_what_was_read_usable(generator, dialogue, monkeypatch):
    first = request_of("What is shown?", 0)
    reply = last(dialogue, first)
    with monkeypatch.context() as patch:
        patch.setattr(generator, "encode", lambda pictures: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            last(dialogue, request_of("Both?", 0, 3))
    second = follow_up(first, reply, "Where?", 0)
    after = last(dialogue, second)
    assert said(after) == said(last(Dialogue(generator), second))
    assert after.known_tokens >= 16


def test_a_sliding_window_never_forgets_what_it_should_know(tiny_tower, mistral_llm, tmp_path):
    model, processor = build_model(tiny_tower, mistral_llm, (32, 64, 96))
    save(model, processor, tmp_path / "mistral", {"stage": "finetune"})
    shutil.copytree(tmp_path / "mistral", tmp_path / "sliding")
    path = tmp_path / "sliding" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["sliding_window"] = 12
    path.write_text(json.dumps(config))
    sliding = Generator(tmp_path / "sliding", "fp32")
    dialogue = Dialogue(sliding)
    first = request_of("What is shown?", 0)
    second = follow_up(first, last(dialogue, first), "Where?", 0)
    third = request_of("Why?", 0, turns=first.turns[:0])
    for request in (second, third, second):
        assert said(last(dialogue, request)) == said(last(Dialogue(sliding), request))
    assert type(dialogue._cache.layers[0]).__name__ == "DynamicSlidingWindowLayer"


def test_too_little_memory_is_said_and_what_was_kept_is_given_back(generator, dialogue, monkeypatch):
    last(dialogue, REQUESTS[0])

    def too_much(**_):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(generator.model, "forward", too_much)
        with pytest.raises(ResourceError, match="memory") as refused:
            last(dialogue, REQUESTS[1])
    assert (refused.value.exit_code, dialogue.cached_tokens) == (6, 0)
    assert said(last(dialogue, REQUESTS[1])) == said(last(Dialogue(generator), REQUESTS[1]))
