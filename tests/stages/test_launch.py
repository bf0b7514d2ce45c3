"""One training in several processes: started by a host file, by torchrun, by SLURM; killed, and moved."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from medvlm_cli.core.errors import ConfigError, ResourceError
from tests.training_cases import SETTINGS, cut_at

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


def command(bench, name, **changes):
    """What a user types for a pretraining of two ranks."""
    scales = ",".join(map(str, bench.parts["scales"]))
    settings = SETTINGS | bench.parts | {"scales": scales, "lr": 1e-3, "micro_batch": 2, "zero": 0} | changes
    bench.root.joinpath("none.yaml").touch()  # a preset that says nothing
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    inputs = [bench.captions, "--figures", bench.figures[0], "-c", bench.root / "none.yaml"]
    return ["medvlm_cli", "pretrain", *inputs, "-o", bench.path(name), *options]


def environment(**more):
    """The environment of a command that was started once, and what ``more`` says."""
    own = {name: value for name, value in os.environ.items() if name not in RANKS}
    path = os.pathsep.join(filter(None, sys.path))
    return own | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def start(command, **more):
    pipe = subprocess.PIPE
    words = list(map(str, command))
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment(**more))


def start_slurm(bench, name, port, **changes):
    """Two processes as ``srun -n 2 medvlm pretrain`` starts them."""
    step = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    words = [sys.executable, "-m", *command(bench, name, **changes), "--json"]
    return [start(words, **step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)]


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def losses(bench, name):
    return pytest.approx([row["loss"] for row in bench.steps(name)], abs=1e-4)


def test_torchrun_makes_each_process_a_rank_and_the_first_speaks(bench, pretrained):
    process = start([*TORCHRUN, *command(bench, "two"), "--json"])
    told, noise = process.communicate(timeout=300)
    assert process.returncode == 0, noise
    assert json.loads(told)["steps"] == 6
    assert [row["loss"] for row in pretrained.steps("pretrain")] == losses(bench, "two")
    assert json.loads((bench.path("two") / "run.json").read_text())["devices"] == 2


def test_srun_makes_each_process_a_rank_and_the_second_is_silent(bench, pretrained, free_port):
    first, second = start_slurm(bench, "two", free_port)
    told, noise = first.communicate(timeout=300)
    assert first.returncode == 0, noise
    assert json.loads(told)["steps"] == 6
    assert second.communicate(timeout=60) == ("", "") and second.returncode == 0
    assert [row["loss"] for row in pretrained.steps("pretrain")] == losses(bench, "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "what"),
    [
        (signal.SIGKILL, "rank 1 of 2 left no word: it was killed, or hangs"),
        (signal.SIGSTOP, "rank 1 of 2: it has done nothing for 10 s while other ranks wait for it"),
    ],
)
def test_a_rank_of_srun_that_ends_or_hangs_is_named_by_the_first(bench, free_port, monkeypatch, how, what):
    monkeypatch.setenv("MEDVLM_TIMEOUT", "10")
    first, second = start_slurm(bench, "two", free_port, epochs=300.0)
    log = bench.state("two") / "steps.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0)
    second.send_signal(how)
    told, _ = first.communicate(timeout=120)
    assert first.returncode == ResourceError.exit_code and second.wait(timeout=30) == -signal.SIGKILL
    assert json.loads(told)["error"]["message"].startswith(what)


@pytest.mark.slow
def test_srun_of_a_run_that_is_finished_has_nothing_to_do_in_any_rank(bench, pretrained, free_port):
    bench.pretrain("one", zero=0, micro_batch=2)
    first, second = start_slurm(bench, "one", free_port)
    told, _ = first.communicate(timeout=120)
    assert json.loads(told)["nothing to do"] and first.returncode == 0
    assert second.communicate(timeout=60) == ("", "") and second.returncode == 0


def test_one_device_trains_without_importing_deepspeed(bench, training_data, tiny_tower, tiny_llm):
    script = "import runpy, sys; runpy.run_module('tests.training_cases', run_name='__main__')"
    script += "; sys.exit('deepspeed' in sys.modules)"
    process = start([sys.executable, "-c", script, training_data, bench.root, tiny_tower, tiny_llm])
    _, noise = process.communicate(timeout=120)
    assert process.returncode == 0, noise
    assert len(bench.steps("killed")) == 6


@pytest.mark.slow
def test_a_host_file_of_this_machine_trains_as_one_process_does(bench, pretrained, tmp_path):
    (tmp_path / "hosts").write_text("# ours\nlocalhost slots=2\n")
    words = [sys.executable, "-m", *command(bench, "two", zero=2), "--json", "--hostfile", tmp_path / "hosts"]
    process = start(words)
    told, noise = process.communicate(timeout=300)
    assert process.returncode == 0, noise
    assert json.loads(told)["steps"] == 6
    assert [row["loss"] for row in pretrained.steps("pretrain")] == losses(bench, "two")


@pytest.mark.slow
def test_sigterm_lets_the_ranks_of_a_host_file_save(bench, tmp_path):
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    words = [sys.executable, "-m", *command(bench, "two", zero=2, epochs=300.0), "--hostfile", tmp_path / "hosts"]
    process = start(words)
    log = bench.state("two") / "steps.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0)
    process.terminate()
    assert process.wait(timeout=200) == 128 + signal.SIGTERM
    assert list(bench.state("two").glob("step-*/COMPLETE.json"))


def test_a_stopped_run_of_two_ranks_goes_on_in_one_from_its_weights_alone(bench, pretrained):
    with pytest.raises(SystemExit) as left:
        bench.pretrain("moved", cut_at(3, terminate), gpus=2, micro_batch=2, zero=2)
    assert left.value.code == 128 + signal.SIGTERM
    with pytest.raises(ConfigError, match="holds this run on 2 devices; its state does not fit 1") as refused:
        bench.pretrain("moved", micro_batch=2, zero=2)
    assert "--gpus 2" in refused.value.fix and "--set resume=weights" in refused.value.fix
    step = int(bench.pretrain("moved", micro_batch=2, zero=2, resume="weights")["resumed"].removeprefix("step-"))
    expected, found = pretrained.steps("pretrain"), bench.steps("moved")
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]
    same = slice(step + 1)  # the loss of the first step after the restart is that of the weights
    assert [row["loss"] for row in found[same]] == pytest.approx([row["loss"] for row in expected[same]], abs=1e-4)
    run = json.loads((bench.path("moved") / "run.json").read_text())
    assert run["restarts"] == [{"step": step, "devices": 2, "to": 1}]
