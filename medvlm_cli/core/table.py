"""A user's own table, CSV or JSONL in UTF-8, one row an image: what ``fetch folder`` and ``fetch own`` read.

Rows count as a spreadsheet counts them: the header of a CSV is row 1.  A row that is no row is told, not skipped.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core.errors import ConfigError, DataError

IMAGE_COLUMNS = ("image", "file", "filename", "path")
"""Names that the column of the image's path may have."""

Rows = list[tuple[int, dict[str, Any], tuple[str, str] | None]]
"""Row number, values by column, and what is wrong with the row as a whole: (reason, message)."""


def image_folder(given: str, source: str) -> Path:
    """The folder that holds the images of ``source``.

    Raises:
        ConfigError: none is given.
        DataError: it is not a folder.
    """
    if not given:
        raise ConfigError("no folder of images is given", f"medvlm fetch {source} DIR --captions FILE")
    if not Path(given).is_dir():
        raise DataError(f"{given} is not a folder", "give the folder that holds the images")
    return Path(given)


def find_table(root: Path, given: str) -> Path:
    """The table that was given, else the only CSV or JSONL file of the folder.

    Raises:
        DataError: it is not there, or the folder holds none, or several.
    """
    if given:
        if not Path(given).is_file():
            raise DataError(f"captions file {given} is not there", "give a CSV or JSONL file with --captions")
        return Path(given)
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in (".csv", ".jsonl") and path.is_file())
    if len(tables) == 1:
        return tables[0]
    found = f"{len(tables)}: {', '.join(path.name for path in tables)}" if tables else "none"
    raise DataError(
        f"{root} must hold one .csv or .jsonl file with the captions; it holds {found}",
        "write one that says what each image shows, a row an image, or name it: --captions FILE",
    )


def read_table(table: Path, needed: Sequence[str]) -> Rows:
    """The rows of a CSV (comma, semicolon or tab) or JSONL file.

    Args:
        table: the file; its ending tells which of the two it is.
        needed: columns that must be there; the column of the image is called ``image`` in what is returned.

    Raises:
        DataError: the file is not UTF-8, not CSV, or lacks a column; names the line, or the columns it has.
    """
    text = _text(table)
    if table.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_rows(text, table, needed)
    return _csv_rows(text, table, needed)


def word(value: Any) -> str:
    """A cell as text; what JSON holds instead of a string or a number is no text."""
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _text(table: Path) -> str:
    data = table.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{table}, line {line}: not UTF-8 ({error.reason})", "save the file as UTF-8") from error


def _csv_rows(text: str, table: Path, needed: Sequence[str]) -> Rows:
    header_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)  # a spreadsheet writes ; where the comma marks decimals
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: Rows = []
    header: list[str] = []
    number = 0
    try:
        for number, cells in enumerate(reader, 1):
            if number == 1:
                header = _header(cells, table, needed)
            elif any(cell.strip() for cell in cells):
                values = dict(zip(header, cells, strict=False))
                extra = len(cells) > len(header)
                trouble = f"{len(cells)} values for {len(header)} columns; put the caption in quotes"
                rows.append((number, values, ("bad_row", trouble) if extra else None))
    except csv.Error as error:
        raise DataError(f"{table}, row {number + 1}: not CSV ({error})", "mend the quotes of this row") from error
    if not header:
        _header([], table, needed)
    return rows


def _json_rows(text: str, table: Path, needed: Sequence[str]) -> Rows:
    rows: Rows = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            trouble = None if isinstance(content, dict) else ("bad_row", "not a JSON object")
        except (ValueError, RecursionError) as error:
            content, trouble = {}, ("bad_row", f"not JSON ({error})")
        values = content if isinstance(content, dict) else {}
        columns |= dict.fromkeys(values)
        rows.append((number, dict(zip(_renamed(list(values)), values.values(), strict=True)), trouble))
    _header(list(columns), table, needed)
    return rows


def _header(cells: list[str], table: Path, needed: Sequence[str]) -> list[str]:
    """Names of the columns, ``image`` by its own name.

    Raises:
        DataError: a needed column is missing.
    """
    columns = _renamed(cells)
    shown = ", ".join(_tidy(cell) for cell in cells) or "no columns"
    for name in needed:
        if name not in columns:
            other = f" (or {', '.join(IMAGE_COLUMNS[1:])})" if name == "image" else ""
            raise DataError(
                f"{table}: no column '{name}'{other}; it has {shown}", f"add or rename a column to '{name}'"
            )
    return columns


def _renamed(cells: list[str]) -> list[str]:
    columns = [_tidy(str(cell)).lower() for cell in cells]
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    return ["image" if name == image else name for name in columns]


def _tidy(cell: str) -> str:
    return " ".join(cell.replace("\ufeff", "").split())
