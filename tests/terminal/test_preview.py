"""Images in the terminal: what is chosen, and that what is sent decodes to the image."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.terminal.preview import COLUMNS, fitted, kitty, preview, sixel, way_to_show
from tests.terminal.screens import console

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def sixel_pixels(code):
    """The colour number of each pixel of a sixel picture, and the colours; -1 where nothing was drawn."""
    width, height, body = re.fullmatch(r'\x1bP0;1;0q"1;1;(\d+);(\d+)(.*)\x1b\\', code, re.DOTALL).groups()
    colours = {int(c): tuple(map(int, rgb)) for c, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", body)}
    drawn = np.full((int(height) + 6, int(width)), -1)
    for band, row in enumerate(re.sub(r"#\d+;2;\d+;\d+;\d+", "", body).split("-")):
        for part in row.split("$"):
            number, data = re.fullmatch(r"#(\d+)(.*)", part).groups()
            column = 0
            for count, sign in re.findall(r"(?:!(\d+))?([?-~])", data):
                for _ in range(int(count or 1)):
                    bits = [bit for bit in range(6) if (ord(sign) - 63) >> bit & 1]
                    drawn[[6 * band + bit for bit in bits], column] = int(number)
                    column += 1
    return drawn[: int(height)], colours


def test_a_sixel_picture_decodes_to_the_pixels_of_the_image():
    image = Image.fromarray(np.kron(np.eye(4, dtype=np.uint8) * 200, np.ones((8, 8), np.uint8))).convert("RGB")
    drawn, colours = sixel_pixels(sixel(image, 32, 32))
    shares = np.array([colours[number][0] for number in drawn.ravel().tolist()]).reshape(32, 32)
    assert np.abs(shares * 2.55 - np.asarray(image)[..., 0]).max() <= 2


def test_a_sixel_picture_of_any_height_is_whole():
    drawn, colours = sixel_pixels(sixel(PICTURE, 31, 17))
    assert drawn.shape == (17, 31)
    assert drawn.min() >= 0
    assert len(colours) <= 256


def test_a_kitty_picture_is_a_png_in_chunks_that_no_terminal_answers():
    code = kitty(PICTURE.resize((900, 600)), 48, 16)
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", code)
    assert "".join(f"\x1b_G{keys};{text}\x1b\\" for keys, text in chunks) == code
    assert chunks[0][0] == "a=T,f=100,q=2,c=48,r=16,m=1"
    assert {keys for keys, _ in chunks[1:-1]} == {"m=1"}
    assert chunks[-1][0] == "m=0"
    assert max(len(text) for _, text in chunks) == 4096
    image = Image.open(io.BytesIO(base64.b64decode("".join(text for _, text in chunks))))
    assert image.format == "PNG"
    assert image.size == (900, 600)


def test_half_blocks_show_two_pixels_a_character():
    image = Image.new("RGB", (2, 4))
    image.putdata([(255, 0, 0)] * 4 + [(0, 0, 255)] * 4)
    screen = console(width=3, height=9, color_system="truecolor")
    preview(image, "half", screen)
    cell = "\x1b[38;2;{0};48;2;{0}m\u2580\x1b[0m"
    assert screen.file.getvalue() == (cell.format("255;0;0") * 2 + "\n" + cell.format("0;0;255") * 2 + "\n")


def test_a_preview_fits_the_terminal_and_keeps_its_shape():
    assert fitted((100, 100), 40, 40) == (40, 20)
    assert fitted((100, 1000), 40, 20) == (4, 20)
    assert fitted((5000, 1), 40, 20) == (40, 1)
    screen = console(width=200, height=60)
    preview(PICTURE, "half", screen)
    assert screen.file.getvalue().split("\n")[0].count("\u2580") == COLUMNS


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "kitty"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "mlterm-256color"}, "sixel"),
        ({"TERM": "xterm-256color"}, "half"),
        ({"TERM": "xterm-kitty", "TMUX": "/s"}, "half"),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "WezTerm"}, "half"),
        ({}, "half"),
    ],
)
def test_auto_goes_by_what_the_terminal_says_of_itself(environment, way):
    assert way_to_show("auto", console(), environment) == way


def test_off_a_terminal_and_without_colours_nothing_is_shown(monkeypatch):
    plain = console(force_terminal=False, color_system=None)
    assert way_to_show("kitty", plain, {"TERM": "xterm-kitty"}) == "none"
    assert way_to_show("auto", console(no_color=True), {"TERM": "xterm"}) == "none"
    monkeypatch.setenv("TERM", "dumb")
    assert way_to_show("half", console(), {"TERM": "dumb"}) == "none"


def test_an_unknown_way_is_refused():
    with pytest.raises(ConfigError, match="--preview sxel"):
        way_to_show("sxel", console(), {})
