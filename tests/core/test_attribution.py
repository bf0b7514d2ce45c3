"""A line of credit for each figure, that no spreadsheet runs."""

import csv
import io

import pytest

from medvlm_cli.core.attribution import HEADER, attribution, license_url
from medvlm_cli.core.schemas import FIGURES
from tests.core.report_cases import article, dataset


def lines_of(data):
    return list(csv.DictReader(io.StringIO(attribution(data))))


def line_of(folder, **changes):
    (line,) = lines_of(dataset(folder / "d", [article("PMC7/fig2", **changes)]))
    return line


def test_a_line_says_whose_the_figure_is_and_under_which_licence(tmp_path):
    assert line_of(tmp_path) == {
        "figure_id": "PMC7/fig2", "article_id": "PMC7", "version": "3", "doi": "10.1000/x7", "title": "A rare liver",
        "authors": "Smith J, Doe A", "journal": "J Liver", "year": "2020", "license": "CC-BY-4.0",
        "license_url": "https://creativecommons.org/licenses/by/4.0/", "license_code": "CC BY",
        "commercial_ok": "true", "third_party": "false", "source_key": "PMC7.3/fig2.jpg", "source_md5": "0" * 32,
        "url": "https://pmc.ncbi.nlm.nih.gov/articles/PMC7/",
        "credit": '"A rare liver", Smith J, Doe A, J Liver 2020, https://doi.org/10.1000/x7, licensed CC BY 4.0; '
                  "Figure 2",
    }  # fmt: skip


def test_there_is_one_line_a_figure_in_the_order_of_the_rows(tmp_path):
    data = dataset(tmp_path / "d", [article(f"f{number}", title="two\nlines") for number in range(230)])
    assert [line["figure_id"] for line in lines_of(data)] == data.ids
    assert attribution(data).count("\n") == 231


def test_what_nobody_stated_is_left_out_of_the_credit(tmp_path):
    bare = {"title": None, "authors": None, "journal": None, "year": None, "doi": None, "label": None}
    line = line_of(tmp_path, **bare, license="unknown", third_party=True)
    assert line["credit"] == "PMC7/fig2, licence unknown; parts belong to a third party"


def test_columns_that_the_dataset_lacks_are_empty(tmp_path):
    (line,) = lines_of(dataset(tmp_path / "d", [article("f")], schema=FIGURES))
    assert (line["authors"], line["source_key"], line["version"]) == ("", "", "")
    assert line["credit"] == '"A rare liver", https://doi.org/10.1000/x7, licensed CC BY 4.0; Figure 2'


def test_an_empty_dataset_has_a_header_only(tmp_path):
    assert attribution(dataset(tmp_path / "d", [])) == ",".join(HEADER) + "\n"


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", "\r=", " =", "\n@", "＝"])
def test_no_cell_is_one_that_a_spreadsheet_would_run(tmp_path, sign):
    hostile = f"{sign}HYPERLINK(1)"
    names = ("article_id", "doi", "title", "authors", "journal", "license", "license_code", "source_key", "source_md5", "url", "label")  # fmt: skip # noqa: E501
    (line,) = lines_of(dataset(tmp_path / "d", [article(hostile, **dict.fromkeys(names, hostile))]))
    assert list(line) == list(HEADER)
    assert [cell for cell in line.values() if cell.startswith(tuple("=+-@\t\r\n＝"))] == []
    assert line["title"] == f"'{sign.strip()}HYPERLINK(1)"


def test_a_cell_steers_no_terminal(tmp_path):
    assert line_of(tmp_path, authors="\x1b]0;owned\x07 Smith\u202e")["authors"] == r"\u001b]0;owned\u0007 Smith\u202e"


def test_a_cell_with_quotes_and_commas_comes_back_as_it_was(tmp_path):
    assert line_of(tmp_path, title='A "rare", liver')["title"] == 'A "rare", liver'


@pytest.mark.parametrize(
    ("license_", "url"),
    [
        ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("CC-BY-NC-ND-3.0", "https://creativecommons.org/licenses/by-nc-nd/3.0/"),
        ("CC-BY-NC-ND-1.0", "https://creativecommons.org/licenses/by-nd-nc/1.0/"),
        ("CC-BY-SA-2.5", "https://creativecommons.org/licenses/by-sa/2.5/"),
        ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC-BY", ""),
        ("CC-BY-5.0", ""),
        ("CC-BY-4.0/../..", ""),
        ("unknown", ""),
    ],
)
def test_a_licence_has_an_address_only_where_its_version_is_known(license_, url):
    assert license_url(license_) == url


@pytest.mark.parametrize(
    ("license_", "words"), [("CC0-1.0", "licensed CC0 1.0"), ("CC-BY-NC", "licensed CC BY-NC"), ("MIT", "licensed MIT")]
)
def test_the_credit_names_a_licence_as_people_write_it(tmp_path, license_, words):
    assert f", {words};" in line_of(tmp_path, license=license_)["credit"]
