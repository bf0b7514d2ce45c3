"""A stage of training from the outside: its folders, its processes, and what happens when it is called twice.

The model appears under its own name when it is whole.  Until then everything lies in ``.<name>.state`` beside it, which
belongs to one run and one process at a time (``resume``), and goes when the model is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medvlm_cli.core.commit import Lock, make_folder, remove_tree, rename
from medvlm_cli.core.errors import BusyError, ConfigError
from medvlm_cli.core.processes import exit_code, follow, run_processes, work_first
from medvlm_cli.core.ranks import adopt, found, read_hostfile
from medvlm_cli.core.record import begin, fingerprint, identity, other_run, read_json
from medvlm_cli.core.resume import Checkpoints, claim
from medvlm_cli.core.samples import KINDS, Figures, Split, split_batch
from medvlm_cli.core.steps import Job
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.train import fit
from medvlm_cli.core.watch import Company


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a stage asks for."""

    stage: str
    """pretrain or finetune."""
    conversations: Path
    """conversations/1 dataset of the stage's kind."""
    figures: Sequence[Path]
    """figures/1 datasets; every conversation's figure is in exactly one."""
    out: Path
    """Where the checkpoint shall be."""
    config: Mapping[str, Any]
    """The stage's settings, as ``core.config.as_dict`` gives them."""
    model: Mapping[str, str]
    """``tower`` and ``llm`` of a fresh model, or ``checkpoint``."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says beside; it does not make another run."""

    @property
    def state(self) -> Path:
        """Folder of what an unfinished run needs to go on."""
        return self.out.parent / f".{self.out.name}.state"


def run_stage(training: Training, tell: Tell, gpus: int = 1, hostfile: Path | None = None) -> dict[str, Any]:
    """Train and put the checkpoint at ``training.out``; go on where an earlier call of the same was killed.

    Started once a rank by ``srun`` or ``torchrun``, this process is one of the ranks: the first returns when all are
    done, the others end here.

    Args:
        training: what to train.
        tell: progress.
        gpus: devices of this machine; without any GPU, processes on the CPU.  Where the process is a rank already,
            their number is how many were started.
        hostfile: DeepSpeed host file of the machines to train on, in place of ``gpus``.

    Returns:
        A summary for people: checkpoint, steps, losses in nats per target word, seconds.

    Raises:
        DataError: a conversation is of another kind, or its figure is not in exactly one dataset, or not readable.
        ConfigError: the batch does not divide over the devices, there are fewer devices, a run goes on with more or
            fewer, or a host does not see the folder.
        BusyError: another process or another run has the folder.
        MedVLMError: training has diverged.
        ResourceError: a rank was killed, or hangs.
        SystemExit: SIGTERM came; the state was saved.
    """
    rank = found()
    if rank is None:
        hosts = read_hostfile(hostfile) if hostfile else None
        return _run(training, tell, sum(hosts.values()) if hosts else _devices(gpus), Launch(hostfile, hosts))
    adopt(rank, torch.cuda.device_count())
    company = Company()
    if rank.number:
        follow(company)
    try:
        done = _run(training, tell, rank.world, Launch(company=company))
    except BaseException as error:
        company.send_home(exit_code(error))
        raise
    company.send_home(0)
    return done


@dataclass(frozen=True)
class Launch:
    """How the ranks of a run come about: by default as processes of this machine."""

    hostfile: Path | None = None
    hosts: Mapping[str, int] | None = None
    company: Company | None = None
    """The ranks that are there already, seen from the first."""

    def do(self, job: Job, world: int, tell: Tell) -> dict[str, Any]:
        """Do a job in ``world`` ranks; see ``run_processes``."""
        if self.company:
            return work_first(job, self.company, tell)
        if self.hosts is None and world == 1:
            return fit(job, tell)
        return run_processes(job, world, tell, self.hostfile, self.hosts)


def _run(training: Training, tell: Tell, world: int, launch: Launch) -> dict[str, Any]:
    """``run_stage``, when it is known who trains."""
    config = dict(training.config)
    weights = config.pop("resume", "exact") == "weights"  # no part of what the run is: it must find its own state
    track = config.pop("track", "")  # nor is who watches it
    training = replace(training, config=config)
    micro, accumulation = split_batch(config["batch"], config["micro_batch"], world)
    parts = _identity(training)
    if (done := _finished(training, parts)) is not None:
        return done
    split = Split(training.conversations, Figures(training.figures), KINDS[training.stage])
    make_folder(training.state)
    lock = Lock(training.state)
    lock.acquire()
    try:
        restarts = claim(training.state, parts, world, weights=weights)
        record = _record(parts, split, world) | dict(training.notes) | ({"restarts": restarts} if restarts else {})
        job = Job(
            stage=training.stage,
            conversations=str(training.conversations),
            figures=[str(folder) for folder in training.figures],
            state=str(training.state),
            config=config,
            model=dict(training.model),
            micro=micro,
            accumulation=accumulation,
            run=record,
            features=str(_workspace(training.out) / "features") if config["cache_features"] else None,
            resume=_resume(training.state, tell),
            track=track,
        )
        outcome = launch.do(job, world, tell)
        _publish(training)
    finally:
        lock.release()
    resumed = {"resumed": Path(job.resume).name} if job.resume else {}
    return {"checkpoint": str(training.out), **outcome, **resumed, **job.run["conversations"]}


def _devices(gpus: int) -> int:
    """Processes to train in.

    Raises:
        ConfigError: fewer GPUs than asked for.
    """
    there = torch.cuda.device_count()
    if gpus < 1 or (there and gpus > there):
        raise ConfigError(f"--gpus {gpus}, and this machine has {there}", f"give 1 to {max(there, 1)}")
    return gpus


def _identity(training: Training) -> dict[str, Any]:
    """What makes this run this run: settings, and the bytes of everything it reads."""
    inputs = {"conversations": training.conversations}
    inputs |= {f"figures {number}": folder for number, folder in enumerate(training.figures)}
    inputs |= {name: Path(part) for name, part in training.model.items() if Path(part).is_dir()}  # not a hub id
    return identity("checkpoint/1", training.stage, dict(training.config), inputs, [])


def _finished(training: Training, parts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of this run where it is finished already; None where there is nothing.

    Raises:
        BusyError: there is something else.
    """
    out = training.out
    if not out.exists():
        return None
    run = read_json(out / "run.json") if out.is_dir() else None
    if run is None:
        raise BusyError(f"{out} is there, and is no checkpoint of medvlm", "give another folder with -o, or remove it")
    if run.get("fingerprint") != fingerprint(parts):
        raise other_run(out, run, parts)
    remove_tree(training.state)  # a kill between the last two steps left it
    told: dict[str, Any] = {name: run[name] for name in ("steps", "loss", "held_out_loss", "seconds") if name in run}
    return {"checkpoint": str(out), "nothing to do": "it is finished", **told}


def _record(parts: Mapping[str, Any], split: Split, world: int) -> dict[str, Any]:
    """What run.json says of how the checkpoint came about."""
    record = begin(parts, 1, datetime.now(UTC).isoformat(timespec="seconds"))
    del record["shards"]
    versions = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    counts = {"train": len(split.train), "val": len(split.val)}
    return {**record, "versions": versions, "devices": world, "conversations": counts}


def _resume(state: Path, tell: Tell) -> str | None:
    """The newest checkpoint that is whole; says which are not."""
    for folder, fault in Checkpoints(state).newest():
        if not fault:
            return str(folder)
        tell(f"{folder.name} is skipped: {fault}", 0, None)
    return None


def _workspace(out: Path) -> Path:
    """The folder that ``checkpoints/<name>`` lies in, or the one beside the checkpoint for any other place."""
    return out.parent.parent if out.parent.name == "checkpoints" else out.parent


def _publish(training: Training) -> None:
    """Give the checkpoint its name, and remove the state."""
    rename(training.state / "out", training.out)
    remove_tree(training.state)
