"""``fetch`` from outside: killed at any moment it goes on, over several processes or one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import BusyError, ConfigError, DataError
from medvlm_cli.core.schemas import FIGURES, QUESTIONS
from medvlm_cli.stages.fetch import fetch

FETCH = [sys.executable, "-m", "medvlm_cli", "fetch", "phantom", "--set", "n=640", "-q", "-o"]


def quiet(what, done, total):
    pass


def wait_until(happens, seconds=60):
    """Poll; False when it does not happen in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.02)
    return False


def children(pid):
    told = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]  # each thread has its own
    return [int(child) for children in told for child in children.split()]


def test_killed_after_its_first_shard_it_ends_with_the_same_bytes_and_leaves_no_process(tmp_path):
    run = subprocess.Popen([*FETCH, str(tmp_path / "killed")])
    assert wait_until((tmp_path / "killed/journal.jsonl").exists)
    workers = children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert len(workers) >= 1
    assert wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 10)
    assert not (tmp_path / "killed/manifest.json").exists()
    fetch("phantom", tmp_path / "killed", FetchConfig(n=640), quiet)
    fetch("phantom", tmp_path / "whole", FetchConfig(n=640), quiet)
    names = sorted(path.name for path in (tmp_path / "whole/data").iterdir())
    assert len(names) == 2
    assert [(tmp_path / "killed/data" / name).read_bytes() for name in names] == [
        (tmp_path / "whole/data" / name).read_bytes() for name in names
    ]


def test_a_benchmark_becomes_questions_and_a_source_figures(tmp_path):
    fetch("phantom", tmp_path / "figures", FetchConfig(n=40), quiet)
    fetch("phantom-vqa", tmp_path / "questions", FetchConfig(questions=40), quiet)
    figures, questions = open_dataset(tmp_path / "figures", FIGURES), open_dataset(tmp_path / "questions", QUESTIONS)
    seen = {row["image_sha256"] for row in figures.rows(["image_sha256"])}
    assert len(seen) == 40
    assert len(questions) > 100


def test_a_changed_setting_is_another_run(tmp_path):
    fetch("phantom", tmp_path / "out", FetchConfig(n=40), quiet)
    with pytest.raises(BusyError, match="seed"):
        fetch("phantom", tmp_path / "out", FetchConfig(n=40, seed=1), quiet)


def test_a_source_of_nothing_usable_is_refused_with_the_first_reason(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\nlost.png,A scan.\n")
    with pytest.raises(DataError, match=r"folder: not one of 1 records became a row.*missing_image: t.csv, row 2"):
        fetch("folder", tmp_path / "out", FetchConfig(images=str(tmp_path)), quiet)


def test_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no source 'pubmed'"):
        fetch("pubmed", tmp_path / "out", FetchConfig(), quiet)
