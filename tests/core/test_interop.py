"""A figures dataset of ours opens, as it is, in what people use."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset
import pytest
from PIL import Image

from medvlm_cli.core.arrow import Harvest, open_dataset
from medvlm_cli.core.schemas import FIGURES
from tests.core.arrow_cases import figure, write

duckdb = pytest.importorskip("duckdb")
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pytest.importorskip("datasets")

IDS = [f"PMC{number}" for number in range(9)]


def picture(key: str) -> Harvest:
    """A figure that decodes: five by four pixels of red, as PNG."""
    data = io.BytesIO()
    Image.new("RGB", (5, 4), (200, 0, 0)).save(data, "PNG")
    return Harvest(1, [figure(key, image={"bytes": data.getvalue(), "path": None})], [])


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> Path:
    """Three shards."""
    folder = tmp_path_factory.mktemp("interop") / "figures"
    write(folder, picture, keys=IDS, keys_per_shard=3)
    return folder


@pytest.fixture(scope="module")
def files(figures) -> list[str]:
    paths = sorted(map(str, figures.glob("data/*.arrow")))
    assert len(paths) == 3
    return paths


LOAD = """
import sys
from datasets import load_dataset
streamed = load_dataset("arrow", data_files=sys.argv[2:], split="train", streaming=True)
copied = load_dataset("arrow", data_files=sys.argv[2:], split="train")
folder = load_dataset(sys.argv[1], split="train")  # by the front matter of the card
for rows in (streamed, copied, folder):
    rows = list(rows)
    print(sorted(row["figure_id"] for row in rows))
    print({(row["image"].size, row["image"].getpixel((1, 1)), row["mentions"][0]["panel"]) for row in rows})
    print({(row["caption"], row["width"]) for row in rows if row["figure_id"] == "PMC4"})
"""


def test_hugging_face_datasets_opens_it_with_decoded_images(figures, files, tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(figures), *files], env=environment, capture_output=True, text=True
    )
    expected = [str(IDS), "{((5, 4), (200, 0, 0), None)}", "{('Caption of PMC4: größer.', 3)}"]
    assert done.stdout.splitlines() == expected * 3, done.stderr


def test_pyarrow_dataset_opens_it(files):
    table = pyarrow.dataset.dataset(files, format="ipc").to_table(columns=["figure_id", "width"])
    assert sorted(table["figure_id"].to_pylist()) == IDS


def test_polars_opens_it(files):
    frame = polars.concat([polars.read_ipc(path) for path in files])
    assert sorted(frame["figure_id"]) == IDS
    assert frame["image"].struct.field("bytes")[0][:4] == b"\x89PNG"


def test_what_polars_wrote_is_read_again(files, tmp_path):
    polars.read_ipc(files[0]).write_ipc(tmp_path / "polars.arrow", compression="uncompressed")
    assert list(open_dataset(tmp_path / "polars.arrow", FIGURES).rows()) == list(
        open_dataset(Path(files[0]), FIGURES).rows()
    )


def test_pandas_opens_it(files):
    frame = pandas.concat([pandas.read_feather(path) for path in files])
    assert sorted(frame["figure_id"]) == IDS
    assert frame["image"].iloc[0]["bytes"][:4] == b"\x89PNG"


def test_duckdb_queries_it_through_pyarrow_dataset(files):
    table = pyarrow.dataset.dataset(files, format="ipc")
    with duckdb.connect() as connection:
        connection.register("figures", table)
        found = connection.execute(
            "select figure_id, octet_length(image.bytes) from figures where width = 3"
        ).fetchall()
    assert sorted(id_ for id_, _ in found) == IDS
    assert min(size for _, size in found) > 50
