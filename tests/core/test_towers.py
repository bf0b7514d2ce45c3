"""Towers that come through open_clip, and from folders.  open_clip takes 10 seconds to import, so once, in here."""

import dataclasses
import json

import pytest
import torch

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.model.convert import convert_open_clip
from medvlm_cli.core.model.towers import TOWERS, TowerSpec, load_tower

TINY = TowerSpec(
    open_clip_name="medvlm-test-tiny", pretrained="never-published", image_size=32, patch=8, width=64, layers=3,
    heads=2, licence="none", source="this test",
)  # fmt: skip
TINY_CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    import open_clip

    path = tmp_path_factory.mktemp("configs") / "medvlm-test-tiny.json"
    path.write_text(json.dumps(TINY_CONFIG), encoding="utf-8")
    open_clip.add_model_config(path)
    return open_clip


@pytest.fixture
def clip(open_clip):
    torch.manual_seed(0)
    return open_clip.create_model("medvlm-test-tiny").eval()


def penultimate(clip, pixels):
    return clip.visual.forward_intermediates(pixels, indices=[1], output_fmt="NLC")["image_intermediates"][0]


@torch.no_grad()
def test_a_weight_file_of_open_clip_gives_its_second_last_blocks_patch_tokens(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(TOWERS, "test-tiny", TINY)
    torch.save(clip.state_dict(), tmp_path / "weights.pt")
    tower = load_tower(f"test-tiny:{tmp_path / 'weights.pt'}", [32])
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert (tower.encode(pixels) - penultimate(clip, pixels)).abs().max() <= 1e-5


def test_a_weight_of_another_kind_of_tower_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"a weight transformer\.resblocks\.0\.ls_1\.gamma, which a plain CLIP ViT"):
        convert_open_clip({"transformer.resblocks.0.ls_1.gamma": torch.zeros(1)})


@pytest.mark.parametrize("name", ["dfn5b-vit-h-14-378", "clip-vit-l-14-336"])
def test_the_numbers_of_a_tower_are_those_of_open_clip(open_clip, name):
    spec = TOWERS[name]
    config = open_clip.get_model_config(spec.open_clip_name)
    weights = open_clip.get_pretrained_cfg(spec.open_clip_name, spec.pretrained)
    vision = config["vision_cfg"]
    assert (vision["image_size"], vision["patch_size"]) == (spec.image_size, spec.patch)
    assert (vision["width"], vision["layers"]) == (spec.width, spec.layers)
    assert vision["width"] // vision.get("head_width", 64) == spec.heads
    assert config["quick_gelu"] == (spec.activation == "quick_gelu")
    assert (tuple(weights["mean"]), tuple(weights["std"])) == (spec.mean, spec.std)


def test_weights_that_cannot_be_fetched_say_how_to_bring_them(open_clip, monkeypatch):
    monkeypatch.setitem(TOWERS, "test-tiny", TINY)
    with pytest.raises(RemoteError, match=r"tower test-tiny: its weights could not be fetched.*\n.*test-tiny:/path/of"):
        load_tower("test-tiny", [32])


def test_a_weight_file_of_another_model_is_refused(open_clip, tmp_path, monkeypatch):
    monkeypatch.setitem(TOWERS, "test-tiny", TINY)
    torch.save({"other": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt does not hold its weights"):
        load_tower(f"test-tiny:{tmp_path / 'weights.pt'}", [32])


def test_a_missing_weight_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(TOWERS, "test-tiny", TINY)
    with pytest.raises(ConfigError, match=r"no weight file .*gone\.pt"):
        load_tower(f"test-tiny:{tmp_path / 'gone.pt'}", [32])


def test_an_unknown_tower_names_the_known_ones():
    with pytest.raises(
        ConfigError,
        match=r"tower nonesuch: no such tower.*\n.*dfn5b-vit-h-14-378, clip-vit-l-14-336, .*biomedclip.*, tiny",
    ):
        load_tower("nonesuch", [32])


def test_scales_that_do_not_fit_the_tower_are_refused(tiny_tower):
    with pytest.raises(ConfigError, match=r"scales \[64\] do not fit a tower of 32 pixels: give 32 first"):
        load_tower(tiny_tower, [64])


def test_a_folder_without_a_tower_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither a CLIP nor a SigLIP vision model"):
        load_tower(str(tmp_path), [32])


@torch.no_grad()
def test_a_folder_keeps_its_weights_and_its_pixel_statistics(tiny_tower, tmp_path):
    from transformers import CLIPVisionModel

    clip = CLIPVisionModel.from_pretrained(tiny_tower)
    clip.save_pretrained(tmp_path)
    stored = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored), encoding="utf-8")
    tower = load_tower(str(tmp_path), [32], antialias=True)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert (tower.encode(pixels) - expected).abs().max() <= 1e-6
    assert (tower.config.image_mean, tower.config.image_std) == (stored["image_mean"], stored["image_std"])
    assert tower.config.s2_antialias


def test_a_spec_makes_a_config_of_its_sizes():
    config = dataclasses.replace(TINY, mean=(0.1, 0.2, 0.3)).config((32, 64), antialias=True)
    assert (config.tokens, config.channels, config.intermediate_size) == (16, 128, 256)
    assert (config.s2_scales, config.s2_antialias, config.image_mean) == ([32, 64], True, [0.1, 0.2, 0.3])
