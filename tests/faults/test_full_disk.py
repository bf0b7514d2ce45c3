"""A disk that is full at one point or another of every verb: exit 6, nothing half-written under a name, and it goes on.

The first way to fill it needs no rights: no file may grow past a size.  The second is a file system of its own, as
small as that, for whoever may mount one.
"""

import pytest

from tests.faults.verbs import VERBS
from tests.mounted import mounted, remount

POINTS = 10
SMALL, FULL = 300, 0.98
"""The least room in bytes, in which the lock fits, and the most as a share of the largest file."""


def largest(folder):
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def room_at(point, folder):
    """The size of the ``point``-th of so many full disks, evenly spread in powers between the two bounds."""
    return int(SMALL * (FULL * largest(folder) / SMALL) ** (point / (POINTS - 1)))


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[] if point in (1, 9) else pytest.mark.slow) for point in range(POINTS)]
)
def test_without_room_a_verb_ends_with_6_and_with_room_the_same_command_makes_the_same(bench, tmp_path, name, point):
    verb, wanted, _ = bench.verb(name)
    out = tmp_path / "out"
    status = bench.start(verb, out, room=room_at(point, bench.root / name)).wait()
    said = bench.said(out)
    assert status == 6, said
    assert "Traceback" not in said and "error: cannot write to" in said
    assert [path.name for path in out.rglob("*.tmp") if path.is_file()] == []
    assert bench.finish(verb, out) == wanted


@pytest.fixture
def disk(tmp_path):
    """A file system of hardly any room."""
    with mounted(tmp_path / "disk", "size=4096") as folder:
        yield folder


MOST = 0.7
"""Of what a finished run takes, with a page a file, the most that there is room for."""


def total(folder):
    return sum(path.stat().st_size + 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize(
    "share", [pytest.param(tenth * MOST / 9, marks=[] if tenth == 7 else pytest.mark.slow) for tenth in range(10)]
)
def test_a_file_system_that_fills_up_loses_nothing(bench, disk, name, share):
    verb, wanted, _ = bench.verb(name)
    remount(disk, f"size={8192 + int(share * total(bench.root / name))}")
    status, said = bench.start(verb, disk).wait(), bench.said(disk)
    assert (status, "Traceback" in said) == (6, False), said
    remount(disk, f"size={64 << 20}")
    assert bench.finish(verb, disk) == wanted
