"""What a killed training run leaves behind, and what the next start may take from it.

``checkpoints/.pretrain.state/`` beside the checkpoint it leads to::

    run.json         fingerprint and settings: whose state this is
    steps.jsonl      one line an optimiser step
    step-00000200/   the trained weights, optimiser, scheduler, random states; COMPLETE.json, written last, names every
                     file with its size and SHA-256.  While it is written it is called step-00000200.tmp
    latest           the newest checkpoint's name

A checkpoint without a COMPLETE.json that holds is never read.  Two are kept, so that there is always one.
"""

import contextlib
import errno
import io
import json
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medvlm_cli.core.commit import (
    Growing,
    make_folder,
    refusals,
    remove_tree,
    rename,
    settle_folder,
    sha256_of,
    write_text,
)
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.record import RUN, fingerprint, other_run, read_json, write_run

COMPLETE = "COMPLETE.json"
LATEST = "latest"
"""File that names the newest checkpoint, for people and other programs; a resume looks at what is whole instead."""
WEIGHTS = "trainable.safetensors"
_KEPT = (WEIGHTS, "scheduler.pt", "trainer_state.json")
"""Files of a checkpoint that do not depend on the number of devices."""
_REFUSED = re.compile(r"\(os error (\d+)\)|inline_container")
"""What safetensors and PyTorch's files say where a disk refuses; PyTorch does not say why."""
KEEP = 2
"""Complete checkpoints that stay; the older of them is there in case the newer one's files are damaged."""


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """As ``commit.refusals``, for what libraries write, whose errors are no ``OSError``.

    Raises:
        ResourceError: the disk refuses; other errors pass unchanged.
    """
    with refusals(folder):
        try:
            yield
        except (SafetensorError, RuntimeError) as error:
            if not (said := _REFUSED.search(str(error))):
                raise
            raise OSError(int(said[1] or errno.EIO), str(error)) from error


class Checkpoints:
    """The checkpoints in a state folder.  ``begin``, ``commit``: by one process, when all others wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies when it is complete."""
        return self.folder / f"step-{step:08d}"

    def part(self, step: int) -> Path:
        """Where it lies while it is written."""
        return self.folder / f"step-{step:08d}.tmp"

    def begin(self, step: int) -> None:
        """Make the empty folder that every process writes its part into."""
        for left in self.folder.glob("step-*.tmp"):  # of a process that was killed
            remove_tree(left)
        make_folder(self.part(step))

    def commit(self, step: int) -> None:
        """Make durable what was written, vouch for it, give it its name, and remove what is older than ``KEEP``."""
        part = self.part(step)
        said = {"step": step, "run": self._run(), "files": settle_folder(part)}
        write_text(part / COMPLETE, json.dumps(said, indent=1))
        gone = self._unnamed(step)  # one of the same step, damaged or larger, stays until there is nothing left to do
        rename(part, self.path(step))
        remove_tree(gone)
        write_text(self.folder / LATEST, f"{self.path(step).name}\n")
        for old in self._steps()[KEEP:]:
            remove_tree(self._unnamed(old))

    def _unnamed(self, step: int) -> Path:
        """Take the name from a checkpoint, if there is one: a kill would leave half of what is removed under it."""
        gone = self.folder / f"{self.path(step).name}.gone.tmp"
        remove_tree(gone)
        if self.path(step).exists():
            rename(self.path(step), gone)
        return gone

    def strip(self, step: int) -> None:
        """Leave of the checkpoint of a step what fits any number of devices, and nothing of all others."""
        whole = self.path(step)
        self.begin(step)
        with written(self.folder):
            weights = {name: weight.clone() for name, weight in trained_weights(whole).items()}  # some share memory
            save_file(weights, self.part(step) / WEIGHTS)
            for name in _KEPT[1:]:
                shutil.copyfile(whole / name, self.part(step) / name)
        self.commit(step)
        for other in self._steps():
            if other != step:
                remove_tree(self._unnamed(other))

    def newest(self) -> Iterator[tuple[Path, str]]:
        """Every checkpoint from the newest on, each with what is wrong with it, or with an empty text."""
        for step in self._steps():
            yield self.path(step), _fault(self.path(step), self._run())

    def _run(self) -> str | None:
        """The fingerprint of this folder's run: what another one wrote, pickles among it, is not ours to load."""
        return (read_json(self.folder / RUN) or {}).get("fingerprint")

    def _steps(self) -> list[int]:
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*") if path.is_dir())
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _fault(folder: Path, run: str | None) -> str:
    """What is missing, foreign or changed in a checkpoint; empty when it is as this run wrote it."""
    try:
        said = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        files = {str(name): (int(stated["bytes"]), stated["sha256"]) for name, stated in said["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"no readable {COMPLETE}"
    if said.get("run") != run:
        return "another run wrote it"
    for name in sorted(
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {*files}
    ):
        if name != COMPLETE:
            return f"{name} is not of it"
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is cut off or missing"
        if sha256_of(path) != sha256:
            return f"{name} has changed since it was written"
    return ""


class StepLog:
    """One JSON line an optimiser step.  A kill of the process loses no line; ``sync`` outlives the machine too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all steps up to the first line that a crash tore."""
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def start(self, step: int) -> None:
        """Open for the steps after ``step``; rows of later ones, whose weights were lost, go."""
        kept = [row for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = Growing(self.path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of the next step."""
        self._file.append(json.dumps(row).encode() + b"\n")

    def sync(self) -> None:
        """Force what was appended to the disk."""
        self._file.sync()


def claim(folder: Path, parts: Mapping[str, Any], world: int, *, weights: bool = False) -> list[dict[str, Any]]:
    """See to it that a state folder is this run's: take one without a checkpoint, refuse another run's.

    Args:
        folder: the state folder, locked by the caller.
        parts: the run's identity, see ``record.identity``.
        world: devices it trains on.
        weights: on another number of devices, go on from the weights of the newest whole checkpoint.  The rest of it,
            the optimiser's moments, is gone then; step, learning rate and order of the data go on.

    Returns:
        The restarts from weights alone so far, in order: ``step``, ``devices`` before and ``to``.

    Raises:
        BusyError: the folder is another run's; says what differs, and how to start afresh.
        ConfigError: it is this run's, on another number of devices, and ``weights`` is not asked for.
        DataError: no checkpoint is whole.
    """
    found = read_json(folder / RUN)
    if found is None or not any(folder.glob("step-*")):
        found = {**parts, "fingerprint": fingerprint(parts), "world": world, "restarts": []}
        write_run(folder, found)
    elif found.get("fingerprint") != fingerprint(parts):
        raise other_run(folder, found, parts)
    elif found["world"] != world:
        found = _restart(folder, found, world) if weights else _refuse(folder, found["world"], world)
    return found.get("restarts", [])


def _refuse(folder: Path, before: int, world: int) -> NoReturn:
    raise ConfigError(
        f"{folder} holds this run on {before} devices; its state does not fit {world}",
        f"give --gpus {before} to go on exactly; or --set resume=weights to go on from its last checkpoint's weights "
        f"with a fresh optimiser; or remove {folder} to start over",
    )


def _restart(folder: Path, run: Mapping[str, Any], world: int) -> dict[str, Any]:
    """Make the newest whole checkpoint one of weights alone, and the run one on ``world`` devices.

    The restart is recorded before anything is thrown away.  A kill in between leaves a run on the old number of
    devices; the same command does the rest.
    """
    checkpoints = Checkpoints(folder)
    newest = next((path for path, fault in checkpoints.newest() if not fault), None)
    if newest is None:
        raise DataError(f"no checkpoint in {folder} is whole", f"remove {folder} to start over")
    step = int(newest.name.removeprefix("step-"))
    restart = {"step": step, "devices": run["world"], "to": world}
    restarts = list(run.get("restarts", []))
    if restart not in restarts[-1:]:
        restarts.append(restart)
    write_run(folder, {**run, "restarts": restarts})
    checkpoints.strip(step)
    changed = {**run, "restarts": restarts, "world": world}
    write_run(folder, changed)
    return changed


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, by their names in the model; of DeepSpeed's, its float32 copies."""
    if (folder / WEIGHTS).exists():
        return load_file(folder / WEIGHTS)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()):  # it tells of every file
        return get_fp32_state_dict_from_zero_checkpoint(str(folder), exclude_frozen_parameters=True)


def is_weights_only(folder: Path) -> bool:
    """Whether a checkpoint holds weights and no optimiser: the run was moved to another number of devices."""
    return sorted(path.name for path in folder.iterdir()) == sorted((COMPLETE, *_KEPT))


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Give a model, not yet spread over devices, the trained weights of a checkpoint.

    Weights in bfloat16 lose what the float32 copies had more; DeepSpeed makes its copies anew from them.
    """
    stored = trained_weights(folder)
    current = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert stored.keys() >= current.keys(), "the fingerprint vouches for the model"
    for name, weight in current.items():
        weight.data.copy_(stored[name])


def read_state(path: Path) -> dict[str, Any]:
    """A state of optimiser or schedule; only tensors and plain containers are made of what the file holds.

    Raises:
        DataError: it holds something else.
    """
    try:
        return torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: not a state that training wrote", f"remove {path.parent}") from error
