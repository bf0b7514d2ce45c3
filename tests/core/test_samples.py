"""The order of the data: every rank knows all of it, and the split over ranks changes nothing."""

import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.samples import Figures, Plan, Samples, Split, split_batch


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


def test_a_row_without_targets_is_otherwise_the_same(training_data, tiny_model):
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    samples = Samples(split, split.train, *tiny_model, 2048, None)
    seen, silent = samples[3], samples[~3]
    assert silent["input_ids"] == seen["input_ids"] and (silent["image"] == seen["image"]).all()
    assert set(silent["labels"]) == {-100} and len(silent["labels"]) == len(seen["labels"]) > seen["labels"].count(-100)


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
