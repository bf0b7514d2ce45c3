import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from medvlm_cli.sources.panels import MOST_PANELS, n_panels_image
from tests.plugins.drawn import bar_chart, grid, line_chart, photograph, scan, two_charts


@pytest.mark.parametrize("gutter", ["white", "black"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (3, 2), (3, 4)])
def test_photographs_between_gutters_are_counted(rows, columns, gutter):
    assert n_panels_image(grid(rows, columns, gutter)) == rows * columns


def test_unequal_panels_are_counted():
    sheet = Image.new("RGB", (600, 455), "white")
    for height, width, where in ((455, 300, (0, 0)), (220, 290, (310, 0)), (225, 290, (310, 230))):
        sheet.paste(photograph(height, width, seed=width + height), where)
    assert n_panels_image(sheet) == 3


def test_letters_above_the_panels_belong_to_the_gutter():
    sheet = Image.new("RGB", (600, 455), "white")
    for column in (0, 1):
        sheet.paste(photograph(400, 295, seed=column), (305 * column, 40))
        ImageDraw.Draw(sheet).text((305 * column + 4, 8), "AB"[column], fill="black", font_size=24)
    assert n_panels_image(sheet) == 2


def test_gutters_survive_jpeg_and_enlargement(tmp_path):
    grid(2, 2, "white", gap=20, size=(2400, 1800)).save(tmp_path / "a.jpg", quality=70)
    assert n_panels_image(Image.open(tmp_path / "a.jpg")) == 4


@pytest.mark.parametrize(
    "image",
    [
        line_chart(),
        bar_chart(2),
        bar_chart(3),
        two_charts(),
        scan(),
        scan(((150, 227), (450, 227))),
        Image.new("RGB", (600, 455), "white"),
        Image.new("RGB", (600, 455), "black"),
        Image.new("L", (1, 1)),
        Image.new("RGB", (3000, 2)),
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (455, 600, 3), dtype=np.uint8)),
    ],
    ids=["lines", "bars2", "bars3", "charts", "scan", "legs", "white", "black", "dot", "strip", "noise"],
)
def test_charts_scans_noise_and_blank_sheets_are_one(image):
    assert n_panels_image(image) == 1


def test_a_scale_beside_a_photograph_is_no_panel():
    sheet = Image.new("RGB", (600, 455), "white")
    sheet.paste(photograph(455, 450), (0, 0))
    sheet.paste(photograph(455, 140, seed=1), (460, 0))
    assert n_panels_image(sheet) == 1


def test_two_framed_plots_of_many_shades_are_one():
    sheet = Image.new("RGB", (600, 455), "white")
    draw = ImageDraw.Draw(sheet)
    for column in (0, 1):
        draw.rectangle([305 * column, 0, 305 * column + 294, 454], outline="black", width=6)
        for dot in range(60):
            x, y = 305 * column + 20 + (dot * 37) % 250, 20 + (dot * 53) % 400
            draw.rectangle([x, y, x + 14, y + 14], fill=(dot % 8 * 30,) * 3)
    assert n_panels_image(sheet) == 1


def test_dust_on_paper_is_no_panel():
    grey = np.full((400, 400), 255, dtype=np.uint8)
    rows = np.r_[0:150, 250:400]
    for dot in range(8):
        grey[rows, (rows * 37 + dot * 50) % 400] = 0
    assert n_panels_image(Image.fromarray(grey)) == 1


def test_a_photograph_in_a_white_margin_is_one():
    sheet = Image.new("RGB", (600, 455), "white")
    sheet.paste(photograph(300, 400), (100, 70))
    assert n_panels_image(sheet) == 1


def test_panels_smaller_than_128_pixels_or_more_than_12_are_not_counted():
    assert n_panels_image(grid(1, 5, "white")) == 1
    assert n_panels_image(grid(4, 4, "white", size=(1600, 1600))) == MOST_PANELS


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I", "F", "I;16"])
def test_every_mode_is_read(mode):
    image = grid(1, 2, "white")
    wide = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200) if mode == "I;16" else None
    assert n_panels_image(wide or (image.convert("L") if mode in "IF" else image).convert(mode)) == 2


def test_an_image_of_common_size_takes_a_few_milliseconds_at_most():
    """Measured: 0.5 ms for one panel, 1.5 ms for six; the bound leaves room for a busy machine."""
    image = grid(3, 2, "white")
    times = []
    for _ in range(10):
        start = time.process_time()
        n_panels_image(image)
        times.append(time.process_time() - start)
    assert min(times) < 0.01
