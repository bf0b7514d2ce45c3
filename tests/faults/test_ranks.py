"""A rank of two or four that is killed, stopped or hangs: all end by themselves, and the one at fault is named."""

import signal

import pytest

from medvlm_cli.core.errors import ResourceError
from medvlm_cli.core.processes import cause
from tests.core.test_watch import ended, start, state  # noqa: F401 - fixtures

FAULTS = {"kill": "left no word", "stop": "it has done nothing for 2 s", "hang": "it has done nothing for 2 s"}
CASES = [(world, fault) for world in (2, 4) for fault in FAULTS]


@pytest.mark.parametrize(
    ("world", "fault"),
    [pytest.param(*case, marks=[] if case == (4, "hang") else pytest.mark.slow) for case in CASES],
)
def test_of_many_ranks_the_one_that_is_gone_or_hangs_is_named_and_all_end(state, start, world, fault):  # noqa: F811
    statuses = ended(start(fault, ["this"] * world))
    assert statuses[-1] == -signal.SIGKILL and 0 not in statuses
    error = cause(state, world)
    assert isinstance(error, ResourceError)
    assert error.what.startswith(f"rank {world - 1} of {world}") and FAULTS[fault] in error.what


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trial", range(20))
def test_of_four_ranks_the_one_that_is_killed_is_named_every_time(state, start, trial):  # noqa: F811
    assert ended(start("kill", ["this"] * 4))[3] == -signal.SIGKILL
    assert cause(state, 4).what.startswith("rank 3 of 4 left no word")
