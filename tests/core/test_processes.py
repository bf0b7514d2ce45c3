"""What is reported when a rank fails.  That ranks train as one process does is tested with ``pretrain``."""

import json

import pytest

from medvlm_cli.core.errors import DataError, ResourceError
from medvlm_cli.core.processes import cause

TORCHRUN = """
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 5489)  (SIGTERM)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-23_21:01:33
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 5490)  (SIGKILL)
"""


@pytest.fixture
def state(tmp_path):
    (tmp_path / "errors").mkdir()
    (tmp_path / "launch.log").write_text(TORCHRUN)
    return tmp_path


def leave(state, rank, **told):
    known = {"rank": rank, "code": None, "what": "", "fix": "", "traceback": ""}
    (state / "errors" / f"rank-{rank}.json").write_text(json.dumps(known | told))


def test_the_first_rank_to_fail_is_thecause(state):
    leave(state, 0, time=12.5, type="RuntimeError", what="connection closed by peer")
    leave(state, 1, time=12.1, type="DataError", what="figure 9: not a readable image", fix="drop it")
    error = cause(state, 2)
    assert isinstance(error, DataError) and error.exit_code == 4
    assert (error.what, error.fix) == ("rank 1 of 2: figure 9: not a readable image", "drop it")


def test_a_bug_keeps_its_traceback(state):
    leave(state, 1, time=1.0, type="KeyError", traceback="Traceback ...\nKeyError: 'x'")
    assert "rank 1 of 2:\nTraceback ...\nKeyError: 'x'" in str(cause(state, 2))


def test_a_rank_that_was_asked_to_stop_ends_all_with_143(state):
    leave(state, 1, time=1.0, type="SystemExit", code=143)
    assert cause(state, 2).code == 143


def test_a_killed_rank_is_named_with_its_signal(state):
    error = cause(state, 2)
    assert isinstance(error, ResourceError) and "rank 1 of 2 ended with status -9" in error.what
