"""A run that is killed, refused by the disk or started twice loses nothing and doubles nothing."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from medvlm_cli.core import commit
from medvlm_cli.core.arrow import Harvest, Writer, open_dataset
from medvlm_cli.core.errors import BusyError, DataError, ResourceError
from medvlm_cli.core.schemas import FIGURES
from tests.core.arrow_cases import KEYS, data_of, figure, harvest, write, write_and_die
from tests.mounted import mounted, remount


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole") / "figures"
    write(folder)
    return data_of(folder)


def test_a_run_killed_again_and_again_ends_byte_for_byte_as_one_that_was_not(tmp_path, whole):
    out = tmp_path / "figures"
    kills = [write_and_die(out, random.Random(seed).randrange(2, 14)) for seed in range(8)]
    counts = write(out)
    assert kills == [signal.SIGKILL] * 8
    assert data_of(out) == whole
    assert (counts.found, counts.out, counts.rejected, counts.reasons) == (180, 120, 60, {"no_image": 60})
    assert [path.name for path in out.rglob("*") if path.name.endswith(".tmp") or path.name == ".lock"] == []


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


STEPS = ("DurableFile.settle", "DurableFile.publish", "append_line", "write_text", "remove")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_stop_beside_any_durable_step_is_resumed_to_the_same_bytes(tmp_path, whole, monkeypatch, step, before):
    out = tmp_path / "figures"
    stops = stop_everywhere(monkeypatch, step, before, lambda: write(out))
    assert stops >= (1 if step == "remove" else 3)
    assert data_of(out) == whole


def stop_everywhere(monkeypatch, step, before, run) -> int:
    """Run until it is through, each time stopped one ``step`` later than the last; how often it was stopped."""
    owner = commit.DurableFile if "." in step else commit
    name = step.split(".")[-1]
    real = getattr(owner, name)
    allowed = 0
    while True:
        left = allowed

        def stopping(*arguments):
            nonlocal left
            left -= 1
            if left < 0 and before:
                raise Killed
            real(*arguments)
            if left < 0:
                raise Killed

        monkeypatch.setattr(owner, name, stopping)
        try:
            run()
            return allowed
        except Killed:
            allowed += 1
        finally:
            monkeypatch.setattr(owner, name, real)


def test_a_resumed_run_harvests_only_the_keys_of_unfinished_shards(tmp_path):
    out, seen = tmp_path / "figures", []

    def failing(key):
        seen.append(key)
        return harvest(key) if len(seen) < 30 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        write(out, failing)
    committed = sum(json.loads(line)["found"] for line in (out / "journal.jsonl").read_text().splitlines()) // 3
    again = []
    write(out, lambda key: again.append(key) or harvest(key))
    assert 10 <= committed < 30
    assert len(again) == len(KEYS) - committed
    assert set(again).isdisjoint(seen[:committed])


def interrupted(out: Path) -> list[dict]:
    """Stop a run at its 45th key; its journal lines."""
    left = iter(range(45))
    with pytest.raises(ZeroDivisionError):
        write(out, lambda key: harvest(key) if next(left, None) is not None else 1 / 0)
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def tear_last_line(out, lines):
    path = out / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def damage_last_shard(out, lines):
    path = out / next(iter(lines[-1]["files"]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_first_shard(out, lines):
    path = out / next(iter(lines[0]["files"]))
    path.write_bytes(path.read_bytes()[:-1])


def remove_first_shard(out, lines):
    (out / next(iter(lines[0]["files"]))).unlink()


def leave_an_unjournalled_shard(out, lines):
    (out / "data/part-00003-1.arrow").write_bytes(b"of a run that was cut off")
    (out / "rejects/part-00004.arrow.tmp").write_bytes(b"half")


@pytest.mark.parametrize(
    "harm", [tear_last_line, damage_last_shard, cut_first_shard, remove_first_shard, leave_an_unjournalled_shard]
)
def test_what_a_crash_left_broken_is_made_again(tmp_path, whole, harm):
    out = tmp_path / "figures"
    lines = interrupted(out)
    assert len(lines) >= 2
    harm(out, lines)
    write(out)
    assert data_of(out) == whole
    assert len((out / "journal.jsonl").read_text().splitlines()) == 6


def test_an_id_of_an_earlier_process_is_still_refused(tmp_path):
    out = tmp_path / "figures"
    done = interrupted(out)[0]["shard"]
    taken = open_dataset(out / f"data/part-{done:05d}.arrow", FIGURES).ids[0]
    ids = iter([taken])
    with pytest.raises(DataError, match=re.escape(f"({taken}): 'figure_id' is there already")):
        write(out, lambda key: Harvest(1, [figure(next(ids, key))], []))


def test_a_resumed_run_keeps_the_shards_it_began_with(tmp_path, whole):
    interrupted(tmp_path / "figures")
    write(tmp_path / "figures", keys_per_shard=7)
    assert data_of(tmp_path / "figures") == whole


def test_extra_entries_survive_an_interruption(tmp_path):
    settings = {"stage": "synthesize", "config": {}, "keys": ["a", "b", "c", "d"], "keys_per_shard": 1}
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "x", FIGURES, **settings) as writer:
        shard, keys = next(writer.todo())
        writer.extra["cost_usd"] = 0.25
        writer.commit(shard, [Harvest(1, [figure(key)], []) for key in keys])
        raise KeyboardInterrupt
    with Writer(tmp_path / "x", FIGURES, **settings) as writer:
        writer.extra["cost_usd"] += 0.5
        for shard, keys in list(writer.todo()):
            writer.commit(shard, [Harvest(1, [figure(key)], []) for key in keys])
    assert json.loads((tmp_path / "x/run.json").read_text())["cost_usd"] == 0.75


def test_a_finished_run_is_left_alone(tmp_path):
    out = tmp_path / "figures"
    write(out)
    before = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    counts = write(out, lambda key: 1 / 0)
    after = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    assert after == before
    assert (counts.found, counts.out, counts.rejected, counts.reasons) == (180, 120, 60, {"no_image": 60})


@pytest.mark.parametrize("kind", ["data", "rejects"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_finished_run_that_is_no_longer_what_was_written_is_refused_with_the_file(tmp_path, kind, harm):
    out = tmp_path / "figures"
    write(out)
    file = sorted((out / kind).glob("*.arrow"))[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "flipped": lambda: file.write_bytes(data),
        "cut": lambda: os.truncate(file, len(data) - 1),
        "gone": file.unlink,
    }[harm]()
    with pytest.raises(DataError, match=f"{re.escape(str(file))}: missing, damaged or changed"):
        write(out)


def test_a_second_process_is_turned_away_with_the_holders_name(tmp_path):
    out = tmp_path / "figures"
    command = [sys.executable, "-m", "tests.core.arrow_cases", str(out)]
    holder = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "holding\n"
    try:
        with pytest.raises(BusyError, match=rf"figures is being written by process {holder.pid}@\S+") as caught:
            write(out)
    finally:
        holder.kill()
        holder.wait()
    assert caught.value.exit_code == 7
    assert write(out).out == 120  # the kernel let go of the lock


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"config": {"n": 61}}, "config n: 60 -> 61"),
        ({"config": {"n": 60, "seed": 1}}, "config seed: - -> 1"),
        ({"keys": KEYS[:50]}, "keys count: 60 -> 50"),
        ({"keys": KEYS[::-1]}, 'keys sha256: "'),
        ({"stage": "synthesize"}, 'stage: "fetch" -> "synthesize"'),
        ({"inputs": {"figures": Path(__file__)}}, 'inputs figures: - -> "'),
    ],
)
@pytest.mark.parametrize("begin", [write, interrupted], ids=["finished", "interrupted"])
def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path, begin, changes, difference):
    out = tmp_path / "figures"
    begin(out)
    before = sorted((path, path.read_bytes()) for path in out.rglob("*") if path.is_file())
    with pytest.raises(BusyError, match=re.escape(difference)) as caught:
        write(out, **changes)
    assert caught.value.what.count(" -> ") == 1
    assert sorted((path, path.read_bytes()) for path in out.rglob("*") if path.is_file()) == before


def test_a_folder_with_files_of_something_else_is_refused_and_not_cleaned(tmp_path):
    (tmp_path / "thesis.tmp").write_text("years of work")
    with pytest.raises(BusyError, match="not empty and holds no run of medvlm"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tmp"]


@contextmanager
def largest_file(size: int):
    """Refuse this process files over ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 400, 700, 5_000, 20_000, 41_000])
def test_a_disk_that_refuses_leaves_a_run_that_resumes(tmp_path, whole, size):
    out = tmp_path / "figures"
    with largest_file(size), pytest.raises(ResourceError, match=r"cannot write to \S+figures.*bytes free") as caught:
        write(out)
    assert caught.value.exit_code == 6
    assert list(out.rglob("*.tmp")) == [] and not (out / ".lock").exists()
    write(out)
    assert data_of(out) == whole


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, which a dataset of these tests does not fit into."""
    with mounted(tmp_path / "disk", "size=256k") as disk:
        yield disk


def test_a_full_disk_is_named_and_the_run_resumes_when_there_is_space(small_disk, whole):
    out = small_disk / "figures"
    with pytest.raises(ResourceError, match=r"no space left \([\d,]+ bytes free\)"):
        write(out)
    left = list(out.rglob("*.tmp"))
    remount(small_disk, "size=4m")
    write(out)
    assert left == []
    assert data_of(out) == whole


@pytest.fixture
def read_only_disk(small_disk):
    remount(small_disk, "ro")
    return small_disk


def test_a_read_only_disk_is_refused_before_any_work(read_only_disk):
    with pytest.raises(ResourceError, match="the file system is read-only"):
        write(read_only_disk / "figures", lambda key: 1 / 0)
