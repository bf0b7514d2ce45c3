"""What starts the ranks, and what is reported when one fails.  That they train is tested with the stages."""

import json
import shutil
import socket
import sys

import pytest

from medvlm_cli.core.errors import ConfigError, DataError, ResourceError
from medvlm_cli.core.processes import cause, launcher

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
    known = {"rank": rank, "host": socket.gethostname(), "code": None, "what": "", "fix": "", "traceback": ""}
    known |= {"lost": False}
    (state / "errors" / f"rank-{rank}.json").write_text(json.dumps(known | told))


def test_the_first_rank_to_fail_is_the_cause(state):
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


def test_a_rank_that_only_lost_its_partner_is_not_the_cause_even_if_it_was_first(state):
    leave(state, 0, time=12.0, type="RuntimeError", what="Connection closed by peer", lost=True)
    leave(state, 1, time=12.1, type="DataError", what="figure 9: not a readable image")
    assert cause(state, 2).what == "rank 1 of 2: figure 9: not a readable image"


def test_where_all_only_lost_a_partner_the_launcher_knows_how_the_silent_one_ended(state):
    leave(state, 0, time=12.0, type="RuntimeError", what="Connection closed by peer", lost=True)
    assert "rank 1 of 2 ended with status -9" in cause(state, 2).what


def test_where_no_launcher_tells_the_silent_ranks_are_named(state):
    (state / "launch.log").unlink()
    leave(state, 1, time=12.0, type="RuntimeError", what="Connection closed by peer", lost=True)
    assert cause(state, 3).what == "rank 0, 2 of 3 left no word: it was killed, or hangs"


def test_a_rank_of_another_machine_is_named_with_it(state):
    leave(state, 5, time=1.0, type="DataError", what="no such figure", host="gpu-08")
    assert cause(state, 8).what == "rank 5 of 8 on gpu-08: no such figure"


def test_ctrl_c_stays_ctrl_c(state):
    leave(state, 0, time=1.0, type="KeyboardInterrupt")
    assert isinstance(cause(state, 2), KeyboardInterrupt)


def test_ranks_of_this_machine_are_started_by_torch(tmp_path):
    command = launcher(tmp_path, "token", 4)
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[command.index("--nproc_per_node") + 1] == "4"
    assert command[-3:] == ["medvlm_cli.core.processes", str(tmp_path / "job.json"), "token"]


@pytest.fixture
def pdsh(monkeypatch):
    """A machine with ``pdsh``."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: "pdsh" if name == "pdsh" else which(name))


def test_ranks_of_a_host_file_are_started_by_deepspeed(tmp_path, pdsh):
    command = launcher(tmp_path, "token", 8, tmp_path / "hosts", {"gpu-07": 4, "gpu-08": 4})
    assert command[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]
    assert command[command.index("--hostfile") + 1] == str(tmp_path / "hosts")
    assert {"--no_local_rank", "--module"} < set(command) and "--no_ssh_check" not in command
    assert command[-4:] == ["--module", "medvlm_cli.core.processes", str(tmp_path / "job.json"), "token"]


def test_one_other_host_is_reached_and_not_taken_for_this_one(tmp_path, pdsh):
    assert "--force_multi" in launcher(tmp_path, "token", 4, tmp_path / "hosts", {"gpu-07": 4})
    here = launcher(tmp_path, "token", 4, tmp_path / "hosts", {"localhost": 4})
    assert "--force_multi" not in here and here[here.index("--master_addr") + 1] == "127.0.0.1"


def test_other_hosts_need_pdsh(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="no pdsh to reach them by") as refused:
        launcher(tmp_path, "token", 8, tmp_path / "hosts", {"gpu-07": 4, "gpu-08": 4})
    assert "srun" in refused.value.fix


def test_a_launcher_that_blames_a_rank_which_spoke_is_not_believed(state):
    leave(state, 1, time=12.0, type="RuntimeError", what="Connection closed by peer", lost=True)
    assert cause(state, 2).what.startswith("rank 0 of 2 left no word")
