"""What a device can hold and how fast it computes: the user's own, or one known by its datasheet."""

import os
from dataclasses import dataclass

import torch

from medvlm_cli.core.errors import ConfigError

GB = 10**9
"""Bytes; datasheets count memory so, and so does everything that is estimated here."""
RESERVE = 0.1
"""Share of a device's memory that is left for what is not counted: CUDA itself, the tower's working memory, gaps."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device."""

    name: str
    memory: int
    """Bytes."""
    peak: float | None
    """Dense bfloat16 operations a second, of the tensor cores with float32 sums; None where no datasheet says it."""
    source: str
    shared: bool = False
    """Whether processes have this memory together, as on a processor, and not each its own."""

    def usable(self, count: int) -> float:
        """Bytes that each of ``count`` processes may take."""
        return self.memory * (1 - RESERVE) / (count if self.shared else 1)


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        # 1,979 TFLOP/s with sparsity, which training has not
        Device(name="h100-80gb", memory=80 * GB, peak=989e12, source="NVIDIA H100 datasheet, SXM"),
        Device(name="h200-141gb", memory=141 * GB, peak=989e12, source="NVIDIA H200 datasheet, SXM"),
        Device(name="a100-80gb", memory=80 * GB, peak=312e12, source="NVIDIA A100 80GB datasheet"),
        Device(name="a100-40gb", memory=40 * GB, peak=312e12, source="NVIDIA A100 datasheet"),
        Device(name="l40s-48gb", memory=48 * GB, peak=362e12, source="NVIDIA L40S datasheet"),
        # with sums in float32; those in float16, twice as fast, would not do for training
        Device(name="rtx4090-24gb", memory=24 * GB, peak=165.2e12, source="NVIDIA Ada GPU architecture, appendix A"),
    )
}
CPU = "cpu"
NAMES = (*DEVICES, CPU)

_DRIVER_NAMES = {
    "H200": "h200-141gb",
    "H100 80GB HBM3": "h100-80gb",  # the SXM module; the PCIe card, "H100 PCIe", is slower
    "A100": "a100-80gb",
    "L40S": "l40s-48gb",
    "RTX 4090": "rtx4090-24gb",
}
"""What is in the name that the driver gives a GPU -> whose datasheet states its speed."""


def find_device(name: str) -> Device:
    """The device of this name; of no name, this machine's first GPU, or else its processor.

    Raises:
        ConfigError: there is no such name.
    """
    if name in DEVICES:
        return DEVICES[name]
    if name not in ("", CPU):
        raise ConfigError(f"--gpu-type {name}: not in the table", f"give one of {', '.join(NAMES)}")
    if name == "" and torch.cuda.is_available():
        return _own(torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(name=CPU, memory=memory, peak=None, source="this machine's main memory", shared=True)


def _own(name: str, memory: int) -> Device:
    """A GPU of this machine, with its own memory and the speed that its datasheet states."""
    known = next((DEVICES[ours] for part, ours in _DRIVER_NAMES.items() if part in name), None)
    source = "its driver" if known is None else f"its driver; speed: {known.source}"
    return Device(name=name, memory=memory, peak=None if known is None else known.peak, source=source)
