"""What a report of a bug needs to say about a machine, and what is wrong with it: ``medvlm --version --json``.

Every question is asked by itself: what cannot be answered says why, and the others are answered all the same.
"""

import fcntl
import importlib.metadata
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm_cli import __version__
from medvlm_cli.core import commit, offline

FLOORS = {
    "torch": ("2.10", "older ones run code that a file of weights holds, even with weights_only"),
    "Pillow": ("13", "older ones write beyond a buffer when they decode a JPEG"),
    "pyarrow": ("14.0.1", "older ones run code that an Arrow file holds"),
    "lxml": ("6.1", "our limits for XML were tried with this series"),
    "Jinja2": ("3.1.6", "older ones let a template out of its sandbox"),
    "vllm": ("0.22", "older ones run code that a model brings along, unasked"),
}
"""Oldest version of a library that is safe with files of strangers, and what is wrong with older ones."""
EXTRAS = (
    "deepspeed", "peft", "xformers", "triton", "bitsandbytes", "tensorboard", "wandb", "trackio", "vllm", "ray",
    "pydicom", "nibabel", "tifffile", "imagecodecs", "anthropic", "transformers", "accelerate", "huggingface_hub",
    "safetensors", "open_clip_torch",
)  # fmt: skip
TOKENS = ("ANTHROPIC_API_KEY", "HF_TOKEN", "NCBI_API_KEY", "WANDB_API_KEY")
_TAR_FILTER = {(3, 11): 13, (3, 12): 11, (3, 13): 4}
"""Patch level from which ``tarfile`` keeps what it extracts inside (CVE-2025-4517); 3.14 began with it."""
_TAR_HANG = {(3, 11): 14, (3, 12): 12, (3, 13): 6}
"""Patch level from which ``tarfile`` no longer loops for ever over a negative offset (CVE-2025-8194)."""
_DRIVER = Path("/proc/driver/nvidia/version")
_TRY_LOCK = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def examine(workspace: Path) -> dict[str, Any]:
    """Everything, as JSON takes it; of a token only whether it is there.

    Args:
        workspace: its disk and file system are looked at, or those of the nearest folder above that is there; what is
            written there for it is removed again.

    Returns:
        What was found, by topic; ``problems`` has a line for each security floor that a library is below and for each
        thing that the file system of the workspace cannot do.
    """
    folder = next(place for place in (workspace, *workspace.absolute().parents) if place.is_dir())
    floors, files = floors_found(), file_system(folder)
    problems = [
        f"{name} {one['found']}: below {one['floor']}, {one['why']}" for name, one in floors.items() if not one["ok"]
    ]
    problems += [f"{_home(folder)}: {name}: {said}" for name, said in files.items() if said != "ok"]
    return {
        "medvlm": __version__,
        "python": python_found(sys.version_info[:3]),
        "platform": _answer(platform.platform),
        "torch": _answer(_torch),
        "cuda": _answer(_cuda),
        "attention": _answer(_attention),
        "libraries": {name: _version(name) for name in EXTRAS},
        "floors": floors,
        "workspace": {"folder": _home(folder), "disk": _answer(lambda: _disk(folder)), "file_system": files},
        "tokens": {name: bool(os.environ.get(name)) for name in TOKENS},
        "offline": offline.is_offline(),
        "problems": problems,
    }


def python_found(version: tuple[int, int, int]) -> dict[str, Any]:
    """A version of Python, and whether its ``tarfile`` is mended.

    medvlm extracts no archive and reads each under limits, so neither of the two is a problem for it.
    """
    return {
        "version": ".".join(map(str, version)),
        "tar_filter_mended": version[2] >= _TAR_FILTER.get(version[:2], 0),
        "tar_hang_mended": version[2] >= _TAR_HANG.get(version[:2], 0),
    }


def floors_found(floors: dict[str, tuple[str, str]] = FLOORS) -> dict[str, dict[str, Any]]:
    """Of every library with a security floor: what is installed, what must be, and whether that is so."""
    found = {name: _version(name) for name in floors}
    return {
        name: {"found": found[name], "floor": floor, "ok": is_safe(found[name], floor), "why": why}
        for name, (floor, why) in floors.items()
    }


def is_safe(version: str | None, floor: str) -> bool:
    """Whether a library is not installed, or its version is a floor or later; ``2.15.0+cpu`` counts as 2.15.0."""
    if version is None:
        return True
    one, other = (_numbers(text) for text in (version, floor))
    width = max(len(one), len(other))
    return one + [0] * (width - len(one)) >= other + [0] * (width - len(other))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])]


def file_system(folder: Path) -> dict[str, str]:
    """What durable writes need of the file system of a folder: ``ok``, or why not.

    Args:
        folder: is left as it was.
    """
    checks = (_rename, _flock, _fsync, _mmap, _append)
    try:
        with tempfile.TemporaryDirectory(prefix=".medvlm-", dir=folder, ignore_cleanup_errors=True) as work:
            return {check.__name__.strip("_"): _tried(check, Path(work)) for check in checks}
    except OSError as error:
        return {"write": _reason(error)}


def _tried(check: Callable[[Path], str | None], work: Path) -> str:
    try:
        return check(work) or "ok"
    except Exception as error:  # whatever it is, it is an answer
        return _reason(error)


def _rename(work: Path) -> str | None:
    """Over a file that is there, in one step."""
    commit.write_bytes(work / "renamed", b"old")
    commit.write_bytes(work / "renamed", b"new")
    return None if (work / "renamed").read_bytes() == b"new" else "the old file is still there"


def _flock(work: Path) -> str | None:
    """Between two processes: refused while it is held, given when it is free."""
    path = work / "locked"
    commit.write_bytes(path, b"")
    other = [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)]
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        both = subprocess.run(other, stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    if both:
        return "two processes hold the same lock: do not let two runs write to one folder"
    free = subprocess.run(other, stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    return None if free else "a lock stays when its holder has let go"


def _fsync(work: Path) -> str | None:
    """Of a file and of the folder it is in."""
    commit.write_bytes(work / "synced", b"whole")
    commit.settle_folder(work)
    return None


def _mmap(work: Path) -> str | None:
    """Reading a file by its pages, as Arrow does."""
    commit.write_bytes(work / "mapped", b"page" * 4096)
    with (work / "mapped").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        return None if pages[-4:] == b"page" else "the pages are not the file"


def _append(work: Path) -> str | None:
    """Two writers of one file, each after what the other has written."""
    one, other = commit.Growing(work / "grown"), commit.Growing(work / "grown")
    one.append(b"one")
    other.append(b"two")
    one.close()
    other.close()
    return None if (work / "grown").read_bytes() == b"onetwo" else "what is appended is written over"


def _torch() -> dict[str, Any]:
    import torch

    return {
        "version": torch.__version__,
        "built_for_cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _cuda() -> dict[str, Any]:
    import torch

    driver = _DRIVER.read_text(encoding="utf-8").splitlines()[0].strip() if _DRIVER.is_file() else None
    known = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
    devices = [
        {"name": one.name, "capability": f"{one.major}.{one.minor}", "memory_bytes": one.total_memory} for one in known
    ]
    return {"driver": driver, "cudnn": torch.backends.cudnn.version(), "devices": devices}


def _attention() -> dict[str, str]:
    from medvlm_cli.core.model.attention import attention_backends

    return attention_backends()


def _disk(folder: Path) -> dict[str, int]:
    usage = shutil.disk_usage(folder)
    return {"free_bytes": usage.free, "total_bytes": usage.total}


def _answer(ask: Callable[[], Any]) -> Any:
    """What a question gives; why not, where it fails."""
    try:
        return ask()
    except Exception as error:  # a broken driver or library is what is looked for
        return {"failed": _reason(error)}


def _reason(error: BaseException) -> str:
    text = (getattr(error, "what", "") or str(error)).strip() or "no reason given"
    return f"{type(error).__name__}: {text.splitlines()[0]}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _home(path: Path) -> str:
    """A path as it may be shown to others: without the name of the user."""
    try:
        return str(Path("~") / path.absolute().relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path.absolute())
