"""Folders that may not be written, and names and texts that are not UTF-8."""

import os
import subprocess
import sys

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import FIGURES
from tests.faults.verbs import VERBS
from tests.mounted import mounted
from tests.synthesis import PICTURE, environment


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody may write to."""
    with mounted(tmp_path / "read-only", "ro") as folder:
        yield folder


@pytest.mark.parametrize("name", VERBS)
def test_a_folder_that_may_only_be_read_ends_a_verb_with_6_before_it_does_anything(bench, read_only, name):
    verb, _, _ = bench.verb(name)
    fork = bench.start(verb, read_only)
    assert fork.wait() == 6, bench.said(read_only)
    assert bench.said(read_only).startswith("error: cannot write to")
    assert "read-only" in bench.said(read_only)
    assert fork.operations() <= 1  # it tried to make its folder


def folder(root, table):
    (root / "in").mkdir()
    (root / "in" / "table.csv").write_bytes(table)
    (root / "in" / "good.png").write_bytes(PICTURE)
    return root / "in"


def fetch(root, given, log, bench):
    return bench.forks.run(["fetch", "folder", given, "-o", root / "out", "-q"], log)


def test_a_picture_whose_name_is_not_utf_8_does_not_end_the_fetch_of_the_others(bench, tmp_path):
    given = folder(tmp_path, b"image,caption\ngood.png,A good scan.\n")
    (given / os.fsdecode(b"\xff\xfe.png")).write_bytes(PICTURE)
    assert fetch(tmp_path, given, tmp_path / "log.txt", bench) in (0, 3)
    assert open_dataset(tmp_path / "out", FIGURES).ids == ["good"]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("table.csv", b"image,caption\ngood.png,A \xff scan.\n"),
        ("table.jsonl", b'{"image": "good.png", "caption": "\xff"}\n'),
    ],
)
def test_a_table_that_is_not_utf_8_ends_with_4_and_its_name(bench, tmp_path, name, table):
    given = folder(tmp_path, b"")
    (given / "table.csv").unlink()
    (given / name).write_bytes(table)
    assert fetch(tmp_path, given, tmp_path / "log.txt", bench) == 4
    said = (tmp_path / "log.txt").read_text()
    assert name in said and "Traceback" not in said


def test_a_closed_standard_input_is_nothing_to_a_verb_that_reads_none(tmp_path):
    line = 'exec "$0" -m medvlm_cli fetch phantom --set n=2 -o "$1" -q <&-'
    words = ["bash", "-c", line, sys.executable, str(tmp_path / "out")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
