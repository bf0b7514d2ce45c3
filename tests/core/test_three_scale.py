"""The three-scale tower against an S2 composition written from its published definition, and its promises.

Both paths are held against it: ``fused``, which bytes take, and ``reference``.
"""

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPVisionModel

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.model import standalone
from medvlm_cli.core.model.three_scale import S2ClipVisionConfig, S2ClipVisionModel
from medvlm_cli.core.model.towers import load_tower
from tests.ops.towers import random_clip

SCALES = (32, 64, 96)


@pytest.fixture(params=["fused", "reference"])
def path(request, monkeypatch):
    """Sends bytes along one path, and says which."""
    monkeypatch.setenv("MEDVLM_KERNELS", "on" if request.param == "fused" else "off")
    return request.param


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
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        resized = F.interpolate(wide, size=(scale, scale), mode="bicubic").to(images.dtype)
        cuts = range(0, scale, base)
        rows = [[penultimate(clip, resized[..., top:, left:][..., :base, :base]) for left in cuts] for top in cuts]
        whole = torch.cat([torch.cat(row, dim=3) for row in rows], dim=2)
        side = whole.shape[-1] * base // scale
        outputs.append(F.interpolate(whole, size=(side, side), mode="area"))
    return torch.cat(outputs, dim=1).flatten(2).transpose(1, 2)


def wide_tower(size, patch, scales):
    """A tower of some width with random weights as large as trained ones."""
    clip = random_clip(size, patch, width=160, layers=6)
    settings = {key: value for key, value in clip.config.to_dict().items() if key != "model_type"}
    tower = S2ClipVisionModel(S2ClipVisionConfig(**settings, s2_scales=scales))
    tower.clip.load_state_dict(clip.state_dict())
    return tower


@torch.no_grad()
@pytest.mark.parametrize(
    ("figures", "scales"), [(1, SCALES), (3, SCALES), (2, (32, 96)), (2, (32,)), (1, (32, 64, 128))]
)
def test_features_are_those_of_the_published_composition(tiny_tower, figures, scales, path):
    tower, clip = load_tower(tiny_tower, scales), CLIPVisionModel.from_pretrained(tiny_tower)
    images = pixels(figures, max(scales))
    assert tower.path(images) == path
    expected = composed(clip, normalised(images, tower.config), scales)
    assert expected.std() > 0.1
    found = tower.encode(images)
    assert (found - expected).norm() / expected.norm() <= 2e-6
    assert (found - expected).abs().max() / expected.abs().max() <= 2e-6


@torch.no_grad()
def test_features_are_exact_where_tokens_straddle_tiles(path):
    tower = wide_tower(24, 8, (24, 48, 72))  # 3 x 3 patches a tile: at scale 2 the middle token takes from four tiles
    images = pixels(2, 72)
    expected = composed(tower.clip, normalised(images, tower.config), (24, 48, 72))
    assert (tower.encode(images) - expected).norm() / expected.norm() <= 2e-6


@torch.no_grad()
def test_bfloat16_errs_no_more_than_the_published_composition_in_bfloat16():
    tower, images = wide_tower(112, 14, (112, 224, 336)), pixels(2, 336)
    clip = tower.clip
    clip.to(torch.bfloat16).double()  # all start from the same, rounded weights
    truth = composed(clip, normalised(images.double(), tower.config), tower.config.s2_scales)
    floats = normalised(images, tower.config).to(torch.bfloat16)
    naive = composed(clip.to(torch.bfloat16), floats, tower.config.s2_scales)
    assert tower.path(images) == "fused"
    ours, theirs = ((found - truth).norm() / truth.norm() for found in (tower.encode(images), naive))
    assert 1e-3 < theirs < 0.1
    assert ours <= 1.05 * theirs


def test_bytes_are_normalised_by_the_tower(tiny_tower):
    tower = load_tower(tiny_tower, SCALES)
    images, floats = pixels(2, 96), normalised(pixels(2, 96), tower.config)
    assert (tower.path(images), tower.path(floats)) == ("fused", "reference")
    assert (tower.encode(images) - tower.encode(floats)).abs().max() <= 1e-5


def test_the_hidden_states_are_one_a_scale_in_their_order(tiny_tower, path):
    tower, images = load_tower(tiny_tower, SCALES), pixels(2, 96)
    states = tower(images, output_hidden_states=[-3, -2, -1], return_dict=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 16, 64)] * 3
    assert torch.equal(torch.cat(states, -1), tower.encode(images))
    smallest = load_tower(tiny_tower, (32,)).encode(images[..., 1::3, 1::3])
    assert torch.allclose(states[0], smallest, atol=1e-5)


def test_tiles_in_several_calls_give_the_features_of_one_call(tiny_tower, monkeypatch):
    tower, images = load_tower(tiny_tower, SCALES), normalised(pixels(3, 96), load_tower(tiny_tower, SCALES).config)
    together = tower.encode(images)
    monkeypatch.setattr(standalone, "TILES_PER_CALL", 5)
    assert (tower.encode(images) - together).abs().max() <= 1e-5


def test_figures_of_a_batch_do_not_mix(tiny_tower, path):
    tower, images = load_tower(tiny_tower, SCALES), pixels(3, 96)
    assert (tower.encode(images)[1] - tower.encode(images[1:2])[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_give_the_same_bits_in_any_batch(tiny_tower, dtype):
    tower, images = load_tower(tiny_tower, SCALES).to(dtype), pixels(7, 96)
    together = tower.encode(images)
    alone = torch.cat([load_tower(tiny_tower, SCALES).to(dtype).encode(image[None]) for image in images.flip(0)])
    assert torch.equal(together, alone.flip(0))


def test_antialias_changes_the_smaller_scales_and_leaves_the_largest(tiny_tower, path):
    images = pixels(1, 96)
    plain = load_tower(tiny_tower, SCALES).encode(images)
    smooth = load_tower(tiny_tower, SCALES, antialias=True).encode(images)
    assert (plain - smooth)[..., :64].abs().max() > 0.1
    assert torch.equal(plain[..., 128:], smooth[..., 128:])


@torch.no_grad()
def test_the_last_block_is_not_run(tiny_tower, path):
    tower, images = load_tower(tiny_tower, SCALES), pixels(1, 96)
    before = tower.encode(images)
    tower.clip.encoder.layers[-1].mlp.fc1.weight.fill_(float("nan"))
    assert torch.equal(tower.encode(images), before)


@torch.no_grad()
def test_weights_that_change_are_folded_again(tiny_tower):
    tower, images = load_tower(tiny_tower, SCALES), pixels(1, 96)
    before = tower.encode(images)
    tower.clip.encoder.layers[0].mlp.fc1.weight.mul_(2)
    changed = tower.encode(images)
    tower.load_state_dict(load_tower(tiny_tower, SCALES).state_dict())
    assert not torch.allclose(changed, before)
    assert torch.equal(tower.encode(images), before)


def test_weights_are_folded_once(tiny_tower):
    tower, images = load_tower(tiny_tower, SCALES), pixels(2, 96)
    tower.encode(images[:1])
    first = tower._fused
    tower.encode(images[1:])
    assert tower._fused is first


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_a_tower_without_quick_gelu_takes_the_reference_path(activation):
    tower = wide_tower(24, 8, (24, 48))
    tower.config.hidden_act = activation
    assert tower.path(pixels(1, 48)) == "reference"


@pytest.mark.parametrize("part", ["patch_embedding", "position_embedding"])
def test_weights_that_are_spread_over_ranks_take_the_reference_path(tiny_tower, part):
    tower = load_tower(tiny_tower, SCALES)
    tower.clip.embeddings.get_submodule(part).weight.data = torch.empty(0)  # as ZeRO-3 leaves it between uses
    assert tower.path(pixels(1, 96)) == "reference"


def test_bytes_of_another_size_are_resized_by_the_reference_path(tiny_tower):
    tower = load_tower(tiny_tower, SCALES)
    assert tower.path(pixels(1, 50)) == "reference"
    assert tower.encode(pixels(1, 50)).shape == (1, 16, 192)


def test_an_attention_backend_that_cannot_be_used_is_replaced_with_a_word(tiny_tower, monkeypatch, caplog):
    images = pixels(1, 96)
    auto = load_tower(tiny_tower, SCALES).encode(images)
    monkeypatch.setenv("MEDVLM_ATTENTION", "xformers")
    assert torch.equal(load_tower(tiny_tower, SCALES).encode(images), auto)
    assert caplog.messages[0].endswith("'flash' takes its place")


def test_an_attention_backend_that_does_not_exist_is_refused_with_those_that_do(tiny_tower, monkeypatch):
    monkeypatch.setenv("MEDVLM_ATTENTION", "fa9")
    with pytest.raises(ConfigError, match="MEDVLM_ATTENTION is 'fa9'") as refused:
        load_tower(tiny_tower, SCALES).encode(pixels(1, 96))
    assert refused.value.fix.startswith("give one of auto, xformers, cudnn, flash")


def test_the_tower_stays_frozen_and_in_evaluation_mode(tiny_tower, tmp_path):
    load_tower(tiny_tower, SCALES).save_pretrained(tmp_path)
    tower = S2ClipVisionModel.from_pretrained(tmp_path).train()
    assert not any(module.training for module in tower.modules())
    assert not any(weight.requires_grad for weight in tower.parameters())
    images = normalised(pixels(1, 96), tower.config).requires_grad_()
    assert not tower.encode(images).requires_grad


def test_bfloat16_weights_give_bfloat16_features_near_those_of_float32(tiny_tower, path):
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
