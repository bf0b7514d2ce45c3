"""Towers without a class token or a first norm, through S2, against the original implementations on random weights.

Measured on one CPU in float32, relative to the length of the features: at most 3e-8 for SigLIP, 3e-7 for BiomedCLIP.
"""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.model.convert import convert_timm
from medvlm_cli.core.model.standalone import S2ClipVisionConfig, S2ClipVisionModel
from medvlm_cli.core.model.towers import TOWERS, load_tower
from medvlm_cli.core.model.vlm import build_model
from medvlm_cli.core.prompts import generation_prompt, tokens_per_image

SIZE = {"hidden_size": 64, "intermediate_size": 144, "num_hidden_layers": 3, "num_attention_heads": 2}
SCALES = [(32,), (32, 64), (32, 64, 96)]
TINY = {"image_size": 32, "patch": 8, "width": 64, "layers": 3, "heads": 2}


def lively(model):
    """Weights as large as trained ones: of fresh ones, wrong tiles look right."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name and weight.ndim == 1 else 0.0, 0.15, generator=random)
    return model.eval()


def parameters(model):
    return sum(weight.numel() for weight in model.parameters())


def normalised(images, mean, std):
    return (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def pixels(figures, size):
    return torch.randint(0, 256, (figures, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def composed(patches, images, scales):
    """S2, Shi et al. 2024, arXiv:2403.13043; ``patches`` gives the patch tokens ``(B, T, C)`` of tiles."""
    base, outputs = scales[0], []
    for scale in scales:
        resized = F.interpolate(images, size=(scale, scale), mode="bicubic")
        cuts = range(0, scale, base)
        rows = [torch.cat([grid(patches(resized[..., top:, left:][..., :base, :base])) for left in cuts], 3)
                for top in cuts]  # fmt: skip
        outputs.append(F.interpolate(torch.cat(rows, dim=2), size=(base // 8, base // 8), mode="area"))
    return torch.cat(outputs, dim=1).flatten(2).transpose(1, 2)


def grid(tokens):
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """Folder of a whole SigLIP, and its vision half; 34 pixels in patches of 8 leave 2 over."""
    folder = tmp_path_factory.mktemp("siglip")
    vision = SiglipVisionConfig(image_size=34, patch_size=8, **SIZE)
    model = lively(SiglipModel(SiglipConfig(vision_config=vision.to_dict(), text_config={"vocab_size": 30, **SIZE})))
    model.save_pretrained(folder)
    vision.image_size = 32
    half = SiglipVisionModel(vision).eval()
    half.load_state_dict(model.vision_model.state_dict())
    return str(folder), half


@pytest.fixture(scope="module")
def timm_tower():
    from timm.models.vision_transformer import VisionTransformer

    return lively(VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=2, num_classes=0))


@pytest.fixture
def biomedclip(timm_tower, tmp_path, monkeypatch):
    """Name and file of a tiny BiomedCLIP: the weights of both halves as open_clip saves them."""
    spec = dataclasses.replace(TOWERS["biomedclip-vit-b-16-224"], pretrained="someone/never-published", **TINY)
    monkeypatch.setitem(TOWERS, "tiny-biomedclip", spec)
    state = {f"visual.trunk.{name}": weight for name, weight in timm_tower.state_dict().items()}
    state |= {"visual.head.proj.weight": torch.zeros(16, 64), "text.proj.weight": torch.zeros(16, 16)}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    return f"tiny-biomedclip:{tmp_path / 'open_clip_pytorch_model.bin'}"


@torch.no_grad()
@pytest.mark.parametrize("scales", SCALES)
def test_siglip_gives_the_features_of_hugging_faces_siglip(siglip, scales):
    folder, original = siglip
    images = pixels(2, scales[-1])

    def patches(tiles):
        return original(tiles, output_hidden_states=True).hidden_states[-2]

    expected = composed(patches, normalised(images, [0.5] * 3, [0.5] * 3), scales)
    found = load_tower(folder, scales).encode(images)
    assert expected.std() > 0.1
    assert found.shape == (2, 16, 64 * len(scales))
    assert (found - expected).norm() / expected.norm() <= 2e-6


@torch.no_grad()
@pytest.mark.parametrize("scales", SCALES)
def test_biomedclip_gives_the_features_of_timms_vit(timm_tower, biomedclip, scales):
    tower, images = load_tower(biomedclip, scales), pixels(2, scales[-1])

    def patches(tiles):
        return timm_tower.forward_intermediates(
            tiles, indices=[1], output_fmt="NLC", intermediates_only=True, norm=False
        )[0]

    expected = composed(patches, normalised(images, tower.config.image_mean, tower.config.image_std), scales)
    assert expected.std() > 0.1
    assert (tower.encode(images) - expected).norm() / expected.norm() <= 2e-6


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_bytes_take_the_reference_path_of_both(siglip, biomedclip, activation):
    towers = [load_tower(name, [32]) for name in (siglip[0], biomedclip)]
    for tower in towers:
        tower.config.hidden_act = activation  # the fused path knows one, and only in a CLIP
    assert [tower.path(pixels(1, 32)) for tower in towers] == ["reference", "reference"]


@pytest.mark.parametrize("name", ["siglip", "biomedclip"])
def test_a_model_with_such_a_tower_is_the_same_when_it_is_saved_and_read(name, request, tiny_llm, tmp_path):
    made = request.getfixturevalue(name)
    model, processor = build_model(made if isinstance(made, str) else made[0], tiny_llm, (32, 64))
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    ids = torch.tensor([generation_prompt(processor, [{"role": "user", "text": "Is there a nodule?"}])])
    with torch.no_grad():
        logits, expected = (either(ids, pixel_values=pixels(1, 64)).logits for either in (again, model))
    assert tokens_per_image(processor) == 16
    assert torch.equal(logits, expected)


def original_siglip(**sizes):
    return SiglipVisionModel(SiglipVisionConfig(vision_use_head=False, **sizes))


def original_biomedclip():
    import timm

    return timm.create_model("vit_base_patch16_224", num_classes=0)


SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
          "image_size": 384, "patch_size": 14}  # fmt: skip
"""config.json of google/siglip-so400m-patch14-384."""


@pytest.mark.parametrize(
    ("name", "original", "sizes", "folded", "tokens"),
    [
        ("siglip-so400m-14-384", original_siglip, SO400M, 0, 729),
        ("siglip-base-16-224", original_siglip, {}, 0, 196),  # config.json of google/siglip-base-patch16-224 is empty
        ("biomedclip-vit-b-16-224", original_biomedclip, {}, 768, 196),  # the bias of the patches
    ],
)
def test_a_full_size_tower_has_the_parameters_of_its_original(name, original, sizes, folded, tokens):
    spec = TOWERS[name]
    scales = [spec.image_size, 2 * spec.image_size, 3 * spec.image_size]
    with torch.device("meta"):
        tower, expected = S2ClipVisionModel(spec.config(scales)), original(**sizes)
        images = torch.empty(1, 3, scales[-1], scales[-1])
    assert parameters(tower) == parameters(expected) - folded
    assert tower.encode(images).shape == (1, tokens, 3 * spec.width)


@torch.no_grad()
def test_a_named_siglip_takes_a_folder_behind_the_colon(siglip, monkeypatch):
    spec = dataclasses.replace(TOWERS["siglip-base-16-224"], pretrained="someone/never-published", hidden=144, **TINY)
    monkeypatch.setitem(TOWERS, "tiny-siglip", spec)
    found = load_tower(f"tiny-siglip:{siglip[0]}", [32, 64]).encode(pixels(1, 64))
    assert torch.equal(found, load_tower(siglip[0], [32, 64]).encode(pixels(1, 64)))


@pytest.mark.parametrize("name", ["siglip-base-16-224", "biomedclip-vit-b-16-224"])
def test_weights_that_cannot_be_fetched_say_how_to_bring_them(name):
    with pytest.raises(RemoteError, match=rf"tower {name}: its weights could not be fetched.*\n.*{name}:/path/of"):
        load_tower(name, [224])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("siglip-base-16-224:/gone", "no folder /gone"),
        ("biomedclip-vit-b-16-224:/gone.bin", r"no weight file /gone\.bin"),
    ],
)
def test_missing_local_weights_are_named(name, message):
    with pytest.raises(ConfigError, match=message):
        load_tower(name, [224])


@pytest.mark.parametrize("content", [b"not weights", None])
def test_a_file_that_holds_no_image_half_is_refused(tmp_path, content):
    path = tmp_path / "weights.bin"
    torch.save({"text.proj.weight": torch.zeros(1)}, path) if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.bin does not hold its weights"):
        load_tower(f"biomedclip-vit-b-16-224:{path}", [224])


def test_weights_of_another_size_are_refused(biomedclip):
    file = biomedclip.partition(":")[2]
    with pytest.raises(ConfigError, match=r"tower biomedclip-vit-b-16-224: these are the weights of another tower"):
        load_tower(f"biomedclip-vit-b-16-224:{file}", [224])


def test_a_timm_tower_of_another_kind_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"a weight attn_pool\.latent, which a plain ViT with a class token has not"):
        convert_timm({"attn_pool.latent": torch.zeros(1)})


def test_a_timm_tower_without_a_class_token_is_refused(timm_tower):
    weights = {name: weight for name, weight in timm_tower.state_dict().items() if name != "cls_token"}
    with pytest.raises(ConfigError, match="no ViT with a class token"):
        convert_timm(weights)


def test_a_size_whose_patches_leave_pixels_over_is_refused_with_the_size_that_would_do(siglip):
    with pytest.raises(ConfigError) as refused:
        load_tower(siglip[0], [34, 68])
    what = refused.value.what
    assert what.endswith("a tile of 34 pixels does not divide into patches of 8; 32 pixels would")
    assert "\n" not in what


@pytest.mark.parametrize(("given", "meant"), [("siglip-so400m", "siglip-so400m-14-384"), ("Tiny", "tiny")])
def test_an_unknown_tower_is_told_the_nearest_name(given, meant):
    with pytest.raises(ConfigError, match=f"tower {given}: no such tower, and no such folder; did you mean {meant}\\?"):
        load_tower(given, [32])


def test_a_folder_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"neither a CLIP nor a SigLIP vision model of Hugging Face \(model_type 'lla"
    ):
        load_tower(str(tmp_path), [32])


def test_an_unknown_kind_of_tower_is_refused():
    with pytest.raises(Exception, match="s2_tower"):
        S2ClipVisionConfig(image_size=32, patch_size=8, s2_scales=[32], s2_tower="resnet")
