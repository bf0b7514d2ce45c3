"""The order of the data: every rank knows all of it, and the split over ranks changes nothing."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
import torch

from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.features import Cache
from medvlm_cli.core.samples import Figures, Plan, Samples, Split, split_batch
from medvlm_cli.core.schemas import FIGURES
from tests.training_cases import HELD_OUT, ROWS, figure, picture, quiet, write_figures


def plans(world, rows=21, batch=8, micro=2, epochs=1.0, seed=3):
    shared = {"rows": rows, "batch": batch, "micro": micro, "epochs": epochs, "seed": seed, "world": world}
    return [Plan(**shared, rank=rank) for rank in range(world)]


def shown(ranks):
    return sorted(row for plan in ranks for part in plan for row in part if row >= 0)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("rows", "epochs"), [(21, 1.0), (16, 1.0), (17, 2.0), (3, 1.0)])
def test_every_row_is_shown_once_an_epoch(world, rows, epochs):
    assert shown(plans(world, rows, epochs=epochs)) == sorted(list(range(rows)) * int(epochs))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("rows", [16, 17, 21, 23])
def test_ranks_take_the_same_number_of_parts(world, rows):
    counts = {len(list(plan)) for plan in plans(world, rows)}
    assert counts == {len(plans(world, rows)[0])}


def test_a_rank_without_a_row_gets_one_without_targets():
    last = [list(plan)[-1] for plan in plans(4, rows=9)]
    assert sum(len(part) for part in last) == 4 and [row >= 0 for part in last for row in part] == [True] + [False] * 3


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_rows_of_a_step_do_not_depend_on_the_number_of_ranks(world):
    step = sorted(row for plan in plans(world) for part in list(plan)[: 8 // (2 * world)] for row in part)
    assert step == sorted(plans(1, micro=8)[0].step(0).tolist())


def test_half_an_epoch_shows_half_of_the_rows():
    assert len(set(shown(plans(2, rows=40, epochs=0.5)))) == 20


def test_epochs_and_seeds_have_orders_of_their_own():
    plan, other = plans(1, rows=16, epochs=2.0)[0], plans(1, rows=16, seed=4)[0]
    first, second = [[row for step in steps for row in plan.step(step)] for steps in ((0, 1), (2, 3))]
    assert first != second and sorted(first) == sorted(second)
    assert first != [row for step in (0, 1) for row in other.step(step)]


SIZES = np.random.default_rng(0).integers(1, 1000, 21)


def by_size(world, **changes):
    ranks = plans(world, **changes)
    for plan in ranks:
        plan.sizes = SIZES
    return ranks


@pytest.mark.parametrize("world", [1, 2, 4])
def test_sizes_do_not_change_which_rows_a_step_has(world):
    parts = 8 // (2 * world)
    steps = [
        [
            sorted(row for plan in ranks for part in list(plan)[first : first + parts] for row in part)
            for first in (0, parts)
        ]
        for ranks in (by_size(world), plans(world))
    ]
    assert steps[0] == steps[1]


def test_rows_of_like_size_share_a_micro_batch_and_the_largest_come_first():
    parts = list(by_size(1)[0])[:4]
    sizes = [SIZES[row] for part in parts for row in part]
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    assert sizes == sorted(sizes, reverse=True)


def test_ranks_get_micro_batches_of_like_size_at_the_same_time():
    first, second = (next(iter(plan)) for plan in by_size(2))
    step = sorted(plans(1)[0].step(0), key=lambda row: -SIZES[row])
    assert first == step[:2] and second == step[2:4]


def test_sizes_make_less_padding():
    def padding(plan):
        return sum(SIZES[part].max() * len(part) - SIZES[part].sum() for part in plan)

    (sized,), (plain,) = by_size(1, batch=16, micro=4), plans(1, batch=16, micro=4)
    assert padding(list(sized)[:4]) < 0.5 * padding(list(plain)[:4])


def test_an_earlier_step_can_be_asked_for_again():
    plan = plans(1, rows=16, epochs=3.0)[0]
    first = plan.step(0).tolist()
    plan.step(5)
    assert plan.step(0).tolist() == first


def test_the_size_of_a_sample_is_that_of_its_text(training_data, tiny_model):
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    samples = Samples(split, split.train, *tiny_model, 2048, None)
    turns = split.conversations.row_at(split.train[5], ["turns"])["turns"]
    assert len(samples.sizes) == len(samples) == ROWS - HELD_OUT
    assert samples.sizes[5] == sum(len(turn["text"]) for turn in turns)
    assert samples.length(5) == len(samples[5]["input_ids"])


def test_a_batch_tells_its_tokens_and_its_padding_and_keeps_bytes(training_data, tiny_model):
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    samples = Samples(split, split.train, *tiny_model, 2048, None)
    rows = [samples[row] for row in range(4)]
    padded, packed = samples.collate(rows), samples.pack(rows)
    tokens = sum(len(row["input_ids"]) for row in rows)
    assert padded["tokens"] == packed["tokens"] == tokens == int(padded["attention_mask"].sum())
    assert padded["padding"] == padded["input_ids"].numel() - tokens > 0 == packed["padding"]
    assert padded["pixel_values"].dtype == packed["pixel_values"].dtype == torch.uint8


def test_a_row_without_targets_is_otherwise_the_same(training_data, tiny_model):
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    samples = Samples(split, split.train, *tiny_model, 2048, None)
    seen, silent = samples[3], samples[~3]
    assert silent["input_ids"] == seen["input_ids"] and (silent["image"] == seen["image"]).all()
    assert set(silent["labels"]) == {-100} and len(silent["labels"]) == len(seen["labels"]) > seen["labels"].count(-100)


def test_a_sample_has_the_features_of_its_own_figure(training_data, tiny_model, tmp_path):
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    cache = Cache(tmp_path, *tiny_model)
    cache.make(split.originals(), quiet)
    seen = Samples(split, split.train, *tiny_model, 2048, None)[3]
    kept = Samples(split, split.train, *tiny_model, 2048, cache.features)[3]
    pixels = torch.tensor(seen["image"]).permute(2, 0, 1)[None]
    assert torch.equal(kept["features"], tiny_model[0].model.vision_tower.encode(pixels)[0])
    assert kept["input_ids"] == seen["input_ids"] and "image" not in kept


def test_the_figures_held_out_are_wanted_too(training_data):
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    wanted = {original.name: original.sha256 for original in split.originals()}
    assert len(split.val) == HELD_OUT
    assert wanted == {f"figure{key}": hashlib.sha256(picture(key)).digest() for key in range(ROWS)}


def test_figures_that_no_conversation_names_are_not_wanted(training_data, tmp_path):
    more = write_figures(tmp_path / "more", [str(ROWS)])
    split = Split(training_data / "captions", Figures([training_data / "figures", more]), "caption")
    assert f"figure{ROWS}" not in {original.name for original in split.originals()}


def test_a_dataset_of_ours_is_asked_for_its_hashes_and_not_for_its_images(tmp_path):
    figures = Figures([write_figures(tmp_path / "figures", ["0", "1"])])
    (shard,) = (tmp_path / "figures").glob("data/*.arrow")
    data = bytearray(shard.read_bytes())
    at = data.index(picture(1)) + 60
    data[at] ^= 4  # opening it looks at sizes only
    shard.write_bytes(data)
    original = figures.original("figure1", "caption1")
    assert original.sha256 == hashlib.sha256(picture(1)).digest()
    with pytest.raises(DataError, match="damaged or changed"):
        original.read()


def test_another_program_s_hashes_are_not_believed(tmp_path):
    row = figure("5").rows[0] | {"image_sha256": b"x" * 32}
    with pa.OSFile(str(tmp_path / "figures.arrow"), "wb") as sink, pa.ipc.new_file(sink, FIGURES) as file:
        file.write_batch(pa.RecordBatch.from_pylist([row], schema=FIGURES))
    original = Figures([tmp_path / "figures.arrow"]).original("figure5", "caption5")
    assert (original.read(), original.sha256) == (picture(5), hashlib.sha256(picture(5)).digest())


def test_the_paper_takes_2344_steps():
    assert Plan(rows=600_000, batch=256, micro=8, epochs=1, seed=0, rank=0, world=4).steps == 2344


@pytest.mark.parametrize(
    ("batch", "micro", "world", "expected"),
    [
        (256, 8, 4, (8, 8)),
        (8, 2, 1, (2, 4)),
        (4, 64, 1, (4, 1)),
        (64, 64, 2, (32, 1)),
        (32, 32, 4, (8, 1)),
        (12, 8, 1, (6, 2)),
        (2, 8, 2, (1, 1)),
    ],
)
def test_a_batch_is_made_of_micro_batches_of_at_most_the_size_asked_for(batch, micro, world, expected):
    assert split_batch(batch, micro, world) == expected


@pytest.mark.parametrize(
    ("batch", "micro", "world", "fix"),
    [
        (250, 8, 4, "--set batch=256"),
        (1, 8, 2, "--set batch=2"),
        (254, 8, 2, "--set batch=256 or --set micro_batch=1"),
    ],
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_does(batch, micro, world, fix):
    with pytest.raises(ConfigError, match=f"batch {batch} does not divide over {world} devices") as refused:
        split_batch(batch, micro, world)
    assert refused.value.fix == fix
