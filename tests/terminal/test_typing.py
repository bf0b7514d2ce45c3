"""What is typed: history, completion, several lines; and the model that loads meanwhile."""

import os
import signal
import stat
import threading

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.errors import DataError
from medvlm_cli.terminal.completion import ChatCompleter
from medvlm_cli.terminal.conversation import converse
from medvlm_cli.terminal.history import history
from medvlm_cli.terminal.loading import Loading
from medvlm_cli.terminal.prompt import Line, fence_open, unfenced
from medvlm_cli.terminal.talk import Wishes, readable
from tests.terminal.screens import console


def completed(text):
    """What a line may become with Tab."""
    found = ChatCompleter().get_completions(Document(text, len(text)), CompleteEvent(completion_requested=True))
    return [text[: len(text) + each.start_position] + each.text for each in found]


def test_the_history_is_made_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        kept, why_not = history({"XDG_STATE_HOME": str(tmp_path / "state")})
    finally:
        os.umask(before)
    kept.append_string("What is shown?")
    path = tmp_path / "state" / "medvlm" / "chat_history"
    assert why_not == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "What is shown?" in path.read_text()


def test_the_history_is_never_open_to_others_not_even_for_a_moment(tmp_path, monkeypatch):
    closed_later = []
    monkeypatch.setattr(os, "fchmod", lambda *given: closed_later.append(given))
    history({"XDG_STATE_HOME": str(tmp_path)})
    assert closed_later == []


def test_a_history_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "medvlm" / "chat_history"
    path.parent.mkdir()
    path.write_text("\n# 2026-01-01\n+before\n")
    path.chmod(0o644)
    kept, _ = history({"XDG_STATE_HOME": str(tmp_path)})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(kept.load_history_strings()) == ["before"]


def test_the_history_can_be_turned_off(tmp_path):
    kept, _ = history({"XDG_STATE_HOME": str(tmp_path), "MEDVLM_HISTORY": "off"})
    assert not isinstance(kept, FileHistory)
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_cannot_be_kept_says_so_and_stops_nobody(tmp_path):
    (tmp_path / "medvlm").touch()
    kept, why_not = history({"XDG_STATE_HOME": str(tmp_path)})
    kept.append_string("What is shown?")
    assert "not kept" in why_not


def test_a_history_that_cannot_be_written_any_more_loses_the_line_alone(tmp_path):
    kept, _ = history({"XDG_STATE_HOME": str(tmp_path)})
    (tmp_path / "medvlm" / "chat_history").unlink()
    (tmp_path / "medvlm").rmdir()
    kept.append_string("What is shown?")
    assert kept.get_strings() == ["What is shown?"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/im", ["/image", "/images"]),
        ("/window l", ["/window lung", "/window liver"]),
        ("/slice m", ["/slice middle"]),
        ("/set te", ["/set temperature"]),
        ("/image sc", ["/image scan one.png"]),
        ("/image 'sc", ["/image 'scan one.png"]),
        ("/image ~/sc", ["/image ~/scan one.png"]),
        ("./sc", ["./scan one.png"]),
        ("what is ./sc", ["what is ./scan one.png"]),
        ("What", []),
        ("/nothing x", []),
        ("/im\nage", []),
    ],
)
def test_tab_completes_commands_paths_and_the_words_of_a_command(text, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "scan one.png").touch()
    assert completed(text) == found


def test_a_name_that_would_steer_the_terminal_is_not_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a\x1b[2J.png").touch()
    (tmp_path / "a\u202egnp.png").touch()
    assert completed("/image a") == []


@pytest.mark.parametrize(("text", "open_"), [('"""a', True), ('"""', True), ('"""a\nb"""', False), ("a", False)])
def test_three_quotes_hold_a_text_open(text, open_):
    assert fence_open(text) is open_


def test_a_text_loses_its_quotes():
    assert unfenced(' """one\ntwo""" ') == "one\ntwo"
    assert unfenced(" What? ") == "What?"


def test_halves_of_characters_are_replaced():
    assert readable("a \udcff \ud800b \u00e9") == "a ? ?b \u00e9"


def test_what_loads_is_waited_for():
    go = threading.Event()
    loading = Loading(lambda: go.wait() and "model")
    assert not loading.done
    go.set()
    assert loading.result() == "model"


def test_ctrl_c_ends_the_waiting_and_not_the_loading():
    go = threading.Event()
    loading = Loading(lambda: go.wait() and "model")
    threading.Timer(0.25, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        loading.result()
    assert not loading.done
    go.set()
    assert loading.result() == "model"


def test_an_error_of_loading_is_told_at_once_and_raised_to_who_waits():
    told = []
    loading = Loading(lambda: (_ for _ in ()).throw(DataError("no model")), told.append)
    with pytest.raises(DataError, match="no model"):
        loading.result()
    assert told == [loading.error]


@pytest.fixture
def keys(monkeypatch):
    """What is typed into a line editor of this process."""
    monkeypatch.setenv("MEDVLM_HISTORY", "off")
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("What?\r", "What?"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ('"""one\rtwo"""\r', "one\ntwo"),
        ("gone\x03 kept\r", "kept"),
        ("\x1b[200~pasted\nlines\x1b[201~\r", "pasted\nlines"),
    ],
)
def test_a_line_is_read_as_it_is_typed(typed, read, keys):
    keys.send_text(typed)
    assert Line(print).read() == read


def test_an_answered_question_comes_back_to_be_changed(keys):
    keys.send_text(" now?\r")
    assert Line(print).read("And") == "And now?"


@pytest.mark.parametrize(("typed", "raised"), [("\x04", EOFError), ("\x03", KeyboardInterrupt)])
def test_an_empty_line_is_left_by_ctrl_d_and_ctrl_c(typed, raised, keys):
    keys.send_text(typed)
    with pytest.raises(raised):
        Line(print).read()


@pytest.mark.parametrize(("typed", "agreed"), [("\r", True), ("y\r", True), ("n\r", False), ("what?\r", False)])
def test_only_yes_or_enter_is_agreement(typed, agreed, keys):
    keys.send_text(typed)
    assert Line(print).agree("Add it?") is agreed


def test_a_model_that_cannot_be_loaded_ends_the_waiting_for_a_line(keys):
    line = Line(print)
    timer = threading.Timer(0.2, line.fail, [DataError("no model")])
    timer.start()
    with pytest.raises(DataError, match="no model"):
        line.read()


def test_a_model_that_failed_before_anyone_waited_ends_the_next_line(keys):
    line = Line(print)
    line.fail(DataError("no model"))
    with pytest.raises(DataError, match="no model"):
        line.read()


def test_a_conversation_without_its_model_ends_with_the_error_of_loading(keys, tmp_path):
    with pytest.raises(DataError, match="not a finished checkpoint"):
        converse(Wishes(str(tmp_path), ChatConfig()), [], console(), console())
