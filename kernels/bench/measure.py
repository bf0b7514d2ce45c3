"""Time, memory, error and the ceiling they are held against, on a CPU or a CUDA device."""

import ctypes
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

PACKAGES = ("torch", "triton", "transformers", "open_clip_torch", "timm", "xformers", "numpy")
BF16_FLAGS = ("amx_bf16", "avx512_bf16")


class Device:
    """Where the measurement runs, and how time and memory are read there."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.cuda = kind == "cuda"
        self.name = torch.cuda.get_device_name() if self.cuda else _cpu("model name")

    def ready(self) -> None:
        """Wait until everything that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds that ``call`` took, and its result: the device's on CUDA, the processor's (all threads) on a CPU."""
        if self.cuda:
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            result = call()
            ended.record()
            ended.synchronize()
            return began.elapsed_time(ended) / 1000, result
        used = time.process_time()
        result = call()
        return time.process_time() - used, result

    def best(self, seconds: list[float]) -> float:
        """One figure of many: the median on CUDA, the least on a CPU, where neighbours only ever slow it down."""
        return statistics.median(seconds) if self.cuda else min(seconds)

    def milliseconds(self, call: Callable[[Any], Any], given: Sequence[Any], calls: int) -> float:
        """``best`` of short calls that rotate through ``given``; queued on CUDA, so that their start is hidden."""
        for _ in range(3 * self.cuda):
            call(given[0])
        if not self.cuda:
            rotated = [given[number % len(given)] for number in range(calls)]
            return 1000 * self.best([self.seconds(lambda one=one: call(one))[0] for one in rotated])
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
        for number, (began, ended) in enumerate(events):
            began.record()
            call(given[number % len(given)])
            ended.record()
        torch.cuda.synchronize()
        return self.best([began.elapsed_time(ended) for began, ended in events])

    def held_bytes(self) -> int | None:
        """Bytes in use now: of the device's allocator on CUDA, resident on a CPU; None where nothing tells."""
        if self.cuda:
            return torch.cuda.memory_allocated()
        _give_back_freed_memory()
        return _status_bytes("VmRSS")

    def forget_peak(self) -> bool:
        """Count peaks from now on; whether that is possible here."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return True
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def peak_bytes(self) -> int | None:
        """The most bytes in use since ``forget_peak``."""
        return torch.cuda.max_memory_allocated() if self.cuda else _status_bytes("VmHWM")

    def rise(self, call: Callable[[], Any]) -> int | None:
        """The most bytes that ``call`` had in use above what was in use before it; None where nothing tells."""
        before = self.held_bytes()
        known = self.forget_peak()
        kept = call()
        self.ready()
        peak = self.peak_bytes()
        del kept
        return max(0, peak - before) if known and peak is not None and before is not None else None


def relative_error(features: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference over the norm of the truth, in float64; NaN stays NaN."""
    wide = truth.double()
    return ((features.to(truth.device).double() - wide).norm() / wide.norm()).item()


def matmul_peak(device: Device, dtype: torch.dtype, size: int, repeats: int) -> dict[str, float]:
    """FLOP a second of a square matrix product, by each way this torch offers; the fastest is the ceiling.

    Args:
        device: where.
        dtype: of both operands.
        size: rows and columns.
        repeats: how often each way is timed, after two to warm up on CUDA.
    """
    left, right = (torch.randn(size, size, device=device.kind).to(dtype) for _ in range(2))
    ways: dict[str, Callable[[], Any]] = {"mm": lambda: left @ right, "linear": lambda: F.linear(left, right)}
    if not device.cuda and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(right, size)
        ways["oneDNN packed"] = lambda: torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")
    rates = {}
    for way, call in ways.items():
        for _ in range(2 * device.cuda):
            call()
        rates[way] = 2 * size**3 / device.best([device.seconds(call)[0] for _ in range(repeats)])
    return rates


def bf16_units() -> str | None:
    """The instructions for bfloat16 products that this processor has, the fastest; None for none."""
    flags = _cpu("flags").split()
    return next((flag for flag in BF16_FLAGS if flag in flags), None)


def surroundings(device: Device) -> dict[str, Any]:
    """Everything that decides a figure besides the code: the machine, the libraries, the commit."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = {key: _cpu(key) for key in ("model name", "cpu family", "model", "stepping", "cache size")}
    about: dict[str, Any] = {
        "device": device.name,
        "processor": machine | {"count": os.cpu_count(), "bf16": bf16_units()},
        "versions": versions,
        "torch_config": torch.__config__.show(),
        **_commit(),
    }
    if device.cuda:
        about["cuda"] = {
            "torch": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": ".".join(str(part) for part in torch.cuda.get_device_capability()),
            "processors": torch.cuda.get_device_properties(0).multi_processor_count,
        }
    return about


def _commit() -> dict[str, Any]:
    """The commit of the tree this file lies in, and whether the tree differs from it."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": None}


def _cpu(key: str) -> str:
    """The first processor's line of that name; "unknown" where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "unknown")


def _status_bytes(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), None)


def _give_back_freed_memory() -> None:
    """Return what the C library keeps of it: a path that runs after another would get it for nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
