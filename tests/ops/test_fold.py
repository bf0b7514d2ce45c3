"""Folded weights: the same tower, by algebra."""

import pytest
import torch
from medvlm_kernels import reference
from medvlm_kernels.fold import fold
from medvlm_kernels.geometry import Geometry
from transformers import CLIPVisionModel

from tests.ops.towers import MEAN, STD, random_clip

GEOMETRY = Geometry(24, 8, (1, 2, 3))


def folded(clip, dtype=torch.float64, geometry=GEOMETRY):
    config = clip.config
    return fold(
        clip.state_dict(), heads=config.num_attention_heads, eps=config.layer_norm_eps, mean=MEAN, std=STD,
        geometry=geometry, dtype=dtype,
    )  # fmt: skip


def norm(hidden, shift, norm):
    return reference.normalise(hidden, shift, norm.weight, norm.bias, 1e-5)


def run(weights, patches):
    """The blocks by the twins alone; ``patches`` ``(U, T, W)``."""
    tiles = len(patches)
    rows = torch.nn.functional.pad(patches, (0, 0, 1, 0)).flatten(0, 1)
    hidden = reference.linear_add(rows, weights.patch_weight, weights.positions.repeat(tiles, 1))
    shift = torch.zeros_like(weights.first.bias)
    hidden = norm(hidden, shift, weights.first)
    for block in weights.blocks:
        qkv = norm(hidden, shift, block.before) @ block.qkv_weight.T + block.qkv_bias
        seen = reference.attention(qkv.view(tiles, -1, 3, weights.heads, qkv.shape[-1] // 3 // weights.heads))
        hidden, shift = reference.linear_add(seen.flatten(0, 1), block.out_weight, hidden), shift + block.out_bias
        inner = reference.linear_quick_gelu(norm(hidden, shift, block.between), block.up_weight, block.up_bias)
        hidden, shift = reference.linear_add(inner, block.down_weight, hidden), shift + block.down_bias
    return (hidden + shift).view(tiles, -1, hidden.shape[-1])[:, 1:]


@torch.no_grad()
def test_folded_weights_give_the_hidden_states_of_the_model_in_float64():
    clip = random_clip(24, 8).double()
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    geometry, weights = Geometry(24, 8, (1,)), folded(clip)
    patches = reference.patchify(images, geometry, weights.centre, torch.float64)[:, 0]
    found = run(weights, patches)
    assert (found - expected).norm() / expected.norm() <= 1e-6  # mean and std above are float32


def test_the_last_block_and_what_follows_are_left_out():
    assert len(folded(random_clip(24, 8)).blocks) == random_clip(24, 8).config.num_hidden_layers - 1


def test_the_centre_is_the_mean_as_whole_grey_levels():
    assert folded(random_clip(24, 8)).centre == (123, 117, 104)


def test_weights_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"patches \(3, 8, 8\) and 10 tokens, not of \(3, 8, 8\) and 17"):
        folded(random_clip(24, 8), geometry=Geometry(32, 8, (1,)))


def test_weights_move_whole():
    weights = folded(random_clip(24, 8)).to(torch.device("meta"))
    assert {block.up_weight.device.type for block in weights.blocks} == {"meta"}
    assert weights.positions.is_meta
    assert weights.blocks[0].before.bias.is_meta
    assert weights.heads == 2


def test_random_clip_is_a_stock_clip():
    assert type(random_clip(24, 8)) is CLIPVisionModel
