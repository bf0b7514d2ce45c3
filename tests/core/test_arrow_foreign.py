"""Arrow files that another program wrote: taken when they hold the columns, refused with what differs when not."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import FIGURES
from tests.core.arrow_cases import figure


def table_of(*rows, **casts) -> pa.Table:
    table = pa.Table.from_pylist(list(rows), schema=FIGURES)
    fields = [pa.field(field.name, casts.get(field.name, field.type)) for field in FIGURES]
    return table.cast(pa.schema(fields))


def foreign(path: Path, table: pa.Table, new=pa.ipc.new_file, **options) -> Path:
    """A file that another program wrote."""
    with new(str(path), table.schema, **options) as writer:
        writer.write_table(table)
    return path


STORED = {
    "plain": {},
    "large": {"caption": pa.large_string(), "mentions": pa.large_list(FIGURES.field("mentions").type.value_type)},
    "views": {"caption": pa.string_view(), "figure_id": pa.string_view()},
    "large image": {"image": pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])},
}


@pytest.mark.parametrize("stored", STORED)
def test_a_file_of_another_program_is_taken_however_it_stores_the_same(tmp_path, stored):
    rows = [figure("a"), figure("b")]
    dataset = open_dataset(foreign(tmp_path / "x.arrow", table_of(*rows, **STORED[stored])), FIGURES)
    assert list(dataset.rows()) == rows
    assert dataset.row("b") == rows[1]
    assert list(dataset.rows(["caption"])) == [{"caption": row["caption"]} for row in rows]


def test_columns_of_which_the_schema_knows_nothing_are_kept(tmp_path):
    table = table_of(figure("a")).append_column("site", pa.array(["north"]))
    dataset = open_dataset(foreign(tmp_path / "x.arrow", table), FIGURES)
    assert dataset.row("a") == figure("a") | {"site": "north"}


ROW = figure("a")
REFUSED = {
    "column missing": (table_of(ROW).drop_columns(["caption"]), "is not figures/1: 'caption' is missing"),
    "other types": (
        table_of(ROW, width=pa.int64(), label=pa.binary()),
        "'width' is int64, not int32; 'label' is binary, not string",
    ),
    "null": (table_of(ROW, figure("b", caption=None)), "row 1 (b): 'caption' is null, figures/1 requires it"),
    "short hash": (
        table_of(ROW, image_sha256=pa.binary()).set_column(3, "image_sha256", pa.array([b"x"])),
        "row 0 (a): 'image_sha256' is not 32 bytes long",
    ),
    "id twice": (table_of(ROW, figure("b"), ROW), "id 'a' is there 2 times"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_with_other_columns_or_rows_is_refused_column_by_column(tmp_path, case):
    table, message = REFUSED[case]
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        open_dataset(foreign(tmp_path / "x.arrow", table), FIGURES)
    assert str(tmp_path / "x.arrow") in caught.value.what


def test_the_stream_format_is_told_apart(tmp_path):
    with pytest.raises(DataError, match=r"x\.arrow: Arrow's stream format, not its file format"):
        open_dataset(foreign(tmp_path / "x.arrow", table_of(ROW), pa.ipc.new_stream), FIGURES)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "not an Arrow file"), (b"id,caption", "not an Arrow"), (b"ARROW1\0\0", "not a whole")]
)
def test_a_file_of_something_else_is_refused(tmp_path, data, message):
    (tmp_path / "x.arrow").write_bytes(data)
    with pytest.raises(DataError, match=f"x.arrow: {message}"):
        open_dataset(tmp_path / "x.arrow", FIGURES)


def test_no_flipped_bit_of_a_foreign_file_gets_past_as_anything_but_a_data_error(tmp_path):
    whole = foreign(tmp_path / "x.arrow", table_of(ROW)).read_bytes()
    script = """
import sys
from pathlib import Path
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import FIGURES
path, whole, refused = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes(), 0
for place in range(0, len(whole), 11):
    data = bytearray(whole)
    data[place] ^= 1 << place % 8
    path.write_bytes(data)
    try:
        list(open_dataset(path, FIGURES).rows())
    except DataError:
        refused += 1
print(refused)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "x.arrow"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert 30 < int(done.stdout) < len(whole) // 11
