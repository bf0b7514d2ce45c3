"""How results look: tables of counts on a terminal, off one, and as JSON."""

import json
import sys

import pytest

from medvlm_cli import render

TABLES = {"modality": {"ct": 1200, "mri\x1b[2J": 300}, "panels": {"1": 358}, "rejects": {}}


@pytest.fixture
def screen(capsys, monkeypatch):
    """What a terminal without colours shows."""
    monkeypatch.setenv("TERM", "dumb")

    def show(summary):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        render.result(summary, as_json=False)
        return capsys.readouterr().out

    return show


def test_off_a_terminal_a_table_of_counts_is_one_plain_line(capsys):
    render.result({"tables": TABLES}, as_json=False)
    assert capsys.readouterr().out == "modality: ct=1,200, mri\\u001b[2J=300\npanels: 1=358\nrejects: none\n"


def test_json_holds_the_tables_as_they_are(capsys):
    render.result({"rows": 1500, "tables": TABLES}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"rows": 1500, "tables": TABLES}


def test_on_a_terminal_tables_of_counts_stand_side_by_side(screen):
    lines = [line.split() for line in screen({"tables": TABLES}).splitlines()]
    assert ["modality", "panels"] in lines
    assert ["ct", "1,200", "80", "%", "1", "358", "100", "%"] in lines


def test_on_a_terminal_an_empty_table_is_not_shown(screen):
    assert "rejects" not in screen({"tables": TABLES})


def test_on_a_terminal_no_value_steers_it(screen):
    shown = screen({"tables": TABLES})
    assert "\\u001b[2J" in shown and "\x1b[2J" not in shown


def test_on_a_terminal_a_long_table_is_shortened(screen):
    shown = screen({"tables": {"year": {str(year): 1 for year in range(1960, 2027)}}})
    assert "before 2016" in shown and "1999" not in shown
