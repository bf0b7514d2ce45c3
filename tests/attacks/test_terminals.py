"""Forty texts that would steer a terminal, on every way on which medvlm prints what it did not write itself.

What a model says in ``chat`` goes another way: ``tests/terminal/test_hostile.py`` sends the same texts there.
"""

import io
import json
import logging
import re
import sys
from contextlib import contextmanager

import pytest

from medvlm_cli import render
from medvlm_cli.core.errors import DataError
from tests.terminal.test_hostile import CONTROL, HOSTILE

OURS = re.compile(r"\x1b\[[0-9;]*[mAK]|\x1b\[\?25[lh]|\r(?=\x1b\[[12][AK])")
"""Colours, and what a bar is drawn anew with."""

TOLD = {
    "a value": lambda text: {"rows": text, text: 1},
    "a list": lambda text: {"warnings": [text, text], text: [text]},
    "some values": lambda text: {"settings": {"name": text, text: 2}, text: {text: text}},
    "a table": lambda text: {"scores": {text: {"accuracy": text, text: 0.5}}, text: {text: {text: text}}},
    "counts": lambda text: {"tables": {text: {text: 3, "ct": 4}}},
    "a sample": lambda text: {
        "sample": {
            "conversation": text,
            "pieces": [{"kind": kind, "text": text, "tokens": 3} for kind in ("image", "ignored", "target")],
        }
    },
}
"""How a summary may hold a text."""


class Terminal(io.StringIO):
    """Standard output or error that says it is a terminal."""

    def isatty(self):
        return True


@contextmanager
def streams(monkeypatch, kind):
    """Standard output and error of a kind, and what was written to them when all is done."""
    out, err, written = kind(), kind(), []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setenv("TERM", "xterm-256color")
        patch.setitem(render._speak, "json", False)
        yield written
        written.append(out.getvalue() + err.getvalue())


def steering(written):
    """Characters that a terminal obeys, those of our own colours and bars left out."""
    return CONTROL.findall(OURS.sub("", written))


def log(text):
    """What a library of somebody else might log, in the words and in the arguments."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    render.set_up(json=False, verbose=2)
    try:
        logging.getLogger("library").debug("read %s", text)
        logging.getLogger("library").warning(f"read {text}".replace("%", ""))
        try:
            raise DataError(f"{text}: broken")
        except DataError:
            logging.getLogger("library").exception("while %s", text)
    finally:
        root.handlers[:], root.level = before


def progress(text):
    with render.progress(quiet=False) as tell:
        tell(text, 1, 2)
        tell(text, 2, 2)


def error_as_json(text):
    render.set_up(json=True, verbose=0)
    render.error(text, text, 4)


WAYS = {
    "a hint": render.hint,
    "an error": lambda text: render.error(text, text, 4),
    "an error as JSON": error_as_json,
    "the log": log,
    "progress": progress,
    "a list of amounts": lambda text: render.hint(render.listed({text: 1, "b": text})),
}
for _name, _make in TOLD.items():
    WAYS[f"{_name} in a result"] = lambda text, make=_make: render.result(make(text), as_json=False)
    WAYS[f"{_name} as JSON"] = lambda text, make=_make: render.result(make(text), as_json=True)
    WAYS[f"{_name} beside"] = lambda text, make=_make: render.aside(make(text))


def test_there_are_forty_texts():
    assert len(set(HOSTILE)) == 40


@pytest.mark.parametrize("kind", [Terminal, io.StringIO], ids=["on a terminal", "off it"])
@pytest.mark.parametrize("way", WAYS)
def test_no_text_steers_a_terminal(way, kind, monkeypatch):
    with streams(monkeypatch, kind) as written:
        for text in HOSTILE:
            WAYS[way](text)
    assert len(written[0]) > len(HOSTILE)
    assert steering(written[0]) == []


def test_json_of_any_text_says_the_text(capsys):
    render.result({"words": HOSTILE[:36]}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"words": HOSTILE[:36]}
