"""Which ranks of a training run there are: those that ``srun`` or ``torchrun`` started, or those a host file names."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medvlm_cli.core.errors import ConfigError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Rank:
    """One process of a run, and where it finds the others."""

    number: int
    world: int
    local: int
    """Number among the processes of this machine."""
    address: str
    """Host of rank 0."""
    port: int


def found(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """The rank that this process was started as; None where it was started alone.

    ``torchrun`` says it in ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``; ``srun`` in
    ``SLURM_PROCID``, ``SLURM_LOCALID`` and ``SLURM_STEP_NUM_TASKS``.  ``SLURM_NTASKS`` would not do, because a batch
    script that runs the command once has it too.
    """
    if all(name in environment for name in _TORCHRUN):
        number, world, local = (int(environment[name]) for name in _TORCHRUN[:3])
        rank = Rank(number, world, local, environment["MASTER_ADDR"], int(environment["MASTER_PORT"]))
    elif "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "localhost"
        job, step = int(environment.get("SLURM_JOB_ID", 0)), int(environment.get("SLURM_STEP_ID", 0))
        rank = Rank(
            number=int(environment["SLURM_PROCID"]),
            world=int(environment["SLURM_STEP_NUM_TASKS"]),
            local=int(environment.get("SLURM_LOCALID", 0)),
            address=environment.get("MASTER_ADDR") or first_host(hosts),
            port=int(
                environment.get("MASTER_PORT") or 15000 + (31 * job + step) % 15000
            ),  # below what systems hand out
        )
    else:
        return None
    return rank if rank.world > 1 else None


def leads(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first rank, or the only process: it prepares what all ranks read."""
    rank = found(environment)
    return rank is None or rank.number == 0


def first_host(hosts: str) -> str:
    """The first name of SLURM's short form of a list: ``gpu-07`` of ``gpu-[07-09,12],cpu-1``."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", match[0]) if match else hosts


def adopt(rank: Rank, devices: int) -> None:
    """Say in the environment what ``torchrun`` would, for the libraries that look there.

    Args:
        rank: this process.
        devices: GPUs that it sees; SLURM may show each task its own alone.
    """
    os.environ |= {
        "RANK": str(rank.number),
        "WORLD_SIZE": str(rank.world),
        "LOCAL_RANK": str(rank.local % devices if devices else rank.local),
        "MASTER_ADDR": rank.address,
        "MASTER_PORT": str(rank.port),
    }


def read_hostfile(path: Path) -> dict[str, int]:
    """Devices of every host that a DeepSpeed host file names, ``gpu-07 slots=4`` a line, in its order.

    Raises:
        ConfigError: the file cannot be read, a line is something else, or a host comes twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--hostfile {path}: cannot be read ({error})", "give a file of lines 'HOST slots=N'"
        ) from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=([1-9]\d*)", text)
        if match is None or match[1] in hosts:
            what = "comes a second time" if match else "is not 'HOST slots=N'"
            raise ConfigError(f"{path}, line {number}: {text!r} {what}", "give every host once, with its GPUs")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise ConfigError(f"{path} names no host", "give one 'HOST slots=N' a line, N its GPUs")
    return hosts


def is_here(host: str) -> bool:
    """Whether a name means this machine."""
    own = socket.gethostname()
    return host in (*_LOCAL_NAMES, own, own.partition(".")[0])
