"""What a command says where it cannot do what it is told."""

import pytest

from medvlm_cli.core.errors import ResourceError
from medvlm_cli.stages.chat import ChatSession
from medvlm_cli.terminal import commands
from medvlm_cli.terminal.conversation import HINT
from medvlm_cli.terminal.talk import Talk, Wishes, duration, timing_line
from tests.stages.chat_cases import CONFIG, opened
from tests.terminal.screens import console


@pytest.fixture
def talk(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = ChatSession(tiny_checkpoint, CONFIG, opened(tmp_path, 0))
    return Talk(Wishes(str(tiny_checkpoint), CONFIG, preview="none"), lambda: session, console(), console())


def test_tiles_that_cannot_be_written_are_an_error_of_the_folder(talk, tmp_path):
    (tmp_path / f"tiles-{talk.session.images[0].sha256[:12]}.png").mkdir()
    with pytest.raises(ResourceError, match=r"tiles-[0-9a-f]{12}\.png cannot be written here"):
        commands.run(talk, "/tiles")


def test_stats_tell_what_the_last_question_cost(talk):
    list(talk.session.ask("What is shown?"))
    list(talk.session.ask("Where?"))
    commands.run(talk, "/stats")
    said = talk.err.file.getvalue()
    assert "questions    2" in said
    assert f"{talk.session.stats()['tokens_known']} read before" in said
    assert "of 512 tokens" in said


def test_stats_before_the_first_question_tell_the_room_alone(talk):
    commands.run(talk, "/stats")
    assert "room left" in talk.err.file.getvalue()
    assert "first token" not in talk.err.file.getvalue()


def test_a_line_for_the_person_is_broken_between_words_on_a_terminal(talk):
    talk.tell("word " * 20)  # 60 columns hold twelve
    assert [len(line.split()) for line in talk.err.file.getvalue().splitlines()] == [12, 8]


def test_the_hint_fits_a_terminal_of_80_columns():
    assert len(HINT) < 80


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0042, "4 ms"), (0.9999, "1.0 s"), (0.9994, "999 ms"), (61.25, "61.2 s")]
)
def test_a_duration_is_told_in_the_unit_that_fits(seconds, told):
    assert duration(seconds) == told


def test_an_answer_without_words_has_no_first_token():
    assert timing_line({"tokens_out": 0, "ttft_s": 0.2, "seconds": 0.2}) == "0 tokens in 200 ms"
