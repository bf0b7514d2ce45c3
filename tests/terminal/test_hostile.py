"""Forty things that a model, a file name or a saved conversation may say to steer a terminal: none arrives."""

import io
import re

import pytest
from rich.console import Console

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.sources.opening import Opened, View
from medvlm_cli.terminal import answer
from medvlm_cli.terminal.talk import Talk, Wishes
from tests.terminal.screens import console

ESC, CSI8, OSC8, ST8 = "\x1b", "\x9b", "\x9d", "\x9c"
HOSTILE = [
    f"{ESC}[2J{ESC}[H", f"{ESC}[31mred", f"{ESC}[8mhidden{ESC}[0m", f"{ESC}[1A{ESC}[2K", f"{ESC}[?25l", f"{ESC}[?1049h",
    f"{ESC}]0;title\x07", f"{ESC}]0;title{ESC}\\", f"{ESC}]52;c;cm0gLXJm\x07", f"{ESC}]8;;http://evil\x07go{ESC}]8;;\x07",
    f"{ESC}]1337;File=inline=1:AAAA\x07", f"{ESC}]50;font\x07", f"{ESC}P1$r0m{ESC}\\", f"{ESC}_Ga=T;AAAA{ESC}\\",
    f"{ESC}^private{ESC}\\", f"{ESC}c", f"{ESC}7{ESC}8", f"{ESC}[6n", f"{ESC}[c", f"{ESC}[21t", f"{ESC}[5i", f"{ESC}#8",
    f"{ESC}(0lqqk", f"{CSI8}2J", f"{OSC8}0;title{ST8}", "\x90q#0~\x9c", "over\rwritten", "back\b\b\b\bspace",
    "bell\x07", "null\x00byte", "delete\x7f", "form\x0cfeed", "tab\x0bdown", "\u202egnp.exe", "\u2066a\u2069\u200b",
    "\ufeff\u2028\u2029", "\ud800 half", "\U000e0041tag", "&#x1b;[2J&#13;&#x202e;",
    f"`{ESC}[2J` [x]({ESC}[2J) ```{ESC}[2J\n{ESC}[2J\n```",
]  # fmt: skip
OURS = re.compile(r"\x1b\[[0-9;]*[mAK]|\x1b\[\?25[lh]|\r(?=\x1b\[1A)")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u2028\u2029\ufeff\ud800\U000e0041]")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_answer_on_a_terminal_holds_no_code_but_our_own(text, size, monkeypatch):
    monkeypatch.setattr(answer, "FRAME_SECONDS", -1.0)
    said = f"# {text}\n\n- {text}\n\n```{text}\n{text}\n```\n\n| {text} |\n|---|\n| {text} |\n\n**{text}** {text}"
    screen = console()
    answer.show((said[start : start + size] for start in range(0, len(said), size)), screen)
    assert CONTROL.findall(OURS.sub("", screen.file.getvalue())) == []


@pytest.mark.parametrize("text", HOSTILE)
def test_an_answer_off_a_terminal_holds_no_code_at_all(text):
    out = Console(file=io.StringIO())
    answer.show(iter([text, text]), out)
    assert CONTROL.findall(out.file.getvalue()) == []
    assert out.file.getvalue().endswith("\n")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_said_of_an_image_holds_no_code(text):
    image = Opened(
        name=text, path=text, view=View(), data=b"", sha256="0", width=9, height=9, mode="RGB", warnings=(text,)
    )
    err = console()
    talk = Talk(Wishes("nowhere", ChatConfig(), preview="none"), lambda: None, console(), err)
    talk.show_image(image)
    assert CONTROL.findall(OURS.sub("", err.file.getvalue())) == []


def test_a_terminal_that_knows_no_codes_gets_plain_words(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Console(file=io.StringIO(), force_terminal=True)
    answer.show(iter(["**Bold** ", "and <plain>.\n"]), screen)
    assert screen.file.getvalue() == "**Bold** and <plain>.\n"


def test_there_are_forty_of_them():
    assert len(HOSTILE) == 40
