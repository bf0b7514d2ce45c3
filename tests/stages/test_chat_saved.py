"""A saved conversation is learnt from, read by people, and taken up again; it names no place and no patient."""

import dataclasses
import hashlib
import json
import stat
import sys

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import ChatConfig, FinetuneConfig
from medvlm_cli.core.errors import BusyError, ConfigError, DataError, ResourceError
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES
from medvlm_cli.sources.opening import View, open_image
from medvlm_cli.stages.chat import ChatSession
from tests.stages.chat_cases import CONFIG, opened, said
from tests.training_cases import SETTINGS, quiet


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("image"), 0)[0]


@pytest.fixture
def session(tiny_checkpoint, image):
    return ChatSession(tiny_checkpoint, CONFIG, [image], seed=5, system="Be brief.")


@pytest.fixture
def asked(session):
    """A session with two answers."""
    list(session.ask("What is shown?"))
    list(session.ask("Where is it?"))
    session.hints()
    return session


def rows(folder):
    return list(open_dataset(folder, CONVERSATIONS).rows())


def test_the_row_is_the_conversation_and_joins_its_figure(asked, image, tmp_path):
    folder = asked.save(tmp_path / "talk")
    (row,) = rows(folder / "conversations")
    figures = open_dataset(folder / "figures", FIGURES)
    (figure,) = figures.rows()
    assert [turn["text"] for turn in row["turns"]] == [
        "<image>\nWhat is shown?", *(turn["text"] for turn in asked.turns[1:]),
    ]  # fmt: skip
    assert row["figure_id"] == figure["figure_id"]
    assert (row["kind"], row["split"], row["teacher"]) == ("instruct", "train", f"chat:{asked.model}")
    assert (row["license_tags"], row["stop_reason"]) == (["unknown", "teacher-terms-unknown"], "length")
    assert row["prompt_id"] == hashlib.sha256(b"Be brief.").hexdigest()[:12]
    assert (figure["image"]["bytes"], figure["image_sha256"].hex()) == (image.data, image.sha256)
    assert (figure["width"], figure["height"], figure["label"]) == (50, 30, "0.png")
    assert asked.hints() == []


def test_finetune_learns_from_it(asked, tiny_checkpoint, tmp_path):
    from medvlm_cli.stages.finetune import finetune

    folder = asked.save(tmp_path / "talk")
    config = FinetuneConfig(**SETTINGS | {"batch": 1, "micro_batch": 1, "epochs": 1.0, "lr": 1e-3})
    out = tmp_path / "checkpoints" / "learnt"
    told = finetune(folder / "conversations", [folder / "figures"], tiny_checkpoint, out, config, quiet, 1)
    assert told["steps"] == 1
    assert (out / "model.safetensors").is_file()


def test_a_loaded_conversation_goes_on_as_if_it_had_not_been_away(asked, tiny_checkpoint, tmp_path):
    asked.set("max_new_tokens", 6)
    folder = asked.save(tmp_path / "talk")
    again = ChatSession.loaded(folder, tiny_checkpoint, ChatConfig())
    assert (again.turns, again.system, again.settings()) == (asked.turns, asked.system, asked.settings())
    assert [dataclasses.replace(image, path="") for image in asked.images] == again.images
    assert said(again.ask("Why?")) == said(asked.ask("Why?"))
    assert again.hints() == asked.hints()


@pytest.mark.parametrize("name", ["chat.json", "conversation.md", "."])
def test_any_file_of_the_folder_stands_for_it(asked, tiny_checkpoint, tmp_path, name):
    folder = asked.save(tmp_path / "talk")
    assert ChatSession.loaded(folder / name, tiny_checkpoint, CONFIG).turns == asked.turns


def test_a_session_takes_up_a_saved_conversation_in_place_of_its_own(asked, tmp_path):
    folder, turns = asked.save(tmp_path / "talk"), list(asked.turns)
    asked.reset()
    asked.drop(1)
    asked.system = ""
    asked.load(folder)
    assert (asked.turns, asked.system, len(asked.images)) == (turns, "Be brief.", 1)
    with pytest.raises(DataError, match="no saved conversation"):
        asked.load(tmp_path / "nowhere")
    assert asked.turns == turns


def test_another_model_says_that_the_answers_so_far_are_not_its_own(asked, tiny_checkpoint, tmp_path):
    folder = asked.save(tmp_path / "talk")
    state = json.loads((folder / "chat.json").read_text())
    (folder / "chat.json").write_text(json.dumps(state | {"model": "other@123"}))
    again = ChatSession.loaded(folder, tiny_checkpoint, CONFIG)
    assert f"by other@123, those to come by {again.model}" in again.hints()[0]


def test_an_edited_and_an_interrupted_answer_are_saved_as_they_are(asked, tmp_path):
    pieces = asked.edit("Why?")
    begun = next(pieces)
    pieces.close()
    folder = asked.save(tmp_path / "talk")
    (row,) = rows(folder / "conversations")
    asked.load(folder)
    assert row["turns"][2:] == [{"role": "user", "text": "Why?"}, {"role": "assistant", "text": begun.strip()}]
    assert row["stop_reason"] == "interrupted"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda session, other: session.add(other), "it is about 2 images"),
        (lambda session, other: session.drop(1), "it is about no images"),
        (lambda session, other: session.replace(1, other), "some of its answers are about another image"),
        (lambda session, other: session.reset(), "nothing was asked"),
    ],
)
def test_what_cannot_be_learnt_from_is_rejected_with_a_reason_and_loads_all_the_same(
    asked, tiny_checkpoint, tmp_path, change, reason
):
    change(asked, opened(tmp_path, 3)[0])
    asked.hints()
    folder = asked.save(tmp_path / "talk")
    manifest = json.loads((folder / "conversations" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["rejected"]) == (0, 1)
    assert reason in asked.hints()[0]
    again = ChatSession.loaded(folder, tiny_checkpoint, CONFIG)
    assert (again.turns, [image.sha256 for image in again.images]) == (
        asked.turns, [image.sha256 for image in asked.images],
    )  # fmt: skip


def test_the_page_shows_images_and_words(asked, tmp_path):
    folder = asked.save(tmp_path / "talk")
    page = (folder / "conversation.md").read_text()
    first = asked.turns[0]["text"]
    assert page.index("![image 1](images/1.png)") < page.index("Be brief.") < page.index(first)
    assert "not a medical device" in page
    with Image.open(folder / "images" / "1.png") as shown:
        assert shown.size == (50, 30)


def test_words_on_the_page_can_load_and_run_nothing(asked, tmp_path):
    asked.turns[1]["text"] = "**Yes** ![x](https://host/p.png) <img src=x> </p><!-- a --> 3 < 4 \x1b[2J\u202e"
    page = (asked.save(tmp_path / "talk") / "conversation.md").read_text()
    said_ = r"**Yes** !\[x](https://host/p.png) \<img src=x> \</p>\<!-- a --> 3 < 4 \u001b[2J\u202e"
    assert said_ in page


def test_no_place_is_stored(tiny_checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "SMITH JOHN 1970"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)).save(folder / "scan.png")
    monkeypatch.setattr(sys, "argv", ["medvlm", "chat", str(folder / "scan.png")])
    session = ChatSession(tiny_checkpoint, CONFIG, [open_image(folder / "scan.png")])
    list(session.ask("What is shown?"))
    saved = session.save(tmp_path / "talk")
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path for path in files if b"SMITH" in path.read_bytes()] == []
    assert "SMITH" not in json.dumps(session.summary()) + json.dumps(session.stats()) + repr(session.images)


def test_the_folder_is_the_users_alone_and_nothing_half_made_is_left(asked, tmp_path):
    folder = asked.save(tmp_path / "talks" / "talk")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.parent.iterdir()] == ["talk"]


def test_a_folder_is_never_written_over(asked, tmp_path):
    folder = asked.save(tmp_path / "talk")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(BusyError, match="is there already") as refused:
        asked.save(folder)
    assert refused.value.exit_code == 7
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["talk"]


def test_a_save_that_fails_leaves_nothing(asked, tmp_path):
    asked.images[0] = dataclasses.replace(asked.images[0], data=asked.images[0].data[:-60])
    with pytest.raises(DataError, match=r"0\.png"):
        asked.save(tmp_path / "talk")
    assert list(tmp_path.iterdir()) == []


def test_without_a_name_a_folder_gets_one_of_its_time(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert asked.save().name.startswith("chat-2")
    assert len(list(tmp_path.iterdir())) == 1


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


def with_facts(state, **changes):
    figure = state["figures"][0]
    return state | {"figures": [figure | {"facts": figure["facts"] | changes}]}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: [],
        lambda state: {},
        lambda state: without(state, "turns"),
        lambda state: without(state, "figures"),
        lambda state: state | {"format": "chat/2"},
        lambda state: state | {"turns": state["turns"][1:]},
        lambda state: state | {"turns": state["turns"][:-1]},
        lambda state: state | {"turns": "no"},
        lambda state: state | {"answered": state["answered"][:1]},
        lambda state: state | {"answered": [{"finish": "soon", "images": []}] * 2},
        lambda state: state | {"figures": [state["figures"][0] | {"id": "chat/none"}]},
        lambda state: state | {"figures": [state["figures"][0] | {"sha256": "0" * 64}]},
        lambda state: state | {"figures": [state["figures"][0] | {"facts": {}}]},
        lambda state: with_facts(state, window=3),
        lambda state: with_facts(state, view={"x": 1}),
        lambda state: state | {"settings": 3},
        lambda state: state | {"settings": {"temperature": "hot"}},
        lambda state: state | {"settings": {"seed": 1, "exec": "1"}},
    ],
)  # fmt: skip
def test_a_state_that_is_not_what_was_saved_is_refused(asked, tmp_path, spoil):
    folder = asked.save(tmp_path / "talk")
    path, before = folder / "chat.json", (list(asked.turns), list(asked.images), asked.settings())
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises((DataError, ConfigError)):
        asked.load(folder)
    assert (asked.turns, asked.images, asked.settings()) == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_state_that_is_no_json_is_refused(asked, tmp_path, content):
    folder = asked.save(tmp_path / "talk")
    (folder / "chat.json").write_bytes(content)
    with pytest.raises(DataError, match=r"chat\.json"):
        asked.load(folder)


def test_a_scan_keeps_its_window_and_its_slice(tiny_checkpoint, tmp_path):
    values = np.random.default_rng(2).integers(0, 4000, (70, 90), np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = open_image(tmp_path / "deep.png", View(window="2000,3000"))
    session = ChatSession(tiny_checkpoint, CONFIG, [image])
    list(session.ask("What is shown?"))
    again = ChatSession.loaded(session.save(tmp_path / "talk"), tiny_checkpoint, CONFIG)
    assert again.images == [dataclasses.replace(image, path="")]
    assert again.images[0].window == (2000.0, 3000.0)


@pytest.mark.parametrize("name", ["file/talk", "x" * 300])
def test_a_place_that_cannot_be_is_said_and_the_conversation_goes_on(asked, tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        asked.save(tmp_path / name)
    with pytest.raises(DataError, match=r"no saved conversation|cannot be read"):
        asked.load(tmp_path / name)
    assert len(asked.turns) == 4
