"""The twins in plain PyTorch against cases worked by hand."""

import pytest
import torch
import torch.nn.functional as F
from medvlm_kernels import reference
from medvlm_kernels.geometry import Geometry


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


def test_patchify_centres_pixels_and_orders_a_patch_by_channel_row_column_then_zeros():
    geometry = Geometry(2, 2, (1,))
    images = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    patches = reference.patchify(images, geometry, (1, 2, 3), torch.float32)
    assert patches.tolist() == [[[[-1, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 0, 0, 0, 0]]]]


def test_patchify_puts_the_tiles_of_a_figure_together_scale_by_scale_and_row_by_row():
    geometry = Geometry(1, 1, (1, 3))
    images = torch.arange(18, dtype=torch.uint8).view(2, 1, 3, 3).expand(2, 3, 3, 3)
    patches = reference.patchify(images, geometry, (0, 0, 0), torch.float32)
    assert patches.shape == (2, 10, 1, 8)
    assert patches[..., 0, 0].tolist() == [[4, *range(9)], [13, *range(9, 18)]]


@pytest.mark.parametrize("antialias", [False, True])
def test_patchify_holds_the_pixels_of_s2s_tiles(antialias):
    geometry = Geometry(6, 3, (1, 2, 3), antialias)
    images = torch.randint(0, 256, (2, 3, 18, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches = reference.patchify(images, geometry, (123, 117, 104), torch.float64)
    centred = images.double() - torch.tensor([123.0, 117, 104]).view(3, 1, 1)
    tiles = reference.split_scale(centred, 2, 6, antialias).view(4, 2, 3, 2, 3, 2, 3)  # tile, figure, C, S, p, S, p
    expected = tiles.permute(1, 0, 3, 5, 2, 4, 6).reshape(2, 4, 4, 27)
    assert (patches[:, 1:5, :, :27] - expected).abs().max() <= 1e-10


def test_bfloat16_holds_every_centred_pixel_exactly():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    geometry = Geometry(16, 4, (1,))
    rough, exact = (
        reference.patchify(images, geometry, (123, 117, 104), dtype) for dtype in (torch.bfloat16, torch.float64)
    )
    assert torch.equal(rough.double(), exact)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)],
)
def test_patchify_refuses_images_of_another_size_or_type(images):
    with pytest.raises(ValueError, match=r"give \(figures, 3, 4, 4\) torch.uint8"):
        reference.patchify(images, Geometry(2, 2, (1, 2)), (0, 0, 0), torch.float32)


@pytest.mark.parametrize(
    ("tile", "patch", "factors", "message"),
    [
        (378, 16, (1,), "a tile of 378 pixels does not divide into patches of 16"),
        (14, 0, (1,), "does not divide into patches of 0"),
        (14, 14, (), "give for example"),
        (14, 14, (1, 0), "give for example"),
    ],
)
def test_a_geometry_that_does_not_divide_is_refused(tile, patch, factors, message):
    with pytest.raises(ValueError, match=message):
        Geometry(tile, patch, factors)


def test_the_published_geometry_has_14_tiles_of_729_patches():
    geometry = Geometry(378, 14, (1, 2, 3))
    assert (geometry.size, geometry.tiles, geometry.tokens) == (1134, 14, 729)
    assert (geometry.columns, geometry.width) == (588, 592)


def test_normalise_brings_a_row_to_mean_0_and_variance_1_after_its_shift_and_scales_it():
    rows, ones = torch.tensor([[1.0, 2.0, 3.0, 6.0]]), torch.ones(4)
    shifted = reference.normalise(rows, torch.tensor([0.0, 1.0, 2.0, 1.0]), ones, 0 * ones, 0.0)  # 1, 3, 5, 7
    assert torch.allclose(shifted, torch.tensor([[-3.0, -1.0, 1.0, 3.0]]) / 5**0.5)
    scaled = reference.normalise(rows, 0 * ones, torch.tensor([1.0, 2.0, 3.0, 4.0]), 5 * ones, 0.0)
    assert torch.allclose(scaled, torch.tensor([[-2.0, -2.0, 0.0, 12.0]]) / 3.5**0.5 + 5)


def test_a_product_with_quick_gelu_is_that_of_its_definition():
    rows, weight, bias = seeded(3, 5), seeded(4, 5), seeded(4)
    expected = (y := F.linear(rows, weight, bias)) * torch.sigmoid(1.702 * y)
    assert torch.allclose(reference.linear_quick_gelu(rows, weight, bias), expected, atol=1e-6)
    assert torch.equal(reference.quick_gelu(torch.zeros(2)), torch.zeros(2))


def test_a_product_that_adds_leaves_the_residual_as_it_was():
    rows, weight, residual = torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0]])
    assert reference.linear_add(rows, weight, residual).tolist() == [[13.0]]
    assert residual.tolist() == [[10.0]]


def test_attention_with_one_key_far_ahead_copies_its_value():
    qkv = torch.zeros(1, 2, 3, 1, 2)
    qkv[0, :, 0] = 100.0  # both queries
    qkv[0, 1, 1] = 100.0  # the second key
    qkv[0, :, 2, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert reference.attention(qkv).tolist() == [[[3.0, 4.0], [3.0, 4.0]]]


def test_merge_takes_each_tile_from_its_place_and_joins_the_scales_in_channels():
    tiles = torch.arange(6.0).view(6, 1, 1)  # one token and one channel a tile
    places = torch.tensor([[5, 0, 1, 2, 3], [4, 4, 4, 4, 0]])
    merged = reference.merge(tiles, places, (1, 2), torch.tensor([10.0]))
    assert merged.tolist() == [[[15.0, 11.5]], [[14.0, 13.0]]]


def test_merge_is_merge_scale_of_every_scale():
    tiles = seeded(28, 9, 5)
    places = torch.arange(28).view(2, 14)
    first = [reference.merge_scale(tiles[[0, 14]].view(2, 3, 3, 5), 1)]
    others = [
        reference.merge_scale(tiles.view(2, 14, 3, 3, 5)[:, start : start + n].transpose(0, 1).flatten(0, 1), scale)
        for start, n, scale in [(1, 4, 2), (5, 9, 3)]
    ]
    expected = torch.cat(first + others, dim=-1).flatten(1, 2)
    assert torch.equal(reference.merge(tiles, places, (1, 2, 3)), expected)
