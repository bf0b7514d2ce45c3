"""The cache of the tower's features: what it holds, what it says, and that no image is encoded twice."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from medvlm_cli.core import features
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.commit import Lock
from medvlm_cli.core.errors import BusyError, DataError, ResourceError
from medvlm_cli.core.features import Cache, Original
from medvlm_cli.core.images import prepare
from medvlm_cli.core.model.vlm import build_model
from medvlm_cli.core.schemas import features_schema
from tests.training_cases import picture, quiet

ROW = 16 * 192
"""Numbers of one image: 16 tokens of 192 channels."""


def original(number, name=None, data=None):
    """One image as the cache wants it; ``data`` stands in for its bytes."""
    data = picture(number) if data is None else data
    name = name or f"figure{number}"
    return Original(hashlib.sha256(data).digest(), name, f"figures, figure {name}", lambda: data)


def broken(number):
    return original(number, data=picture(number)[:300])


@pytest.fixture
def encoded(tiny_model, monkeypatch):
    """How many images each call of the tower had."""
    tower, calls = tiny_model[0].model.vision_tower, []
    encode = tower.encode
    monkeypatch.setattr(tower, "encode", lambda pixels: calls.append(len(pixels)) or encode(pixels))
    return calls


@pytest.fixture
def cache(tiny_model, tmp_path):
    return Cache(tmp_path / "features", *tiny_model)


def in_precision(model, dtype):
    return build_model(*model, (32, 64, 96), dtype=dtype)


def sets(cache):
    return sorted(path.parent for path in cache.folder.glob("*/manifest.json"))


def from_tower(model, number):
    """Features of an image, encoded alone."""
    pixels = torch.tensor(prepare(picture(number), "", 96, "squash")).permute(2, 0, 1)
    return model.model.vision_tower.encode(pixels[None])[0]


@pytest.mark.parametrize(
    ("dtype", "stored"), [(torch.float32, "float"), (torch.float16, "halffloat"), (torch.bfloat16, "uint16")]
)
def test_an_exact_cache_gives_the_tower_s_own_bits(tiny_tower, tiny_llm, tmp_path, dtype, stored):
    model, processor = in_precision((tiny_tower, tiny_llm), dtype)
    cache = Cache(tmp_path, model, processor)
    cache.make([original(number) for number in range(3)], quiet)
    found, expected = cache.features.get(original(1).sha256), from_tower(model, 1)
    assert (found.dtype, tuple(found.shape)) == (dtype, (16, 192))
    assert torch.equal(found, expected) and expected.std() > 0
    (dataset,) = [open_dataset(folder, cache._schema) for folder in sets(cache)]
    assert str(dataset._map(0).schema.field("features").type.value_type) == stored


def test_a_row_names_its_image_and_its_tower(cache):
    cache.make([original(4)], quiet)
    (row,) = open_dataset(sets(cache)[0], cache._schema).rows()
    assert (row["figure_id"], row["image_sha256"], row["scales"]) == ("figure4", original(4).sha256, [32, 64, 96])
    assert (len(row["tower"]), len(row["features"])) == (12, ROW)


def test_the_file_says_that_bit_patterns_stand_for_bfloat16():
    field = features_schema(4, 3, "bfloat16").field("features")
    assert str(field.type) == "fixed_size_list<item: uint16>[12]" and field.metadata[b"stored"] == b"bfloat16"


def test_one_more_image_encodes_one_image(cache, encoded):
    cache.make([original(0), original(1)], quiet)
    cache.make([original(0), original(1), original(2)], quiet)
    assert encoded == [2, 1]
    assert [original(number).sha256 in cache.features for number in range(4)] == [True, True, True, False]


def test_an_image_under_two_names_is_encoded_once(cache, encoded):
    cache.make([original(0), original(0, "other/figure"), original(1)], quiet)
    assert sum(encoded) == 2
    assert open_dataset(sets(cache)[0], cache._schema).ids in (["figure0", "figure1"], ["figure1", "figure0"])


def test_two_images_under_one_name_are_both_kept(tiny_model, cache):
    cache.make([original(0, "same"), original(1, "same")], quiet)
    assert torch.equal(cache.features.get(original(1).sha256), from_tower(tiny_model[0], 1))
    assert sorted(open_dataset(sets(cache)[0], cache._schema).ids) == ["same", f"same@{original(1).sha256.hex()[:12]}"]


def test_a_finished_cache_is_not_made_again_and_says_nothing(tiny_model, cache, encoded, tmp_path):
    cache.make([original(0), broken(1)], quiet)
    files = {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*")}
    told = []
    again = Cache(tmp_path / "features", *tiny_model)
    again.make([original(0), broken(1), original(0, "other")], lambda *progress: told.append(progress))
    assert (told, encoded) == ([], [1])
    assert {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*")} == files


def test_a_damaged_image_is_a_reject_and_an_error_only_where_it_is_needed(cache):
    cache.make([original(0), broken(1)], quiet)
    bad = broken(1).sha256
    (reject,) = open_dataset(sets(cache)[0], cache._schema).rejects()
    assert (reject["id"], reject["reason"], bytes.fromhex(reject["raw"])) == ("figure1", "bad_image", bad)
    assert "figures, figure figure1: not a readable image" in reject["message"]
    assert cache.features.refused(bad) == sets(cache)[0] / "rejects" and cache.features.refused(b"") is None
    with pytest.raises(DataError, match=r"figure 7: its image could not be decoded, see .*rejects"):
        cache.features.of(bad, "figure 7")


def test_a_cache_of_damaged_images_alone_is_finished_too(cache, encoded):
    cache.make([broken(1)], quiet)
    cache.make([broken(1)], quiet)
    assert (len(sets(cache)), encoded) == (1, [])


def test_an_image_that_is_not_what_its_hash_says_is_refused(cache):
    wrong = Original(original(0).sha256, "figure0", "figures, figure figure0", lambda: picture(1))
    with pytest.raises(DataError, match="figure figure0: image_sha256 is not that of its image"):
        cache.make([wrong], quiet)


def test_what_cannot_be_read_is_an_error_and_not_a_damaged_image(cache):
    def read():
        raise DataError("part-00000.arrow: damaged or changed")

    with pytest.raises(DataError, match="damaged or changed"):
        cache.make([Original(b"0" * 32, "figure0", "figures, figure figure0", read)], quiet)
    assert sets(cache) == []


def test_the_size_is_told_before_anything_is_written(cache):
    told = []
    cache.make([original(0), original(1)], lambda *progress: told.append((*progress, cache.folder.exists())))
    what, *rest = told[0]
    assert what.startswith(f"features of 2 images: {2 * 4 * ROW:,} bytes, in {cache.folder}")
    assert rest == [0, None, False]
    assert ("features", 2, 2, True) in told


def test_a_disk_without_room_is_refused_before_anything_is_written(cache, monkeypatch, encoded):
    free = shutil.disk_usage("/")._replace(free=4 * ROW - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ResourceError, match=f"take {4 * ROW:,} more bytes, and .* has {4 * ROW - 1:,} free") as refused:
        cache.make([original(0)], quiet)
    assert refused.value.exit_code == 6 and "cache_precision=int8" in refused.value.fix
    assert not cache.folder.exists() and encoded == []


class Cut(BaseException):
    """Ends a run in the middle."""


def test_a_run_that_was_cut_goes_on_with_the_same_set(tiny_model, cache, encoded, monkeypatch, tmp_path):
    monkeypatch.setattr(features, "SHARD_BYTES", 4 * ROW)  # an image a shard, on average
    images = [original(number) for number in range(6)]

    def cut(what, done, total):
        if what == "features" and 0 < done < 6:
            raise Cut

    with pytest.raises(Cut):
        cache.make(images, cut)
    first = sum(encoded)
    again = Cache(tmp_path / "features", *tiny_model)
    again.make(images[::-1], quiet)
    assert 0 < first < 6 and sum(encoded) == 6
    assert len(list(again.folder.iterdir())) == len(sets(again)) == 1


def test_a_set_is_made_by_one_process_at_a_time(tiny_model, cache):
    cache.make([original(0)], quiet)
    folder = sets(cache)[0]
    shutil.rmtree(folder)
    folder.mkdir()
    lock = Lock(folder)
    lock.acquire()
    with pytest.raises(BusyError, match="is being written by process"):
        Cache(cache.folder.parent, *tiny_model).make([original(0)], quiet)
    Cache(cache.folder.parent, *tiny_model).make([original(1)], quiet)  # another set of the same key
    lock.release()
    assert len(sets(cache)) == 1


def test_int8_is_as_close_as_every_row_says(tiny_model, tmp_path):
    cache, told = Cache(tmp_path, *tiny_model, "int8"), []
    cache.make([original(number) for number in range(5)], lambda *progress: told.append(progress))
    (folder,) = sets(cache)
    errors = {row["image_sha256"]: row["error"] for row in open_dataset(folder, cache._schema).rows()}
    exact = {original(number).sha256: from_tower(tiny_model[0], number) for number in range(5)}
    measured = {sha256: _error(cache.features.get(sha256), features) for sha256, features in exact.items()}
    assert errors == pytest.approx(measured, rel=1e-5)
    assert min(errors.values()) > 1e-4 and max(errors.values()) < 1 / 127
    stated = json.loads((folder / "run.json").read_text())["error"]
    assert stated == pytest.approx({"rows": 5, "mean": np.mean(list(errors.values())), "max": max(errors.values())})
    assert told[-1] == (
        f"features in int8: relative error {stated['mean']:.1e} on average, {stated['max']:.1e} at most", 5, 5,
    )  # fmt: skip


def test_the_error_told_is_the_mean_and_the_largest_of_all_rows():
    told = {}
    features._tally(told, 0.5)
    features._tally(told, 0.1)
    assert told["error"] == pytest.approx({"rows": 2, "mean": 0.3, "max": 0.5})


def _error(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


def test_each_channel_of_int8_is_off_by_half_a_step_at_most(tiny_model, tmp_path):
    cache = Cache(tmp_path, *tiny_model, "int8")
    cache.make([original(2)], quiet)
    exact = from_tower(tiny_model[0], 2)
    steps = exact.abs().amax(dim=0) / 127
    off = (cache.features.get(original(2).sha256) - exact).abs()
    assert (off <= 0.5001 * steps).all() and off.max() > 0


def test_a_channel_of_zeros_stays_zero_in_int8():
    row = features._reduced(torch.tensor([[0.0, -2.0], [0.0, 1.0]]))
    assert (row["features"].tolist(), row["channel_scales"].tolist()[0]) == ([0, -127, 0, 64], 0.0)
    assert features._reduced(torch.zeros(2, 2))["error"] == 0


def test_int8_comes_back_in_the_tower_s_precision_and_its_error_counts_that(tiny_tower, tiny_llm, tmp_path):
    model, processor = in_precision((tiny_tower, tiny_llm), torch.bfloat16)
    cache = Cache(tmp_path, model, processor, "int8")
    cache.make([original(0)], quiet)
    found, exact = cache.features.get(original(0).sha256), from_tower(model, 0)
    (row,) = open_dataset(sets(cache)[0], cache._schema).rows()
    assert found.dtype == torch.bfloat16
    assert row["error"] == pytest.approx(_error(found.float(), exact.float()), rel=1e-5)


def test_int8_and_exact_lie_apart_and_int8_is_a_quarter_of_float32(tiny_model, tmp_path):
    exact, reduced = (Cache(tmp_path, *tiny_model, precision) for precision in ("exact", "int8"))
    told = []
    reduced.make([original(0)], lambda *progress: told.append(progress))
    assert reduced.folder != exact.folder and original(0).sha256 not in exact.features
    assert f"{ROW + 4 * 192:,} bytes" in told[0][0]


@pytest.mark.parametrize("change", [{"scales": (32,)}, {"fit": "pad"}, {"antialias": True}, {"dtype": torch.bfloat16}])
def test_what_the_features_depend_on_makes_another_cache(tiny_model, tiny_tower, tiny_llm, tmp_path, change):
    other = build_model(tiny_tower, tiny_llm, **{"scales": (32, 64, 96)} | change)
    assert Cache(tmp_path, *other).folder != Cache(tmp_path, *tiny_model).folder


def test_other_weights_make_another_cache(tiny_model, fresh_model, tmp_path):
    same = Cache(tmp_path, *fresh_model).folder
    with torch.no_grad():
        fresh_model[0].model.vision_tower.clip.embeddings.class_embedding[0] += 1e-3
    assert same == Cache(tmp_path, *tiny_model).folder != Cache(tmp_path, *fresh_model).folder


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"image_mean": [0.5, 0.5, 0.5]}, {"layer_norm_eps": 1e-6}])
def test_settings_that_weights_do_not_show_make_another_cache(tiny_model, fresh_model, tmp_path, change):
    vars(fresh_model[0].model.vision_tower.config).update(change)
    assert Cache(tmp_path, *tiny_model).folder != Cache(tmp_path, *fresh_model).folder


def test_another_code_version_makes_another_cache(tiny_model, tmp_path, monkeypatch):
    before = Cache(tmp_path, *tiny_model).folder
    monkeypatch.setattr(features, "CODE_VERSION", features.CODE_VERSION + 1)
    assert Cache(tmp_path, *tiny_model).folder != before


def test_a_dataset_of_the_cache_that_lost_a_file_is_named(tiny_model, cache):
    cache.make([original(0)], quiet)
    next(sets(cache)[0].glob("data/*.arrow")).unlink()
    with pytest.raises(DataError, match="missing, the manifest lists it"):
        Cache(cache.folder.parent, *tiny_model)
