"""``ATTRIBUTION.csv``: whose each figure is, under which licence, and a sentence that credits it.

The titles, authors and names in it come from outside, and the file is made to be opened in a spreadsheet: no cell is
left that one would run.
"""

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from medvlm_cli.core.arrow import Dataset
from medvlm_cli.core.clean import clean

_COPIED = {
    "figure_id": "figure_id",
    "article_id": "article_id",
    "version": "article_version",
    "doi": "doi",
    "title": "title",
    "authors": "authors",
    "journal": "journal",
    "year": "year",
    "license": "license",
    "license_code": "license_code",
    "commercial_ok": "commercial_ok",
    "third_party": "third_party",
    "source_key": "source_key",
    "source_md5": "source_md5",
    "url": "url",
}
"""Cells that repeat a column of the dataset, and its name there; empty where the dataset lacks it."""

HEADER = (
    *("figure_id", "article_id", "version", "doi", "title", "authors", "journal", "year", "license", "license_url"),
    *("license_code", "commercial_ok", "third_party", "source_key", "source_md5", "url", "credit"),
)
"""The cells of a line, in order."""

_CC = re.compile(r"CC-(?P<terms>BY(?:-NC)?(?:-SA|-ND)?)-(?P<version>1\.0|2\.0|2\.5|3\.0|4\.0)")
_RUNS = re.compile(r"[=+\-@＝＋－＠]")
"""How a cell begins that a spreadsheet takes for a formula; some read the full-width signs as well."""


def attribution(dataset: Dataset) -> str:
    """The text of ``ATTRIBUTION.csv``: a header, then one line a figure, in the order of the rows.

    Args:
        dataset: figures/1; its images are not read.

    Raises:
        DataError: a file of the dataset is not what it was.
    """
    wanted = {*_COPIED.values(), "label"}
    text = io.StringIO()
    lines = csv.DictWriter(text, HEADER, lineterminator="\n")
    lines.writeheader()
    for row in dataset.rows([column for column in dataset.columns if column in wanted]):
        cells = {name: row.get(column) for name, column in _COPIED.items()}
        cells |= {"license_url": license_url(row["license"]), "credit": _credit(row)}
        lines.writerow({name: _cell(value) for name, value in cells.items()})
    return text.getvalue()


def license_url(license_: str) -> str:
    """The address of a Creative Commons licence; empty for another one, and where the version is not known.

    Source: the addresses that creativecommons.org gives the licences; 1.0 alone calls NC-ND "nd-nc".

    Args:
        license_: SPDX identifier, ``CC-BY-NC-4.0``.
    """
    if license_ == "CC0-1.0":
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    match = _CC.fullmatch(license_)
    if match is None:
        return ""
    terms, version = match["terms"].lower(), match["version"]
    if version == "1.0":
        terms = terms.replace("nc-nd", "nd-nc")
    return f"https://creativecommons.org/licenses/{terms}/{version}/"


def _credit(row: Mapping[str, Any]) -> str:
    """``"Title", Smith J, Doe A, Journal 2020, https://doi.org/10.1/x, licensed CC BY 4.0; Figure 2``."""
    title = _flat(row.get("title"))
    doi = _flat(row.get("doi"))
    parts = [
        f'"{title}"' if title else _flat(row["figure_id"]),
        _flat(row.get("authors")),
        f"{_flat(row.get('journal'))} {_flat(row.get('year'))}".strip(),
        f"https://doi.org/{doi}" if doi else "",
        _licensed(row["license"]),
    ]
    ends = [_flat(row.get("label")), "parts belong to a third party" if row["third_party"] else ""]
    return "; ".join([", ".join(part for part in parts if part), *(end for end in ends if end)])


def _licensed(license_: str) -> str:
    """``licensed CC BY-NC 4.0``: as Creative Commons writes it, not as SPDX does."""
    if license_ in ("", "unknown"):
        return "licence unknown"
    return "licensed " + re.sub(r"-(?=\d)", " ", _flat(license_).replace("CC-BY", "CC BY"))


def _cell(value: Any) -> str:
    text = _flat(str(value).lower() if isinstance(value, bool) else value)
    return f"'{text}" if _RUNS.match(text) else text


def _flat(value: Any) -> str:
    """On one line, and without what steers a terminal."""
    return "" if value is None else clean(" ".join(str(value).split()))
