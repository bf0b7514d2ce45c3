"""Two processes on one folder, four on the parts of one dataset, and clocks that lie."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import FIGURES
from tests.faults.verbs import VERBS, rows, settings

RACES = 20
YEARS = {"1990": 631_152_000, "2040": 2_208_988_800}


def phantoms(out, *more, count=4):
    return ["fetch", "phantom", "-o", out, "-q", "-c", "tiny", *settings(n=count), *more]


def race(forks, root, **more):
    """Two processes on one folder at once; whoever has it waits until the other one has it too, or has ended.

    Returns:
        Their statuses, what they said, their pids, and how many had the folder.
    """
    root.mkdir()
    gate, logs = root / "gate", [root / "first.log", root / "second.log"]
    each = [forks.start(phantoms(root / "out"), log, gate=gate, **more) for log in logs]
    held = gate.with_suffix(".held")
    while all(forks.is_running(one.pid) for one in each) and not (held.exists() and held.stat().st_size == 2):
        time.sleep(0.001)
    gate.touch()
    return (
        [one.wait() for one in each],
        [log.read_text() for log in logs],
        [one.pid for one in each],
        held.stat().st_size,
    )


@pytest.fixture(scope="module")
def raced(forks, tmp_path_factory):
    root = tmp_path_factory.mktemp("races")
    return [(root / str(number), *race(forks, root / str(number))) for number in range(RACES)]


def test_of_two_processes_on_one_folder_one_writes_and_the_other_ends_with_7(raced):
    assert [(sorted(statuses), holders) for _, statuses, _, _, holders in raced] == [([0, 7], 1)] * RACES
    assert {len(rows(root / "out", FIGURES)) for root, *_ in raced} == {4}


def test_the_one_that_is_turned_away_names_the_one_that_writes(raced):
    told = [(said[statuses.index(7)], pids[statuses.index(0)]) for _, statuses, said, pids, _ in raced]
    assert [said for said, pid in told if f"is being written by process {pid}@" not in said] == []


def test_without_the_lock_both_would_write(forks, tmp_path):
    assert race(forks, tmp_path / "race", locks=False)[3] == 2


def test_when_the_holder_is_killed_the_next_starts(forks, tmp_path):
    holder = forks.start(phantoms(tmp_path / "out"), tmp_path / "first.log")
    holder.follow(30, 0)
    assert holder.end(signal.SIGKILL) == 128 + signal.SIGKILL
    assert (tmp_path / "out" / ".lock").exists()
    assert forks.run(phantoms(tmp_path / "out"), tmp_path / "second.log") == 0


# ---------------------------------------------------------------------- parts


@pytest.fixture
def parts(forks, tmp_path):
    """Four processes on the four parts of a dataset, the third killed: the folder, and how each ended."""
    out = tmp_path / "parts"
    each = [
        forks.start(phantoms(out, "--shard", f"{number}/4", count=24), tmp_path / f"{number}.log")
        for number in range(4)
    ]
    each[2].follow(40, 0)
    return out, [each[2].end(signal.SIGKILL), *(each[number].wait() for number in (0, 1, 3))]


def test_a_part_of_four_that_was_killed_is_missing_until_its_command_is_run_again(forks, parts, tmp_path):
    out, statuses = parts
    assert statuses == [128 + signal.SIGKILL, 0, 0, 0]
    with pytest.raises(DataError, match="part 2 of 4 is not finished") as refused:
        open_dataset(out, FIGURES)
    assert "--shard 2/4" in refused.value.fix
    assert forks.run(phantoms(out, "--shard", "2/4", count=24), tmp_path / "2.log") == 0
    assert forks.run(phantoms(tmp_path / "whole", count=24), tmp_path / "whole.log") == 0
    assert rows(out, FIGURES) == rows(tmp_path / "whole", FIGURES)


def test_a_gap_and_an_overlap_between_parts_are_refused(parts):
    out, _ = parts
    folders = {path.name: path for path in out.iterdir()}
    shutil.rmtree(folders["shard-00002-of-00004"])
    with pytest.raises(DataError, match="part 2 of 4 is missing"):
        open_dataset(out, FIGURES)
    shutil.copytree(folders["shard-00001-of-00004"], folders["shard-00002-of-00004"])
    with pytest.raises(DataError, match="two parts hold the same row"):
        open_dataset(out, FIGURES)


# ---------------------------------------------------------------------- clocks


def date(folder: Path, year):
    """Have everything in a folder be of another year."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (YEARS[year], YEARS[year]))


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("year", YEARS)
def test_a_run_goes_on_where_it_stopped_whatever_the_dates_of_its_files(bench, tmp_path, name, year):
    verb, wanted, operations = bench.verb(name)
    fork = bench.start(verb, tmp_path / "out")
    fork.follow(2 * operations // 3, 0)
    fork.end(signal.SIGKILL)
    shutil.copytree(tmp_path / "out", tmp_path / "dated")
    (tmp_path / "out.progress").unlink()
    date(tmp_path / "dated", year)
    again = [bench.start(verb, tmp_path / folder) for folder in ("out", "dated")]
    assert [fork.wait() for fork in again] == [0, 0]
    assert len({fork.operations() for fork in again}) == 1
    assert verb.found(tmp_path / "dated") == wanted


def contents(folder):
    """The files of a run; of scores, which are made anew each time, without when."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: re.sub(rb'"made": "[^"]*"', b"", path.read_bytes()) for path in files}


@pytest.mark.parametrize("name", VERBS)
def test_a_finished_run_is_finished_whatever_the_dates_of_its_files(bench, tmp_path, name):
    verb, _, _ = bench.verb(name)
    shutil.copytree(bench.root / name, tmp_path / "out")
    bench.finish(verb, tmp_path / "out")  # the scores of answers name their folder
    before = contents(tmp_path / "out")
    date(tmp_path / "out", "1990")
    bench.finish(verb, tmp_path / "out")
    assert contents(tmp_path / "out") == before
