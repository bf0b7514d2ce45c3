"""The three-scale tower against an S2 composition written from its published definition, and its promises."""

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPVisionModel

from medvlm_cli.core.model import three_scale
from medvlm_cli.core.model.three_scale import S2ClipVisionConfig, S2ClipVisionModel
from medvlm_cli.core.model.towers import load_tower

SCALES = (32, 64, 96)


def pixels(figures, size, seed=0):
    return torch.randint(
        0, 256, (figures, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def normalised(images, config):
    mean, std = torch.tensor(config.image_mean), torch.tensor(config.image_std)
    return (images / 255 - mean[:, None, None]) / std[:, None, None]


def penultimate(clip, images):
    """Patch tokens of the second last block on their grid, ``(B, C, side, side)``."""
    tokens = clip(images, output_hidden_states=True).hidden_states[-2][:, 1:]
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def composed(clip, images, scales):
    """S2, Shi et al. 2024, arXiv:2403.13043: each scale interpolated, split, encoded, merged, pooled, then joined."""
    base, outputs = scales[0], []
    for scale in scales:
        resized = F.interpolate(images.float(), size=(scale, scale), mode="bicubic")
        cuts = range(0, scale, base)
        rows = [[penultimate(clip, resized[..., top:, left:][..., :base, :base]) for left in cuts] for top in cuts]
        whole = torch.cat([torch.cat(row, dim=3) for row in rows], dim=2)
        side = whole.shape[-1] * base // scale
        outputs.append(F.interpolate(whole, size=(side, side), mode="area"))
    return torch.cat(outputs, dim=1).flatten(2).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("figures", "scales"), [(1, SCALES), (3, SCALES), (2, (32, 96)), (2, (32,)), (1, (32, 64, 128))]
)
def test_features_are_those_of_the_published_composition(tiny_tower, figures, scales):
    tower, clip = load_tower(tiny_tower, scales), CLIPVisionModel.from_pretrained(tiny_tower)
    images = normalised(pixels(figures, max(scales)), tower.config)
    expected = composed(clip, images, scales)
    assert expected.std() > 0.1
    assert (tower.encode(images) - expected).abs().max() / expected.abs().max() <= 2e-6


@torch.no_grad()
def test_features_are_exact_where_tokens_straddle_tiles():
    torch.manual_seed(0)
    config = S2ClipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8,
        s2_scales=(24, 48, 72),
    )  # fmt: skip
    tower = S2ClipVisionModel(config)  # 3 x 3 patches a tile: at scale 2 the middle token takes from four tiles
    images = normalised(pixels(2, 72), config)
    assert (tower.encode(images) - composed(tower.clip, images, (24, 48, 72))).abs().max() <= 2e-6


def test_bytes_are_normalised_by_the_tower(tiny_tower):
    tower = load_tower(tiny_tower, SCALES)
    images = pixels(2, 96)
    assert (tower.encode(images) - tower.encode(normalised(images, tower.config))).abs().max() <= 1e-5


def test_the_hidden_states_are_one_a_scale_in_their_order(tiny_tower):
    tower, images = load_tower(tiny_tower, SCALES), pixels(2, 96)
    states = tower(images, output_hidden_states=[-3, -2, -1], return_dict=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 16, 64)] * 3
    assert torch.equal(torch.cat(states, -1), tower.encode(images))
    assert torch.equal(
        states[0], load_tower(tiny_tower, (32,)).encode(normalised(images, tower.config)[..., 1::3, 1::3])
    )


def test_tiles_in_several_calls_give_the_features_of_one_call(tiny_tower, monkeypatch):
    tower, images = load_tower(tiny_tower, SCALES), pixels(3, 96)
    together = tower.encode(images)
    monkeypatch.setattr(three_scale, "TILES_PER_CALL", 5)
    assert (tower.encode(images) - together).abs().max() <= 1e-5


def test_figures_of_a_batch_do_not_mix(tiny_tower):
    tower, images = load_tower(tiny_tower, SCALES), pixels(3, 96)
    assert (tower.encode(images)[1] - tower.encode(images[1:2])[0]).abs().max() <= 1e-5


def test_antialias_changes_the_smaller_scales_and_leaves_the_largest(tiny_tower):
    images = pixels(1, 96)
    plain = load_tower(tiny_tower, SCALES).encode(images)
    smooth = load_tower(tiny_tower, SCALES, antialias=True).encode(images)
    assert (plain - smooth)[..., :64].abs().max() > 0.1
    assert torch.equal(plain[..., 128:], smooth[..., 128:])


def test_the_last_block_is_not_run(tiny_tower):
    tower, images = load_tower(tiny_tower, SCALES), pixels(1, 96)
    before = tower.encode(images)
    tower.clip.encoder.layers[-1].mlp.fc1.weight.data.fill_(float("nan"))
    assert torch.equal(tower.encode(images), before)


def test_the_tower_stays_frozen_and_in_evaluation_mode(tiny_tower, tmp_path):
    load_tower(tiny_tower, SCALES).save_pretrained(tmp_path)
    tower = S2ClipVisionModel.from_pretrained(tmp_path).train()
    assert not any(module.training for module in tower.modules())
    assert not any(weight.requires_grad for weight in tower.parameters())
    images = normalised(pixels(1, 96), tower.config).requires_grad_()
    assert not tower.encode(images).requires_grad


def test_bfloat16_weights_give_bfloat16_features_near_those_of_float32(tiny_tower):
    tower, images = load_tower(tiny_tower, SCALES), pixels(1, 96)
    exact, rough = tower.encode(images), tower.to(torch.bfloat16).encode(images)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() / exact.norm() <= 0.03


@pytest.mark.parametrize(
    ("size", "patch", "scales", "message"),
    [
        (32, 8, (64,), "do not fit a tower of 32 pixels"),
        (32, 8, (32, 48), "do not fit a tower of 32 pixels"),
        (32, 8, (), "do not fit a tower of 32 pixels"),
        (32, 7, (32,), "a tile of 32 pixels does not divide into patches of 7"),
    ],
)
def test_a_config_whose_tiles_do_not_fill_the_scales_is_refused(size, patch, scales, message):
    with pytest.raises(Exception, match=message):
        S2ClipVisionConfig(image_size=size, patch_size=patch, s2_scales=scales)
