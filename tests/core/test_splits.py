from medvlm_cli.core.splits import VAL_SHARE, split_of
from medvlm_cli.teachers import template


def test_one_figure_in_so_many_is_kept_from_training():
    splits = [split_of(f"PMC{number}/fig1") for number in range(10_000)]
    assert set(splits) == {"train", "val"}
    assert abs(splits.count("val") - 10_000 / VAL_SHARE) < 50


def test_the_split_of_a_figure_never_changes():
    """Figures that earlier versions kept from training, so that no later one trains on them."""
    kept = [number for number in range(200) if split_of(f"PMC{number}/fig1") == "val"]
    assert kept == [8, 62, 63, 81, 190, 195]


def test_an_id_that_is_not_unicode_has_a_split():
    assert split_of("\ud800") in ("train", "val")


def test_the_template_teacher_keeps_the_same_figures():
    figure = {"caption": "Axial CT of the liver.", "mentions": [], "license": "CC0-1.0"}
    ids = [f"PMC{number}/fig1" for number in range(200)]
    assert [template.caption(figure | {"figure_id": id_})["split"] for id_ in ids] == [split_of(id_) for id_ in ids]
