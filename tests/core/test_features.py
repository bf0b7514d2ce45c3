"""The cache of the tower's features: what it holds, what it says, when it is made anew."""

import pytest
import torch

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.features import Cache, Features, square
from medvlm_cli.core.model.vlm import build_model
from medvlm_cli.core.schemas import FIGURES
from tests.training_cases import quiet, write_figures


@pytest.fixture
def figures(tmp_path):
    return write_figures(tmp_path / "figures", ["0", "1", "2"], damaged="2")


def test_a_figure_has_the_features_that_its_tower_gives(tiny_model, figures, tmp_path):
    cache = Cache(tmp_path / "features", [figures], *tiny_model)
    cache.make(quiet)
    source = open_dataset(figures, FIGURES)
    pixels = torch.tensor(square(source, source.position("figure1"), "figure1", 96, "squash")).permute(2, 0, 1)
    expected = tiny_model[0].model.vision_tower.encode(pixels[None])[0]
    assert torch.allclose(Features(cache.folder)["figure1"].float(), expected, atol=2e-3, rtol=2e-3)  # float16


def test_a_damaged_image_is_a_reject_and_an_error_only_where_it_is_needed(tiny_model, figures, tmp_path):
    cache = Cache(tmp_path / "features", [figures], *tiny_model)
    cache.make(quiet)
    features = Features(cache.folder)
    assert [row["id"] for row in features.dataset.rejects()] == ["figure2"]
    with pytest.raises(DataError, match="figure figure2: its image could not be decoded"):
        features["figure2"]


def test_the_size_is_told_before_anything_is_written(tiny_model, figures, tmp_path):
    cache, told = Cache(tmp_path / "features", [figures], *tiny_model), []
    cache.make(lambda what, done, total: told.append((what, done, any(cache.folder.glob("data/part*")))))
    assert told[0] == ("features (18,432 bytes)", 0, False)  # 3 figures of 16 tokens x 192 channels x 2 bytes


def test_a_finished_cache_is_not_made_again(tiny_model, figures, tmp_path):
    cache, told = Cache(tmp_path / "features", [figures], *tiny_model), []
    cache.make(quiet)
    Cache(tmp_path / "features", [figures], *tiny_model).make(lambda *progress: told.append(progress))
    assert told == []


@pytest.mark.parametrize("change", [{"scales": (32,)}, {"fit": "pad"}, {"antialias": True}, {"dtype": torch.bfloat16}])
def test_what_the_features_depend_on_makes_another_cache(tiny_model, tiny_tower, tiny_llm, figures, tmp_path, change):
    other = build_model(tiny_tower, tiny_llm, **{"scales": (32, 64, 96)} | change)
    assert Cache(tmp_path, [figures], *other).folder != Cache(tmp_path, [figures], *tiny_model).folder


def test_other_weights_make_another_cache(tiny_model, fresh_model, figures, tmp_path):
    with torch.no_grad():
        fresh_model[0].model.vision_tower.clip.embeddings.class_embedding[0] += 1e-3
    assert Cache(tmp_path, [figures], *fresh_model).folder != Cache(tmp_path, [figures], *tiny_model).folder
