"""What a dataset holds, counted."""

from medvlm_cli.core.arrow import Reject
from medvlm_cli.core.schemas import ARTICLE_FIGURES, FIGURES
from medvlm_cli.core.summary import shortened, tables
from tests.core.report_cases import article, dataset


def rows_of(column, values):
    return [article(f"f{number}", **{column: value}) for number, value in enumerate(values)]


def test_values_come_commonest_first_and_unknown_last(tmp_path):
    data = dataset(tmp_path / "d", rows_of("modality", ["unknown", "mri", "unknown", "ct", "", "ct", "gross"]))
    assert list(tables(data)["modality"].items()) == [("ct", 2), ("gross", 1), ("mri", 1), ("unknown", 3)]


def test_years_ascend_and_a_missing_one_is_last(tmp_path):
    data = dataset(tmp_path / "d", rows_of("year", [2021, None, 1999, 2021]))
    assert list(tables(data)["year"].items()) == [("1999", 1), ("2021", 2), ("unknown", 1)]


def test_panels_fall_into_one_a_few_and_many(tmp_path):
    data = dataset(tmp_path / "d", rows_of("n_panels", [5, 1, 2, 4, 60, None, 0]))
    assert list(tables(data)["panels"].items()) == [("1", 1), ("2-4", 2), ("5+", 2), ("unknown", 2)]


def test_rejects_are_counted_by_reason(tmp_path):
    rejects = [Reject("a", "no_image", "x"), Reject("b", "broken", "x"), Reject("c", "no_image", "x")]
    data = dataset(tmp_path / "d", [article("f")], rejects)
    assert tables(data)["rejects"] == {"no_image": 2, "broken": 1}


def test_every_figure_is_in_each_table_once(tmp_path):
    data = dataset(tmp_path / "d", [article(f"f{number}", license=f"L{number % 3}") for number in range(250)])
    counted = tables(data)
    assert {title: sum(counts.values()) for title, counts in counted.items()} == {
        "modality": 250, "license": 250, "year": 250, "panels": 250, "rejects": 0,
    }  # fmt: skip


def test_a_column_that_the_dataset_lacks_counts_nothing(tmp_path):
    data = dataset(tmp_path / "d", [article("f")], schema=FIGURES)
    assert tables(data) == {"modality": {"ct": 1}, "license": {"CC-BY-4.0": 1}, "year": {}, "panels": {"2-4": 1}, "rejects": {}}  # fmt: skip # noqa: E501


def test_an_empty_dataset_has_empty_tables(tmp_path):
    assert set(map(len, tables(dataset(tmp_path / "d", [])).values())) == {0}


def test_columns_are_those_of_the_files(tmp_path):
    extended = dataset(tmp_path / "a", [article("f")])
    plain = dataset(tmp_path / "b", [article("f")], schema=FIGURES)
    assert (extended.columns, plain.columns) == (ARTICLE_FIGURES.names, FIGURES.names)


def test_a_long_table_keeps_the_commonest_and_unknown():
    counts = {f"m{number}": 100 - number for number in range(30)} | {"unknown": 7}
    short = shortened("modality", counts, 5)
    assert list(short) == ["m0", "m1", "m2", "27 others", "unknown"]
    assert sum(short.values()) == sum(counts.values())


def test_a_long_table_of_years_keeps_the_latest():
    counts = {str(year): 2 for year in range(1990, 2020)}
    assert shortened("year", counts, 4) == {"before 2017": 54, "2017": 2, "2018": 2, "2019": 2}


def test_a_table_that_fits_is_left_alone():
    assert shortened("year", {"2019": 1, "2020": 2}, 3) == {"2019": 1, "2020": 2}
