import time

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.sources.looks import looks_like
from tests.plugins.drawn import bar_chart, grid, line_chart, photograph, scan

PINK = (1.0, 0.55, 0.8)


@pytest.mark.parametrize("name", ["chest_xray", "ct", "mri", "xray", "ultrasound", "angiography"])
def test_grey_scans_look_like_radiology_and_pink_ones_do_not(name):
    assert looks_like(scan(), name)
    assert looks_like(photograph(tint=(1.0, 0.98, 0.97)), name)
    assert not looks_like(photograph(tint=PINK), name)


@pytest.mark.parametrize(
    "image", [line_chart(), bar_chart(), Image.new("RGB", (600, 455), "white"), Image.new("L", (1, 1))]
)
def test_charts_and_blank_sheets_look_like_no_scan_and_no_section(image):
    assert [looks_like(image, name) for name in ("ct", "chest_xray", "histology", "gross")] == [False] * 4


def test_histology_is_colourful():
    assert looks_like(photograph(tint=PINK), "histology")
    assert not looks_like(photograph(), "histology")


def test_a_section_on_white_paper_still_looks_like_one():
    sheet = Image.new("RGB", (600, 455), "white")
    sheet.paste(photograph(400, 400, tint=PINK), (100, 30))
    assert looks_like(sheet, "histology")


@pytest.mark.parametrize("name", ["unknown", "pet", "fluorescence", "electron", "no such thing"])
def test_of_other_modalities_nothing_is_claimed(name):
    assert not looks_like(scan(), name)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I", "F", "I;16"])
def test_scans_of_every_mode_are_read(mode):
    grey = photograph().convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 16) if mode == "I;16" else None
    assert looks_like(wide or grey.convert(mode), "ct")


def test_what_is_transparent_is_paper():
    scanned = photograph().convert("L")
    assert not looks_like(Image.merge("LA", (scanned, Image.new("L", scanned.size, 0))), "ct")


def test_a_small_scan_on_a_sheet_of_paper_is_not_believed():
    sheet = Image.new("RGB", (600, 455), "white")
    sheet.paste(photograph(300, 300), (20, 20))
    assert not looks_like(sheet, "ct")


def test_a_large_image_takes_no_longer_than_a_small_one():
    """Measured: 0.4 ms; the bound leaves room for a busy machine."""
    image = grid(2, 2, "black", size=(3000, 2000))
    times = []
    for _ in range(10):
        start = time.process_time()
        looks_like(image, "ct")
        times.append(time.process_time() - start)
    assert min(times) < 0.005
