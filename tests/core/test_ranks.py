"""What the environment and a host file say of the ranks of a run."""

import os

import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.ranks import Rank, adopt, first_host, found, leads, read_hostfile

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu-07", "MASTER_PORT": "29400"}
STEP = {
    "SLURM_JOB_ID": "41", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_NODELIST": "gpu-[07-08]",
}  # fmt: skip


def test_torchrun_says_which_rank_a_process_is():
    assert found(TORCHRUN) == Rank(5, 8, 1, "gpu-07", 29400)


def test_srun_says_it_and_all_ranks_find_the_same_place():
    rank, other = found(STEP), found(STEP | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert (rank.number, rank.world, rank.local, rank.address) == (5, 8, 1, "gpu-07")
    assert (other.number, other.address, other.port) == (0, rank.address, rank.port)


def test_two_steps_of_one_job_meet_at_different_ports():
    ports = {found(STEP | {"SLURM_STEP_ID": str(step)}).port for step in range(3)}
    assert len(ports) == 3 and all(15000 <= port < 30000 for port in ports)


def test_the_user_may_say_where_the_ranks_meet():
    rank = found(STEP | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29555"})
    assert (rank.address, rank.port) == ("10.0.0.7", 29555)


def test_torchrun_inside_a_step_of_slurm_is_what_counts():
    assert found(STEP | TORCHRUN | {"RANK": "3"}).number == 3


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {name: value for name, value in STEP.items() if name != "SLURM_STEP_NUM_TASKS"},  # a batch script without srun
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # an interactive shell
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "8"},  # left over from something else
    ],
)
def test_a_process_that_was_started_alone_is_no_rank(environment):
    assert found(environment) is None


def test_a_process_that_was_started_alone_leads(monkeypatch):
    for name in (*TORCHRUN, *STEP):
        monkeypatch.delenv(name, raising=False)
    assert leads()


@pytest.mark.parametrize(("number", "first"), [("0", True), ("5", False)])
def test_the_first_of_the_ranks_leads(monkeypatch, number, first):
    for name, value in (TORCHRUN | {"RANK": number}).items():
        monkeypatch.setenv(name, value)
    assert leads() is first


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu-07", "gpu-07"),
        ("gpu-07,gpu-08", "gpu-07"),
        ("gpu-[07-09,12],cpu-1", "gpu-07"),
        ("gpu-[3,5-6]", "gpu-3"),
        ("rack[2-3]n[10-11].local,x", "rack2n10.local"),
    ],
)
def test_the_first_host_of_slurms_short_form(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize(("devices", "local"), [(0, "1"), (4, "1"), (1, "0")])
def test_a_task_that_sees_one_device_takes_it(monkeypatch, devices, local):
    for name in TORCHRUN:
        monkeypatch.setenv(name, "")
    adopt(found(STEP), devices)
    assert os.environ["LOCAL_RANK"] == local
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"]) == ("5", "8", "gpu-07")


def test_a_host_file_says_the_devices_of_each_host_in_order(tmp_path):
    (tmp_path / "hosts").write_text("# two of ours\ngpu-08 slots=4\n\ngpu-07   slots=8  # the big one\n")
    assert list(read_hostfile(tmp_path / "hosts").items()) == [("gpu-08", 4), ("gpu-07", 8)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("gpu-07 slots=4\ngpu-08 slots=0\n", r"line 2: 'gpu-08 slots=0' is not 'HOST slots=N'"),
        ("gpu-07\n", r"line 1: 'gpu-07' is not"),
        ("gpu-07 slots=4\ngpu-07 slots=4\n", r"line 2: 'gpu-07 slots=4' comes a second time"),
        ("# nothing\n", "names no host"),
    ],
)
def test_a_host_file_with_a_fault_is_refused_with_its_line(tmp_path, text, fault):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(ConfigError, match=fault):
        read_hostfile(tmp_path / "hosts")


def test_a_host_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--hostfile .*hosts: cannot be read"):
        read_hostfile(tmp_path / "hosts")
