"""A conversation: images are checked before the model loads, history is kept, and the answer streams."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.generate import Generator, Picture, Request
from medvlm_cli.stages import chat
from medvlm_cli.stages.chat import ChatSession, open_images

CONFIG = ChatConfig(max_new_tokens=8)


def noise(path, seed):
    """An image file of 50 x 30 pixels of noise."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 50, 3), np.uint8)).save(path)
    return path


def ask_once(session, question, image):
    """The answer in a conversation of its own."""
    session.reset()
    session.images = [image]
    return "".join(session.ask(question)).strip()


@pytest.fixture
def image(tmp_path):
    return noise(tmp_path / "figure.png", 0)


@pytest.fixture
def session(tiny_checkpoint, image):
    return ChatSession(tiny_checkpoint, CONFIG, open_images([image]))


def test_opening_images_loads_no_model_library(image):
    code = (
        "import sys; from pathlib import Path; from medvlm_cli.stages.chat import open_images;"
        f"open_images([Path({str(image)!r})]); print({{'torch', 'transformers', 'pyarrow'}} & set(sys.modules))"
    )
    root = Path(chat.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing.png", None), ("folder.png", "folder"), ("words.png", b"not an image"), ("empty.png", b"")],
)
def test_a_file_that_is_no_image_is_named(tmp_path, name, content):
    path = tmp_path / name
    {"folder": lambda _: path.mkdir(), None: lambda _: None}.get(content, path.write_bytes)(content)
    with pytest.raises(DataError, match=name) as refused:
        open_images([path])
    assert refused.value.exit_code == 4


def test_a_truncated_image_is_refused_and_the_good_one_before_it_does_not_hide_it(image):
    cut = image.with_name("cut.png")
    cut.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut\.png"):
        open_images([image, cut])


def test_a_link_to_an_image_elsewhere_is_opened(tmp_path, image):
    link = tmp_path / "folder" / "link.png"
    link.parent.mkdir()
    link.symlink_to(image)
    (opened,) = open_images([link])
    assert (opened.path, opened.sha256) == (str(link), hashlib.sha256(image.read_bytes()).hexdigest())


def test_the_pieces_are_the_answer_and_the_summary_says_how_it_came(session, image):
    pieces = list(session.ask("What is shown?"))
    summary = session.summary()
    assert len(pieces) > 1
    assert "".join(pieces).strip() == summary["answer"]
    assert summary["image"] == [
        {"path": str(image), "sha256": hashlib.sha256(image.read_bytes()).hexdigest(), "width": 50, "height": 30}
    ]
    assert summary["prompt"].count("<image>") == 1
    assert "What is shown?" in summary["prompt"]
    assert (summary["finish"], summary["tokens"]) == ("length", 8)
    assert 0 < summary["first_token_seconds"] <= summary["seconds"]
    assert summary["notice"] == "research use only, not a medical device"
    assert summary["model"].startswith(Path(session._generator.name).name)


def test_a_follow_up_has_the_history_and_the_image_once(session):
    first = "".join(session.ask("What is shown?")).strip()
    list(session.ask("Where is it?"))
    prompt = session.summary()["prompt"]
    assert prompt.count("<image>") == 1
    assert prompt.index("<image>") < prompt.index("What is shown?") < prompt.index(first) < prompt.index("Where is it?")
    assert [turn["role"] for turn in session.turns] == ["user", "assistant"] * 2


def test_the_history_changes_the_answer(session):
    fresh = "".join(session.ask("Where is it?"))
    session.reset()
    list(session.ask("What is shown?"))
    assert "".join(session.ask("Where is it?")) != fresh


def test_reset_forgets_the_turns_and_keeps_the_image(session):
    before = list(session.ask("What is shown?"))
    session.reset()
    assert session.turns == []
    assert list(session.ask("What is shown?")) == before


def test_an_added_image_joins_the_first_turn(session, image):
    list(session.ask("What is shown?"))
    session.add_image(image)
    list(session.ask("And in this one?"))
    prompt = session.summary()["prompt"]
    assert prompt.count("<image>") == 2
    assert prompt.rindex("<image>") < prompt.index("What is shown?")
    assert len(session.summary()["image"]) == 2


def test_a_bad_added_image_leaves_the_conversation_as_it_was(session, tmp_path):
    list(session.ask("What is shown?"))
    turns = list(session.turns)
    with pytest.raises(DataError):
        session.add_image(tmp_path / "missing.png")
    assert (session.turns, len(session.images)) == (turns, 1)


def test_a_question_without_any_image_is_answered(tiny_checkpoint):
    session = ChatSession(tiny_checkpoint, CONFIG)
    assert "".join(session.ask("What is a nodule?"))
    assert "<image>" not in session.summary()["prompt"]


def test_an_interrupted_answer_is_kept_as_far_as_it_came(session):
    pieces = session.ask("What is shown?")
    said = next(pieces) + next(pieces)
    pieces.close()
    assert session.turns[-1] == {"role": "assistant", "text": said.strip()}
    assert session.summary()["finish"] == "interrupted"
    assert "".join(session.ask("Go on."))


def test_a_conversation_over_the_context_is_refused_and_stays(session):
    list(session.ask("What is shown?"))
    turns = list(session.turns)
    with pytest.raises(DataError, match="/reset"):
        list(session.ask("Why? " * 512))
    assert session.turns == turns


def test_each_image_is_encoded_once_a_session(session, image, monkeypatch):
    tower, encoded = session._generator.model.model.vision_tower, []
    encode = tower.encode
    monkeypatch.setattr(tower, "encode", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    list(session.ask("What is shown?"))
    session.add_image(image)
    list(session.ask("And now?"))
    assert encoded == [1]


@pytest.mark.parametrize(("temperature", "varies"), [(0.0, False), (2.0, True)])
def test_only_sampling_depends_on_the_seed(tiny_checkpoint, image, temperature, varies):
    config = ChatConfig(max_new_tokens=8, temperature=temperature)
    opened = open_images([image])
    said = ["".join(ChatSession(tiny_checkpoint, config, opened, seed).ask("What is shown?")) for seed in (0, 1)]
    assert (said[0] != said[1]) is varies


def test_chat_says_what_eval_says(session, tiny_checkpoint, tmp_path):
    texts = ["What is shown?", "Is there a nodule in the left lung?", "Where?", "A CT?"] * 5
    images = open_images([noise(tmp_path / f"{seed}.png", seed) for seed in range(20)])
    requests = [
        Request([{"role": "user", "text": text}], [lambda image=image: Picture(image.data, image.path)], "row")
        for text, image in zip(texts, images, strict=True)
    ]
    evaluated = dict(Generator(tiny_checkpoint, "bf16").answers(requests, 8, CONFIG.max_new_tokens))
    chatted = [ask_once(session, text, image) for text, image in zip(texts, images, strict=True)]
    assert chatted == [evaluated[index].text for index in range(20)]
    assert len(set(chatted)) > 10
