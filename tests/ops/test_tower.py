"""The fused tower: the bits of a figure are its own, and each different tile goes through the blocks once."""

import pytest
import torch
from medvlm_kernels.fold import fold
from medvlm_kernels.geometry import Geometry
from medvlm_kernels.tower import COLOURS, FusedTower

from tests.ops.towers import MEAN, STD, random_clip

GEOMETRY = Geometry(24, 8, (1, 2, 3))
CPU = torch.device("cpu")


def tower(dtype=torch.float32, geometry=GEOMETRY, **more):
    clip = random_clip(24, 8)
    config = clip.config
    weights = fold(
        clip.state_dict(), heads=config.num_attention_heads, eps=config.layer_norm_eps, mean=MEAN, std=STD,
        geometry=geometry, dtype=dtype,
    )  # fmt: skip
    return FusedTower(weights, geometry, CPU, **more)


def figures(count, size=72, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile_batch", [None, 1, 5])
def test_no_bit_depends_on_the_batch_or_on_the_order(dtype, tile_batch):
    images = figures(5)
    together = tower(dtype, tile_batch=tile_batch).encode(images)
    alone = torch.cat([tower(dtype, tile_batch=tile_batch).encode(image[None]) for image in images])
    reverse = tower(dtype, tile_batch=tile_batch).encode(images.flip(0)).flip(0)
    assert together.float().std() > 0.1
    assert torch.equal(together, alone)
    assert torch.equal(together, reverse)


def test_figures_in_several_groups_give_the_bits_of_one_group(monkeypatch):
    images = figures(5)
    together = tower().encode(images)
    monkeypatch.setattr("medvlm_kernels.tower.GROUP_BYTES", 1)
    assert torch.equal(tower().encode(images), together)


def test_each_different_tile_is_encoded_once():
    image = figures(1)
    one = tower()
    twice = one.encode(image.repeat(2, 1, 1, 1))
    assert one.encoded == GEOMETRY.tiles
    assert torch.equal(twice[0], twice[1])


def test_equal_tiles_get_the_bits_that_they_get_alone():
    image = figures(1)
    image[:, :, :24, :24] = image[:, :, 24:48, 24:48] = figures(1, 24, seed=1)
    other = image.clone()
    other[:, :, :24, :24] += 1  # no tile of the largest scale is there twice
    one = tower()
    found = one.encode(torch.cat([image, other]))
    assert one.encoded == 13 + 3  # of the other: the tile that differs at scales 1, 2 and 3
    assert torch.equal(found[0], tower().encode(image)[0])
    assert torch.equal(found[1], tower().encode(other)[0])


def test_a_pad_is_encoded_once_a_model_and_gives_the_bits_it_would_give_anew():
    images = torch.empty(2, 3, 72, 72, dtype=torch.uint8)
    images[:] = torch.tensor([122, 116, 104])[:, None, None]  # the pad colour of CLIP's mean
    images[:, :, 24:48] = figures(2)[:, :, 24:48]  # 3:1, in the middle
    one = tower()
    first, second = one.encode(images[:1]), one.encode(images[1:])
    assert one.encoded == 9 + 8  # 14 tiles: 6 are pads of one colour, known by the second figure
    assert torch.equal(first[0], tower().encode(images[:1])[0])
    assert torch.equal(second[0], tower().encode(images[1:])[0])


def test_more_colours_than_are_kept_are_encoded_again_and_nothing_is_lost():
    levels = torch.arange(COLOURS + 8, dtype=torch.uint8)[:, None, None, None]
    images = levels.expand(-1, 3, 72, 72)
    one = tower()
    first, again = one.encode(images), one.encode(images)
    assert torch.equal(first, again)
    assert one.encoded == COLOURS + 8 + 8


def test_a_permuted_image_needs_no_copy_to_be_read_right():
    image = figures(1)
    rows = image.permute(0, 2, 3, 1).contiguous()  # as image files are decoded
    assert torch.equal(tower().encode(rows.permute(0, 3, 1, 2)), tower().encode(image))


def test_no_figures_give_no_features():
    assert tower().encode(figures(0)).shape == (0, 9, 96)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"give \(figures, 3, 72, 72\) torch.uint8"):
        tower().encode(figures(1, 71))


def test_autocast_around_it_changes_nothing():
    images = figures(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = tower().encode(images)
    assert torch.equal(inside, tower().encode(images))


def test_features_can_be_trained_on():
    features = tower().encode(figures(1))
    weight = torch.ones(96, requires_grad=True)
    (features * weight).sum().backward()
    assert torch.allclose(weight.grad, features.sum((0, 1)))
