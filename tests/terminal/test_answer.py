"""An answer where no terminal is: the words, and nothing around them."""

import io
import signal
import threading

import pytest
from rich.console import Console

from medvlm_cli.terminal import answer
from tests.terminal.screens import console


def plain(pieces, **options):
    out = Console(file=io.StringIO(), force_terminal=False)
    stopped = answer.show(iter(pieces), out, **options)
    return out.file.getvalue(), stopped


@pytest.mark.parametrize(
    ("pieces", "written"),
    [
        (["  A", " nodule.", "  \n", "\n"], "A nodule.\n"),
        (["One.\n", "\nTwo."], "One.\n\nTwo.\n"),
        (["**kept** <as> it\tis"], "**kept** <as> it\tis\n"),
        ([" ", "\n", ""], "\n"),
        ([], "\n"),
    ],
)
def test_off_a_terminal_the_answer_is_its_words_and_one_line_end(pieces, written):
    assert plain(pieces) == (written, False)


def test_a_silent_answer_is_made_and_not_shown():
    made = iter(["a", "b"])
    assert plain(made, silent=True) == ("", False)
    assert list(made) == []


def interrupted(times):
    """A stream at whose second piece Ctrl-C is pressed so often."""
    yield "first "
    [signal.raise_signal(signal.SIGINT) for _ in range(times)]
    yield "second "
    yield "third"


def test_ctrl_c_ends_the_answer_behind_the_piece_that_was_being_made():
    before = signal.getsignal(signal.SIGINT)
    assert plain(interrupted(1)) == ("first second\n", True)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait_for_the_piece():
    with pytest.raises(KeyboardInterrupt):
        plain(interrupted(2))


def test_a_stopped_answer_is_closed_so_that_its_session_keeps_it():
    closed = []

    def pieces():
        try:
            yield from interrupted(1)
        finally:
            closed.append(True)

    stream = pieces()
    answer.show(stream, Console(file=io.StringIO()))
    assert closed == [True]


def test_an_error_leaves_what_was_said_and_the_cursor_on_the_screen():
    def pieces():
        yield "said"
        raise ValueError("no more")

    screen = console()
    with pytest.raises(ValueError, match="no more"):
        answer.show(pieces(), screen)
    assert screen.file.getvalue().endswith("said\n\x1b[?25h")


def test_an_error_before_the_first_word_leaves_stdout_empty():
    def pieces():
        yield " "
        raise ValueError("no room")

    out = Console(file=io.StringIO(), force_terminal=False)
    with pytest.raises(ValueError, match="no room"):
        answer.show(pieces(), out)
    assert out.file.getvalue() == ""


def test_a_terminal_that_becomes_narrower_is_erased_by_the_rows_that_it_broke_the_lines_into(monkeypatch):
    monkeypatch.setattr(answer, "FRAME_SECONDS", -1.0)
    screen = console(width=60)

    def pieces():
        yield "a" * 50  # one row, of which the narrow terminal makes three
        screen.width = 20
        yield "b"  # three rows, erased once more when they are printed for good

    answer.show(pieces(), screen)
    assert screen.file.getvalue().count("\x1b[1A") == 6


def test_an_answer_can_be_shown_by_another_thread():
    shown = []
    thread = threading.Thread(target=lambda: shown.append(plain(["a"])))
    thread.start()
    thread.join()
    assert shown == [("a\n", False)]
