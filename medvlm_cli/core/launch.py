"""A stage of training from the outside: its folders, its processes, and what happens when it is called twice.

The model appears under its own name when it is whole.  Until then everything lies in ``.<name>.state`` beside it, which
belongs to one run and one process at a time (``resume``), and goes when the model is there.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medvlm_cli.core.commit import Lock, make_folder, refusals, sync_folder
from medvlm_cli.core.errors import BusyError, ConfigError
from medvlm_cli.core.processes import run_processes
from medvlm_cli.core.record import begin, fingerprint, identity, other_run, read_json
from medvlm_cli.core.resume import Checkpoints, claim
from medvlm_cli.core.samples import KINDS, Figures, Split, split_batch
from medvlm_cli.core.steps import Job
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.train import fit


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

    @property
    def state(self) -> Path:
        """Folder of what an unfinished run needs to go on."""
        return self.out.parent / f".{self.out.name}.state"


def run_stage(training: Training, tell: Tell, gpus: int = 1) -> dict[str, Any]:
    """Train and put the checkpoint at ``training.out``; go on where an earlier call of the same was killed.

    Args:
        training: what to train.
        tell: progress.
        gpus: devices; without any GPU, processes on the CPU.

    Returns:
        A summary for people: checkpoint, steps, losses in nats per target word, seconds.

    Raises:
        DataError: a conversation is of another kind, or its figure is not in exactly one dataset, or not readable.
        ConfigError: the batch does not divide over the devices, there are fewer devices, or a run goes on with more.
        BusyError: another process or another run has the folder.
        MedVLMError: training has diverged.
        SystemExit: SIGTERM came; the state was saved.
    """
    world = _devices(gpus)
    micro, accumulation = split_batch(training.config["batch"], training.config["micro_batch"], world)
    parts = _identity(training)
    if (done := _finished(training, parts)) is not None:
        return done
    split = Split(training.conversations, Figures(training.figures), KINDS[training.stage])
    make_folder(training.state)
    lock = Lock(training.state)
    lock.acquire()
    try:
        claim(training.state, parts, world)
        job = Job(
            stage=training.stage,
            conversations=str(training.conversations),
            figures=[str(folder) for folder in training.figures],
            state=str(training.state),
            config=dict(training.config),
            model=dict(training.model),
            micro=micro,
            accumulation=accumulation,
            run=_record(parts, split, world),
            features=str(_workspace(training.out) / "features") if training.config["cache_features"] else None,
            resume=_resume(training.state, tell),
        )
        outcome = fit(job, tell) if world == 1 else run_processes(job, world, tell)
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
    shutil.rmtree(training.state, ignore_errors=True)  # a kill between the last two steps left it
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
    with refusals(training.out.parent):
        (training.state / "out").rename(training.out)
        sync_folder(training.out.parent)
        shutil.rmtree(training.state)
