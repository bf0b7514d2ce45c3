import io

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.tiles import PANEL, colour_scale, heat, norms, tiles_picture

SCALES = (32, 64, 96)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def halves():
    """Black on the left, white on the right."""
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:, 48:] = 255
    return png(pixels)


def test_norms_are_those_of_the_channels_of_one_scale_at_one_place():
    features = np.zeros((4, 6), np.float32)  # 2 x 2 places, 3 scales of 2 channels
    features[1] = [3, 4, 0, 0, 5, 12]  # top right
    features[2] = [0, 0, 8, 6, 0, 1]  # bottom left
    assert norms(features, 3).tolist() == [[[0, 5], [0, 0]], [[0, 0], [10, 0]], [[0, 13], [1, 0]]]


def test_half_precision_does_not_overflow():
    assert norms(np.full((1, 4), 60000, np.float16), 1).item() == pytest.approx(120_000, rel=1e-3)


@pytest.mark.parametrize(("shape", "scales"), [((3, 6), 3), ((4, 6), 4)])
def test_features_that_make_no_square_are_refused(shape, scales):
    with pytest.raises(ValueError, match="not those of"):
        norms(np.zeros(shape, np.float32), scales)


def test_the_norms_of_the_model_are_in_the_order_of_its_scales():
    import torch

    from medvlm_cli.core.model.standalone import S2ClipVisionConfig, S2ClipVisionModel

    torch.manual_seed(0)
    config = S2ClipVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        s2_scales=SCALES,
    )  # fmt: skip
    model = S2ClipVisionModel(config).eval()
    pixels = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        joined, apart = model.encode(pixels), model._scales(pixels)
    expected = [scale[0].norm(dim=-1).view(4, 4).numpy() for scale in apart]
    np.testing.assert_allclose(norms(joined[0].numpy(), 3), expected, rtol=1e-5)


def test_little_is_darker_than_much_all_along_the_colour_scale():
    grey = np.asarray(Image.fromarray(colour_scale(np.linspace(0, 1, 256))[None]).convert("L")).astype(int)[0]
    assert np.diff(grey).min() >= 0
    assert grey[-1] - grey[0] > 200


def test_heat_is_palest_where_the_field_is_largest():
    field = np.zeros((3, 3))
    field[1, 2] = 7
    seen = np.asarray(heat(Image.new("RGB", (30, 30), "grey"), field).convert("L")).astype(int)
    assert seen[10:20, 20:30].min() > seen[:10].max()
    assert np.unique(seen[:, :20]).size == 1


def test_one_huge_token_does_not_hide_the_others():
    field = np.tile(np.arange(10.0), (10, 1))
    field[0, 0] = 1000
    seen = np.asarray(heat(Image.new("L", (10, 10), 128), field).convert("L")).astype(int)
    assert seen[5, 9] - seen[5, 0] > 100


def test_a_field_of_one_value_is_drawn():
    assert np.unique(np.asarray(heat(Image.new("L", (4, 4)), np.ones((2, 2))))).size == 3  # one colour of three bands


def test_the_tiles_of_each_scale_are_framed_and_lie_side_by_side():
    sheet = np.asarray(tiles_picture(halves(), "x", SCALES, "squash")).astype(int)
    bright = (sheet == (255, 214, 0)).all(-1)
    columns = np.flatnonzero(bright[100:600].mean(0) > 0.9)
    edges = columns[np.diff(columns, prepend=-9) > 1]
    left = edges[0] + (PANEL + 28) * np.arange(3)
    expected = [left[0], left[0] + PANEL, left[1], left[1] + PANEL / 2, left[1] + PANEL, left[2],
                left[2] + PANEL / 3, left[2] + PANEL * 2 / 3, left[2] + PANEL]  # fmt: skip
    np.testing.assert_allclose(edges, expected, atol=3)


def test_each_scale_is_shown_at_its_own_resolution():
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    sheet = np.asarray(tiles_picture(png(noise), "x", SCALES, "squash").convert("L"))
    rows = [sheet[300, left + 10 : left + PANEL - 10] for left in (28, 28 + PANEL + 28, 28 + 2 * (PANEL + 28))]
    steps = [np.count_nonzero(np.diff(row.astype(int))) for row in rows]
    assert steps == sorted(steps)
    assert 25 <= steps[0] <= 32
    assert 85 <= steps[2] <= 105  # and the borders of the tiles


def test_the_norms_make_a_second_row():
    alone = tiles_picture(halves(), "x", SCALES, "squash")
    both = tiles_picture(halves(), "x", SCALES, "squash", np.random.default_rng(0).random((3, 9, 9)))
    assert both.width == alone.width
    assert both.height > alone.height + PANEL
    assert both.crop((0, 0, both.width, 600)) == alone.crop((0, 0, both.width, 600))


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_the_image_is_made_square_as_for_the_model(fit):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (0, 0, 255)
    panel = np.asarray(tiles_picture(png(wide), "x", SCALES, fit))[98 : 98 + PANEL, -PANEL - 28 : -28]
    blue = ((panel[..., 2] > 127) & (panel[..., 0] < 64)).mean()
    assert blue == pytest.approx({"squash": 0.5, "pad": 0.25, "crop": 1.0}[fit], abs=0.1)


def test_a_broken_image_is_an_error_with_its_name():
    with pytest.raises(DataError, match="row 7"):
        tiles_picture(halves()[:60], "row 7", SCALES, "squash")
