import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvlm_cli.core.images import decode
from medvlm_cli.sources.greyscale import by_table, full_range, png, windowed
from tests.plugins.scan_cases import one, refused, seen

DEEP = np.array([[100, 1000], [2000, 4095]], np.uint16)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        tifffile.imwrite(path, values)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_deep_greyscale_keeps_its_bytes_and_its_range_is_recorded(tmp_path, name):
    path = save(tmp_path / name, DEEP)
    row = one(tmp_path, path)
    assert (row["window_center"], row["window_width"]) == (2098.0, 3996.0)
    assert (row["image"]["bytes"], row["image"]["path"]) == (path.read_bytes(), name)
    expected = windowed(DEEP, (2098.0, 3996.0))
    np.testing.assert_array_equal(np.asarray(decode(row["image"]["bytes"], "x"))[..., 0], expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_window_makes_deep_greyscale_a_png(tmp_path, name):
    row = one(tmp_path, save(tmp_path / name, DEEP), window="1000,2001")
    assert (row["window_center"], row["window_width"], row["image"]["path"]) == (1000, 2001, "a.png")
    np.testing.assert_array_equal(seen(row), np.rint(np.clip((DEEP - 999.5) / 2000 + 0.5, 0, 1) * 255))


def test_the_window_of_the_row_is_taken(tmp_path):
    assert one(tmp_path, save(tmp_path / "a.png", DEEP), columns={"window": "7,8"})["window_center"] == 7


def test_a_window_by_name_is_for_what_looks_like_ct(tmp_path):
    scan = save(tmp_path / "1/a.tif", np.array([[-1000, 0], [40, 900]], np.int16))
    other = save(tmp_path / "2/a.tif", DEEP)
    assert one(scan.parent, scan, window="lung")["window_center"] == -600
    assert one(other.parent, other, window="lung")["window_center"] == 2098


def test_floats_with_gaps_are_shown(tmp_path):
    values = np.array([[0.0, 0.25], [np.nan, 1.0]], np.float32)
    row = one(tmp_path, save(tmp_path / "a.tif", values))
    assert (row["window_center"], row["window_width"]) == (1.0, 2.0)


@pytest.mark.parametrize("window", ["lung,", "40", "40,0", "nan,4", "x"])
def test_what_is_no_window_is_refused(tmp_path, window):
    reason, message = refused(tmp_path, save(tmp_path / "a.png", DEEP), columns={"window": window})
    assert (reason, "column 'window': give center,width" in message) == ("bad_row", True)


def test_eight_bits_have_no_window(tmp_path):
    row = one(tmp_path, save(tmp_path / "a.png", DEEP.astype(np.uint8)), window="40,400", columns={"window": "north"})
    assert (row["window_center"], row["image"]["bytes"]) == (None, (tmp_path / "a.png").read_bytes())


def test_a_range_maps_its_ends_to_black_and_white():
    values = np.array([-3.5, 0.0, 7.25])
    assert windowed(values, full_range(values)).tolist()[::2] == [0, 255]


def test_a_table_gives_what_the_values_themselves_give():
    values = np.random.default_rng(0).integers(-2000, 2000, (70, 80)).astype(np.int16)
    np.testing.assert_array_equal(by_table(values, lambda part: windowed(part, (40, 400))), windowed(values, (40, 400)))


def test_the_same_pixels_are_the_same_png_and_hold_nothing_else():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert png(pixels) == png(pixels.copy())
    image = Image.open(io.BytesIO(png(pixels)))
    assert (image.mode, image.info) == ("L", {})
