"""The twins in plain PyTorch against cases worked by hand."""

import pytest
import torch
import torch.nn.functional as F
from medvlm_kernels import reference


def seeded(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_split_takes_the_top_left_tile_of_every_figure_first_then_the_next_along_the_row():
    first = torch.arange(16.0).view(1, 1, 4, 4)
    tiles = reference.split_scale(torch.cat([first, first + 100]), 2, 2)
    assert tiles[:, 0].flatten(1).tolist() == [
        [0, 1, 4, 5], [100, 101, 104, 105],
        [2, 3, 6, 7], [102, 103, 106, 107],
        [8, 9, 12, 13], [108, 109, 112, 113],
        [10, 11, 14, 15], [110, 111, 114, 115],
    ]  # fmt: skip


def test_split_without_antialias_reads_every_third_pixel():
    images = seeded(2, 3, 12, 12)
    assert torch.equal(reference.split_scale(images, 1, 4), images[..., 1::3, 1::3])


def test_split_with_antialias_sees_a_dot_that_lies_between_the_pixels_it_reads():
    dot = torch.zeros(1, 1, 12, 12)
    dot[..., 0, 0] = 1
    assert reference.split_scale(dot, 1, 4).abs().max() == 0
    assert reference.split_scale(dot, 1, 4, antialias=True).abs().max() > 0.05


def test_split_does_not_touch_pixels_that_have_the_size_already():
    images = seeded(1, 3, 8, 8, dtype=torch.bfloat16)
    whole = reference.split_scale(images, 2, 4).view(2, 2, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(1, 3, 8, 8)
    assert torch.equal(whole, images)


def test_reference_averages_the_patches_that_cover_one_token():
    tiles = torch.arange(16.0).view(4, 2, 2, 1)  # four 2x2 tiles of one figure, scale 2
    assert reference.merge_scale(tiles, 2).view(-1).tolist() == [1.5, 5.5, 9.5, 13.5]


def test_merge_averages_over_the_borders_of_tiles_with_an_odd_side():
    tiles = torch.zeros(4, 3, 3, 1)
    tiles[0, 2, 2] = tiles[1, 2, 0] = tiles[2, 0, 2] = 4.0  # three of the four corners that meet in the middle
    merged = reference.merge_scale(tiles, 2)[0, :, :, 0]
    assert merged.tolist() == [[0, 0, 0], [0, 3, 0], [0, 0, 0]]


@pytest.mark.parametrize(("scale", "side", "channels"), [(1, 4, 8), (2, 3, 5), (3, 1, 1), (3, 27, 2)])
def test_merge_is_area_interpolation_of_the_sewn_tiles(scale, side, channels):
    tiles = seeded(2 * scale * scale, side, side, channels)
    rows = [torch.cat([tiles[2 * (scale * row + column) :][:2] for column in range(scale)], 2) for row in range(scale)]
    whole = torch.cat(rows, 1).permute(0, 3, 1, 2)
    expected = F.interpolate(whole, size=(side, side), mode="area").permute(0, 2, 3, 1)
    assert (reference.merge_scale(tiles, scale) - expected).abs().max() <= 1e-6


def test_merge_takes_the_mean_of_bfloat16_in_float32():
    tiles = seeded(9, 5, 5, 7, dtype=torch.bfloat16)
    expected = reference.merge_scale(tiles.double(), 3).to(torch.bfloat16)
    assert reference.merge_scale(tiles, 3).dtype == torch.bfloat16
    assert torch.equal(reference.merge_scale(tiles, 3), expected)


def test_merge_refuses_tiles_that_make_no_whole_figure():
    with pytest.raises(ValueError, match="5 tiles do not make whole figures at scale 2: give a multiple of 4"):
        reference.merge_scale(torch.zeros(5, 2, 2, 1), 2)
