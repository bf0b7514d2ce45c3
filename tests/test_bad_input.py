"""Bad input from outside: one clear line that names file and row, the right exit code, and nothing lost."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.commit import Lock
from medvlm_cli.core.schemas import FIGURES

ENVIRONMENT = os.environ | {"MEDVLM_WORKSPACE": "", "OMP_NUM_THREADS": "1"}


def medvlm(folder, *argv, before=""):
    line = f'{before} exec "$0" -m medvlm_cli "$@"'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *argv],
        cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip


def images(root, table):
    """A folder with a good image, a cut one, and a table."""
    (root / "in").mkdir()
    Image.effect_noise((64, 64), 50).convert("RGB").save(root / "in" / "good.png")
    (root / "in" / "cut.png").write_bytes((root / "in" / "good.png").read_bytes()[:900])
    (root / "in" / "t.csv").write_text(table)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cut.png,A scan.", "corrupt_image: t.csv, row 3: cut.png"),
        ("cut.png,", "missing_caption: t.csv, row 3: no caption for cut.png"),
        ("lost.png,A scan.", "missing_image: t.csv, row 3:"),
    ],
)
def test_a_row_that_cannot_be_used_is_rejected_by_name_and_the_rest_is_kept(tmp_path, line, said):
    images(tmp_path, f"image,caption\ngood.png,A good scan.\n{line}\n")
    done = medvlm(tmp_path, "fetch", "folder", "in")
    assert done.returncode == 3
    assert said in done.stdout
    dataset = open_dataset(tmp_path / "medvlm-workspace/figures/folder", FIGURES)
    assert dataset.ids == ["good"]
    assert len(list(dataset.rejects())) >= 1


def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path):
    images(tmp_path, "image,text\ngood.png,A good scan.\n")
    done = medvlm(tmp_path, "fetch", "folder", "in")
    assert done.returncode == 4
    assert done.stderr.startswith("error: in/t.csv: no column 'caption'; it has image, text\n  fix: ")


def test_a_dataset_of_another_schema_is_refused_by_its_name(tmp_path):
    assert medvlm(tmp_path, "fetch", "phantom-vqa", "--set", "questions=40").returncode == 0
    done = medvlm(tmp_path, "synthesize", "medvlm-workspace/questions/phantom-vqa")
    assert done.returncode == 4
    assert "questions/1" in done.stderr and "figures/1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_checkpoint_names_the_command_that_makes_one(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    done = medvlm(tmp_path, "chat", "a.png", "-p", "What?", "--checkpoint", "nowhere")
    assert done.returncode == 4
    assert "nowhere" in done.stderr and "make demo" in done.stderr and "hub" in done.stderr


def test_a_chat_without_a_question_is_refused(tmp_path):
    done = medvlm(tmp_path, "chat", "--checkpoint", "x", "-p", " ")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no question is given\n")


def test_a_second_process_on_one_folder_is_refused_and_told_who_writes(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    lock = Lock(out)
    lock.acquire()
    done = medvlm(tmp_path, "fetch", "phantom", "--set", "n=40", "-o", "out")
    lock.release()
    assert done.returncode == 7
    assert f"process {os.getpid()}@" in done.stderr


def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(tmp_path):
    fetch = ("fetch", "phantom", "--set", "n=40", "-q", "-o")
    full = medvlm(tmp_path, *fetch, "out", before="ulimit -f 200;")
    assert full.returncode == 6
    assert full.stderr.startswith("error: cannot write to out")
    assert [path.name for path in (tmp_path / "out/data").iterdir()] == []
    assert medvlm(tmp_path, *fetch, "out").returncode == medvlm(tmp_path, *fetch, "whole").returncode == 0
    first, second = (tmp_path / name / "data/part-00000.arrow" for name in ("out", "whole"))
    assert first.read_bytes() == second.read_bytes()
