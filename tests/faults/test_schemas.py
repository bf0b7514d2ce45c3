"""Arrow files whose columns are not quite the schema's, given to a verb: taken as they are meant, or refused with 4."""

import re

import pyarrow as pa
import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES
from tests.inside import medvlm
from tests.synthesis import figure

COUNT = 3
ROWS = [row for number in range(COUNT) for row in figure(str(number)).rows]


def table(**types):
    """Figures whose columns have these types."""
    made = pa.Table.from_pylist(ROWS, schema=FIGURES)
    return made.cast(pa.schema([pa.field(one.name, types.get(one.name, one.type)) for one in FIGURES]))


def replaced(name, array):
    made = table()
    return made.set_column(made.column_names.index(name), name, array)


def nested(optional):
    """Figures whose images are structs with children that may be null, or may not."""
    children = [pa.field("bytes", pa.binary(), nullable=optional), pa.field("path", pa.string(), nullable=optional)]
    images = [{"bytes": row["image"]["bytes"], "path": "a.png"} for row in ROWS]
    return replaced("image", pa.array(images, pa.struct(children)))


TAKEN = {
    "extra column": lambda: table().append_column("site", pa.array(["north"] * COUNT)),
    "large_string": lambda: table(caption=pa.large_string(), figure_id=pa.large_string()),
    "string_view": lambda: table(caption=pa.string_view(), license=pa.string_view()),
    "reordered columns": lambda: table().select(FIGURES.names[::-1]),
    "struct with nullable children": lambda: nested(True),
    "struct with required children": lambda: nested(False),
    "hash of any length": lambda: table(image_sha256=pa.binary()),
    "no metadata": lambda: table().replace_schema_metadata(None),
}
REFUSED = {
    "missing column": (lambda: table().drop_columns(["caption"]), "'caption' is missing"),
    "other type": (lambda: table(width=pa.int64()), "'width' is int64, not int32"),
    "dictionary": (
        lambda: replaced("license", table()["license"].dictionary_encode()),
        "'license' is dictionary<values=string, indices=int32, ordered=0>, not string",
    ),
    "null in required": (
        lambda: replaced("caption", pa.array(["A.", None, "B."])),
        "row 1 (PMC1/fig1): 'caption' is null, figures/1 requires it",
    ),
    "wrong fixed size": (
        lambda: replaced("image_sha256", pa.array([b"x" * 16] * COUNT, pa.binary(16))),
        "'image_sha256' is fixed_size_binary[16], not fixed_size_binary[32]",
    ),
    "two at once": (
        lambda: table(width=pa.int64(), height=pa.float32()).drop_columns(["license"]),
        "'width' is int64, not int32; 'height' is float, not int32; 'license' is missing",
    ),
}


def written(path, made, new=pa.ipc.new_file):
    with new(str(path), made.schema) as writer:
        writer.write_table(made)
    return path


def synthesize(tmp_path, file):
    return medvlm("synthesize", file, "--teacher", "template", "-o", tmp_path / "out", "-q")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Conversations about the figures as the schema has them."""
    root = tmp_path_factory.mktemp("plain")
    assert synthesize(root, written(root / "figures.arrow", table())).returncode == 0
    return captions(root)


def captions(root):
    return sorted(row["turns"][1]["text"] for row in open_dataset(root / "out" / "captions", CONVERSATIONS).rows())


@pytest.mark.parametrize("variant", TAKEN)
def test_a_file_that_says_the_same_in_another_way_is_taken_as_it_is_meant(tmp_path, plain, variant):
    done = synthesize(tmp_path, written(tmp_path / "figures.arrow", TAKEN[variant]()))
    assert done.returncode == 0, done.stderr
    assert captions(tmp_path) == plain


@pytest.mark.parametrize("variant", REFUSED)
def test_a_file_that_says_something_else_ends_with_4_and_every_difference(tmp_path, variant):
    make, said = REFUSED[variant]
    done = synthesize(tmp_path, written(tmp_path / "figures.arrow", make()))
    assert done.returncode == 4
    assert re.search(rf"error: .*figures\.arrow.*{re.escape(said)}\n  fix: ", done.stderr), done.stderr
    assert not (tmp_path / "out" / "captions" / "manifest.json").exists()


def test_the_stream_format_ends_with_4_and_how_to_write_the_other(tmp_path):
    done = synthesize(tmp_path, written(tmp_path / "figures.arrow", table(), pa.ipc.new_stream))
    assert (done.returncode, "instead of new_stream" in done.stderr) == (4, True)


def test_an_older_number_of_a_schema_ends_with_4_and_both_numbers(tmp_path):
    assert medvlm("fetch", "phantom", "--set", "n=2", "-o", tmp_path / "figures", "-q").returncode == 0
    manifest = tmp_path / "figures" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"figures/1"', '"figures/0"'))
    done = synthesize(tmp_path, tmp_path / "figures")
    assert (done.returncode, "holds figures/0, not figures/1" in done.stderr) == (4, True)
