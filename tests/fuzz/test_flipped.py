"""Flipped bits in Arrow files: of our datasets every one is found, of other programs' files none ends the process."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from medvlm_cli.core.schemas import FIGURES
from tests.core.arrow_cases import figure, write

ROOT = Path(__file__).parents[2]
MOST_MEMORY = 2 << 30
MANY = pytest.param(3000, marks=pytest.mark.slow)


def flip(place, file, count):
    """What became of so many flips, and the most memory that took."""
    command = [sys.executable, "-m", "tests.fuzz.flipping", place, file, str(count), "11"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    return said["told"], said["peak"]


@pytest.mark.parametrize("count", [150, MANY])
def test_no_flip_in_a_dataset_of_ours_gives_other_rows(tmp_path, count):
    write(tmp_path / "figures", keys=["PMC1", "PMC2"])
    (file,) = (tmp_path / "figures/data").glob("*.arrow")
    told, peak = flip(tmp_path / "figures", file, count)
    assert told == {"refused": count}
    assert peak < MOST_MEMORY


@pytest.mark.parametrize("count", [150, MANY])
def test_no_flip_in_a_file_of_another_program_ends_the_process(tmp_path, count):
    table = pa.Table.from_pylist([figure("a"), figure("b")], schema=FIGURES)
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    told, peak = flip(tmp_path / "x.arrow", tmp_path / "x.arrow", count)
    assert told.keys() <= {"refused", "same", "other"}  # nobody vouches for the bytes of an image
    assert sum(told.values()) == count and told["refused"] > count // 50
    assert peak < MOST_MEMORY
