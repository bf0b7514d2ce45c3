"""A conversation: history and images are kept, changed and taken back, and the answer streams."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.errors import ConfigError, DataError, ResourceError
from medvlm_cli.core.generate import Generator, Picture, Request, find_checkpoint
from medvlm_cli.stages import chat
from medvlm_cli.stages.chat import ChatSession
from tests.stages.chat_cases import CONFIG, opened, said

ASKED = "What is shown?"


def ask_once(session, question, image):
    """The answer in a conversation of its own."""
    session.reset()
    session.images = [image]
    return said(session.ask(question))


@pytest.fixture
def image(tmp_path):
    return opened(tmp_path, 0)[0]


@pytest.fixture
def other(tmp_path):
    return opened(tmp_path, 7)[0]


@pytest.fixture
def session(tiny_checkpoint, image):
    return ChatSession(tiny_checkpoint, CONFIG, [image])


@pytest.fixture
def anew(tiny_checkpoint):
    """The answer of a session that has read nothing yet, to a question behind some turns."""

    def answer(session, question, turns=(), **changes):
        config = dataclasses.replace(CONFIG, **changes)
        fresh = ChatSession(tiny_checkpoint, config, session.images, session.settings()["seed"], session.system)
        fresh.turns = [*turns]
        fresh._answered = [("stop", ())] * (len(turns) // 2)
        return said(fresh.ask(question))

    return answer


def test_importing_the_stage_loads_no_model_library():
    code = (
        "import sys, medvlm_cli.stages.chat; print({'torch', 'transformers', 'pyarrow', 'pydicom'} & set(sys.modules))"
    )
    root = Path(chat.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_the_pieces_are_the_answer_and_the_summary_says_how_it_came(session, image, tiny_checkpoint):
    pieces = list(session.ask(ASKED))
    summary = session.summary()
    found = find_checkpoint(tiny_checkpoint)
    assert list(summary) == [
        "model", "revision", "image", "prompt", "answer", "finish_reason", "tokens_in", "tokens_out", "ttft_s",
        "seconds", "seed", "notice",
    ]  # fmt: skip
    assert len(pieces) > 1
    assert said(pieces) == summary["answer"]
    assert (summary["model"], summary["revision"]) == (found.name, found.run_sha256)
    assert summary["image"] == [
        {
            "name": "0.png", "sha256": image.sha256, "width": 50, "height": 30, "window": None, "window_source": "",
            "frame": None, "frames": 1, "region": None,
        }
    ]  # fmt: skip
    assert summary["prompt"].count("<image>") == 1
    assert ASKED in summary["prompt"]
    assert (summary["finish_reason"], summary["tokens_out"], summary["seed"]) == ("length", 8, 0)
    assert summary["tokens_in"] > 16
    assert 0 < summary["ttft_s"] <= summary["seconds"]
    assert summary["notice"] == "research use only, not a medical device"


def test_there_is_nothing_to_sum_up_before_the_first_answer(session):
    assert session.summary() == {}


def test_a_follow_up_has_the_history_and_the_image_once(session):
    first = said(session.ask(ASKED))
    list(session.ask("Where is it?"))
    prompt = session.summary()["prompt"]
    assert prompt.count("<image>") == 1
    assert prompt.index("<image>") < prompt.index(ASKED) < prompt.index(first) < prompt.index("Where is it?")
    assert [turn["role"] for turn in session.turns] == ["user", "assistant"] * 2


def test_the_history_changes_the_answer(session):
    fresh = said(session.ask("Where is it?"))
    session.reset()
    list(session.ask(ASKED))
    assert said(session.ask("Where is it?")) != fresh


def test_reset_forgets_the_turns_and_keeps_the_image(session):
    before = list(session.ask(ASKED))
    session.reset()
    assert session.turns == []
    assert list(session.ask(ASKED)) == before


def test_an_added_image_joins_the_first_turn_and_is_hinted_at_once(session, other):
    list(session.ask(ASKED))
    session.hints()
    session.add(other)
    hints = session.hints()
    list(session.ask("And in this one?"))
    session.add(other)
    prompt = session.summary()["prompt"]
    assert prompt.count("<image>") == 2
    assert prompt.rindex("<image>") < prompt.index(ASKED)
    assert [image["name"] for image in session.summary()["image"]] == ["0.png", "7.png"]
    assert [hint for hint in hints if "trained on one image" in hint]
    assert not [hint for hint in session.hints() if "trained on one image" in hint]


def test_a_replaced_image_is_what_the_next_answer_is_about(session, other, anew):
    list(session.ask(ASKED))
    session.hints()
    session.replace(1, other)
    (hint,) = session.hints()
    turns = list(session.turns)
    assert "the images changed" in hint
    assert said(session.ask("Where?")) == anew(session, "Where?", turns)
    assert [image["sha256"] for image in session.summary()["image"]] == [other.sha256]
    assert session.turns[:2] == turns


def test_a_dropped_image_is_gone_and_a_number_without_an_image_is_refused(session, image):
    list(session.ask(ASKED))
    assert session.drop(1) == image
    list(session.ask("And now?"))
    assert "<image>" not in session.summary()["prompt"]
    with pytest.raises(ConfigError, match="there is no image 1: the conversation has 0 images"):
        session.drop(1)


def test_a_question_without_any_image_is_answered(tiny_checkpoint):
    session = ChatSession(tiny_checkpoint, CONFIG)
    assert said(session.ask("What is a nodule?"))
    assert "<image>" not in session.summary()["prompt"]


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused_and_the_conversation_stays(session, question):
    list(session.ask(ASKED))
    turns = list(session.turns)
    with pytest.raises(ConfigError, match="the question is empty"):
        session.ask(question)
    with pytest.raises(ConfigError, match="the question is empty"):
        session.edit(question)
    assert session.turns == turns


def test_a_greedy_answer_tried_again_is_the_same_and_that_is_said(session):
    list(session.ask(ASKED))
    second = said(session.ask("Where?"))
    turns = list(session.turns)
    session.hints()
    assert said(session.retry()) == second
    assert session.turns == turns
    assert "temperature is 0" in session.hints()[0]


def test_a_sampled_answer_tried_again_has_another_seed(tiny_checkpoint, image, anew):
    session = ChatSession(tiny_checkpoint, dataclasses.replace(CONFIG, temperature=2.0), [image], seed=3)
    first = said(session.ask(ASKED))
    again = said(session.retry())
    assert first != again == anew(session, ASKED, temperature=2.0)
    assert session.summary()["seed"] == session.settings()["seed"] == 4
    assert session.turns == [{"role": "user", "text": ASKED}, {"role": "assistant", "text": again}]


def test_an_edited_question_takes_the_place_of_the_last(session, anew):
    list(session.ask(ASKED))
    before = list(session.turns)
    list(session.ask("Where?"))
    edited = said(session.edit("Why?"))
    assert edited == anew(session, "Why?", before)
    assert session.turns == [*before, {"role": "user", "text": "Why?"}, {"role": "assistant", "text": edited}]


def test_there_is_nothing_to_try_again_or_to_edit_before_the_first_question(session):
    with pytest.raises(ConfigError, match="nothing was asked yet"):
        session.retry()
    with pytest.raises(ConfigError, match="nothing was asked yet"):
        session.edit("Why?")


def test_a_retry_that_is_stopped_before_its_first_word_leaves_the_old_answer(session):
    list(session.ask(ASKED))
    turns = list(session.turns)
    session.retry().close()
    assert session.turns == turns


def test_an_interrupted_answer_is_kept_as_far_as_it_came(session, anew):
    pieces = session.ask(ASKED)
    begun = next(pieces) + next(pieces)
    pieces.close()
    turns = list(session.turns)
    assert turns[-1] == {"role": "assistant", "text": begun.strip()}
    assert session.summary()["finish_reason"] == "interrupted"
    assert said(session.ask("Go on.")) == anew(session, "Go on.", turns)


def test_ctrl_c_in_the_middle_of_a_step_keeps_what_came_and_the_conversation_goes_on(session, anew, monkeypatch):
    decode, steps = session._generator.decode, []

    def pressed(tokens):
        steps.append(len(tokens))
        if len(steps) == 4:
            raise KeyboardInterrupt
        return decode(tokens)

    with monkeypatch.context() as patch:
        patch.setattr(session._generator, "decode", pressed)
        with pytest.raises(KeyboardInterrupt):
            list(session.ask(ASKED))
    turns = list(session.turns)
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert said(session.ask("Go on.")) == anew(session, "Go on.", turns)


def test_a_conversation_over_the_context_is_refused_and_stays(session):
    list(session.ask(ASKED))
    turns = list(session.turns)
    with pytest.raises(DataError, match="/reset"):
        list(session.ask("Why? " * 512))
    assert session.turns == turns


def test_an_answer_that_is_cut_says_where(session, tiny_checkpoint, image):
    list(session.ask(ASKED))
    (cut,) = session.hints()
    long = ChatSession(tiny_checkpoint, ChatConfig(max_new_tokens=400), [image])
    list(long.ask("Why? " * 80))
    (full,) = long.hints()
    assert "cut at max_new_tokens=8" in cut
    assert "the 512 tokens that the model reads end: /reset" in full


def test_too_little_memory_is_an_error_with_a_remedy_and_the_conversation_stays(session, monkeypatch):
    list(session.ask(ASKED))
    turns = list(session.turns)

    def too_much(**_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(session._generator.model, "forward", too_much)
    with pytest.raises(ResourceError, match="/drop"):
        list(session.ask("Where?"))
    assert session.turns == turns


def test_each_image_is_encoded_once_a_session(session, image, other, monkeypatch):
    tower, encoded = session._generator.model.model.vision_tower, []
    encode = tower.encode
    monkeypatch.setattr(tower, "encode", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    list(session.ask(ASKED))
    session.add(image)
    list(session.ask("And now?"))
    session.replace(1, other)
    list(session.ask("And now?"))
    session.replace(1, image)
    list(session.ask("And now?"))
    session.features(2)
    assert encoded == [1, 1]


def test_features_are_those_of_the_tower_at_each_scale(session):
    features = session.features(1)
    assert session.scales == (32, 64, 96)
    assert (features.shape, features.dtype) == ((16, 3 * 64), np.float32)
    assert session.side_and_fit == (96, "squash")


@pytest.mark.parametrize(("temperature", "varies"), [(0.0, False), (2.0, True)])
def test_only_sampling_depends_on_the_seed(tiny_checkpoint, image, temperature, varies):
    config = ChatConfig(max_new_tokens=8, temperature=temperature)
    answers = [said(ChatSession(tiny_checkpoint, config, [image], seed).ask(ASKED)) for seed in (0, 1)]
    assert (answers[0] != answers[1]) is varies


def test_a_system_prompt_is_told_before_everything_and_may_change(session, anew):
    session.system = "Answer in one word."
    first = said(session.ask(ASKED))
    prompt = session.summary()["prompt"]
    assert prompt.index("Answer in one word.") < prompt.index("<image>")
    assert first == anew(session, ASKED)
    turns = list(session.turns)
    session.system = ""
    assert said(session.ask("Where?")) == anew(session, "Where?", turns)
    assert "Answer in one word." not in session.summary()["prompt"]


def test_settings_hold_from_the_next_answer_on(session, anew):
    for name, value in (("max_new_tokens", "3"), ("temperature", "1.5"), ("seed", "9")):
        session.set(name, value)
    answer = said(session.ask(ASKED))
    assert session.settings() == {"temperature": 1.5, "max_new_tokens": 3, "seed": 9}
    assert (session.summary()["tokens_out"], session.summary()["seed"]) == (3, 9)
    assert answer == anew(session, ASKED, temperature=1.5, max_new_tokens=3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temprature", "0", "did you mean 'temperature'"),
        ("precision", "fp32", "settings: temperature, max_new_tokens, seed"),
        ("temperature", "warm", "temperature must be float, not 'warm'"),
        ("temperature", "nan", "temperature is nan"),
        ("temperature", "-1", "temperature is -1.0, below 0"),
        ("max_new_tokens", "0", "max_new_tokens is 0, below 1"),
        ("max_new_tokens", "1.5", "max_new_tokens must be int, not '1.5'"),
        ("seed", "-1", "seed is -1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_and_nothing_changes(session, name, value, message):
    before = session.settings()
    with pytest.raises(ConfigError, match=message):
        session.set(name, value)
    assert session.settings() == before


def test_statistics_count_what_was_read_said_and_what_room_is_left(session):
    empty = session.stats()
    list(session.ask(ASKED))
    first = session.stats()
    list(session.ask("Where?"))
    second = session.stats()
    assert (empty["questions"], empty["cached_tokens"], empty["context"]) == (0, 0, 512)
    assert (first["tokens_known"], first["tokens_out"], first["questions"]) == (0, 8, 1)
    assert first["cached_tokens"] == first["tokens_in"] + 7
    assert second["tokens_known"] >= first["tokens_in"]
    assert 512 > empty["context_left"] > first["context_left"] > second["context_left"] > 0
    assert second["tokens_per_second"] > 0


def test_chat_says_what_eval_says(session, tiny_checkpoint, tmp_path):
    texts = [ASKED, "Is there a nodule in the left lung?", "Where?", "A CT?"] * 5
    images = opened(tmp_path, *range(20))
    requests = [
        Request([{"role": "user", "text": text}], [lambda image=image: Picture(image.data, image.name)], "row")
        for text, image in zip(texts, images, strict=True)
    ]
    evaluated = dict(Generator(tiny_checkpoint, "bf16").answers(requests, 8, CONFIG.max_new_tokens))
    chatted = [ask_once(session, text, image) for text, image in zip(texts, images, strict=True)]
    assert chatted == [evaluated[index].text for index in range(20)]
    assert len(set(chatted)) > 10
