"""What a training looks like while it runs: a panel on a terminal, plain lines off it."""

import io
import re

import pytest
from rich.console import Console

from medvlm_cli import render
from medvlm_cli.core.tell import show

FIGURES = {
    "loss": 1.23456, "lr": 2e-5, "grad_norm": 0.8765, "tokens_per_second": 61234.5, "images_per_second": 48.21,
    "mfu": 0.4512, "peak_bytes": 45_600_000_000, "held_out_loss": 1.3,
}  # fmt: skip
SHOWN = [
    "loss 1.2346", "held-out loss 1.3000", "lr 2.00e-05", "gradient norm 0.876", "tokens/s 61,234", "images/s 48.2",
    "MFU 45.1%", "peak 45.6 GB",
]  # fmt: skip


@pytest.fixture
def panel():
    """A panel on a recorded terminal of 100 columns, and what it shows now."""
    console = Console(record=True, width=100, height=20, force_terminal=True, file=io.StringIO())
    panel = render.Panel(console)

    def shown():
        console.print(panel.get_renderable())
        return re.sub(" +", " ", console.export_text())

    return panel, shown


@pytest.fixture
def line(capsys, monkeypatch):
    """A heartbeat, what it has said since last asked, and its clock."""
    clock = [1000.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: clock[0])
    return render._Heartbeat(), lambda: capsys.readouterr().err, clock


def test_the_panel_shows_the_step_and_every_figure(panel):
    tell, shown = panel
    show(tell, FIGURES)
    tell("finetune", 120, 625)
    text = shown()
    assert "finetune" in text and "120/625" in text
    assert [one for one in SHOWN if one not in text] == []


def test_a_figure_that_is_not_known_has_no_place_in_the_panel(panel):
    tell, shown = panel
    show(tell, FIGURES | {"mfu": None, "held_out_loss": None})
    tell("finetune", 120, 625)
    text = shown()
    assert "MFU" not in text and "held-out" not in text and "tokens/s 61,234" in text


def test_new_figures_take_the_place_of_the_old(panel):
    tell, shown = panel
    tell("finetune", 1, 625)
    show(tell, {"loss": 3.0})
    show(tell, {"loss": 2.0})
    text = shown()
    assert "loss 2.0000" in text and "3.0000" not in text


def test_without_a_training_there_is_only_a_bar(panel):
    tell, shown = panel
    tell("fetch [bold]\x1b[2J", 3, 10)
    assert "fetch [bold]\\u001b[2J" in shown() and tell._figures == {}


def test_the_time_left_of_a_resumed_phase_counts_from_where_it_began(panel):
    """Rich takes the speed from jumps of the bar; the first call must be none."""
    tell, _ = panel
    tell("finetune", 500, 625)
    (bar,) = tell.tasks
    assert bar.completed == 500 and bar.speed is None and len(bar._progress) == 0


def test_off_a_terminal_a_line_ends_in_the_figures(line):
    tell, said, _ = line
    show(tell, FIGURES)
    tell("finetune", 120, 625)
    assert said()[9:] == "finetune 120/625 " + ", ".join(SHOWN) + "\n"


def test_off_a_terminal_a_line_comes_every_30_seconds_with_the_latest_figures(line):
    tell, said, clock = line
    for step in range(1, 62):
        show(tell, {"loss": float(step)})
        tell("finetune", step, 625)
        clock[0] += 1
    assert re.findall(r"finetune (\d+)/625 .*?loss (\d+)\.", said()) == [("1", "1"), ("31", "31"), ("61", "61")]


def test_off_a_terminal_a_resumed_phase_tells_its_own_speed(line):
    """500 steps were done before; 6 in 30 seconds are 5 seconds each, and 119 are left."""
    tell, said, clock = line
    tell("finetune", 500, 625)
    clock[0] += 30
    tell("finetune", 506, 625)
    assert said().splitlines()[1][9:] == "finetune 506/625 5.0 s each eta 10m"


def test_figures_do_not_end_the_line_of_another_phase(line):
    tell, said, clock = line
    show(tell, {"loss": 1.0})
    tell("finetune", 1, 2)
    clock[0] += 60
    tell("saving", 1, 2)
    assert said().splitlines()[1][9:] == "saving 1/2"


def test_a_teller_without_room_for_figures_is_left_alone():
    show(lambda what, done, total: None, FIGURES)
