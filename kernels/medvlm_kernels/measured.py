"""Choices between equal ways, measured once on each device and kept, so that a later run chooses the same.

Two ways may round differently: were they measured anew in every process, a near tie would change bits from run to run.
"""

import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

ROUNDS = 10
"""Rounds in which every way is timed once; the median counts."""


def fastest(key: str, ways: Mapping[str, Callable[[], Any]], device: torch.device) -> str:
    """The name of the fastest way, from the file of choices or measured now.

    Args:
        key: what is chosen: operation, shape and type.
        ways: each does the same work on ``device``, a CUDA device.
        device: where; its name and the libraries' versions join the key.

    Returns:
        A key of ``ways``.
    """
    whole = f"{key} on {stack(device)}"
    kept = _read()
    if kept.get(whole) not in ways:
        seconds = _time(ways, device)
        kept = _read() | {whole: min(seconds, key=seconds.__getitem__)}
        _write(kept)
    return kept[whole]


def stack(device: torch.device) -> str:
    """Device and versions that decide which way is fastest, and in which bits a result comes out."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, cuDNN {cudnn}"


def file() -> Path:
    """Where choices are kept: ``$MEDVLM_CACHE``, else ``medvlm`` in the user's cache folder."""
    own, users = os.environ.get("MEDVLM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own) if own else Path(users or Path.home() / ".cache") / "medvlm"
    return folder / "measured.json"


def _time(ways: Mapping[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Milliseconds of each way: interleaved, so that a change of clock hits all alike."""
    for way in ways.values():
        for _ in range(3):
            way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            way()
            end.record()
            torch.cuda.synchronize(device)
            taken[name].append(start.elapsed_time(end))
    return {name: statistics.median(times) for name, times in taken.items()}


def _read() -> dict[str, str]:
    try:
        kept = json.loads(file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or not ours: measured again
        return {}
    return {key: way for key, way in kept.items() if isinstance(way, str)} if isinstance(kept, dict) else {}


def _write(kept: Mapping[str, str]) -> None:
    """Replace the file; a folder that cannot be written to only means that the next process measures again."""
    with contextlib.suppress(OSError):
        file().parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file().parent, suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8") as new:
            json.dump(dict(kept), new, indent=1, sort_keys=True)
        Path(name).replace(file())
