"""Kernels against their twins: in Triton's interpreter, in a process of its own, or on a device in this one.

The interpreter has to be asked for by ``TRITON_INTERPRET`` before a kernel is imported, and it then holds for the whole
process.  So a child imports the test module, calls its ``measure`` for all of its ``CASES`` and prints what came out.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def seeded(*shape, dtype=torch.float32, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)


def excess(kernel, twin, truth):
    """How many times its budget a kernel errs; up to 1 is good.

    The budget is twice the largest error of the twin, which is PyTorch in the same dtype; both against float64.  Only
    the interpreter's bfloat16 has another, one unit in its last place, because it cuts numbers off where a device and
    PyTorch round them.
    """
    assert kernel.shape == truth.shape
    assert kernel.dtype == twin.dtype
    if kernel.dtype == torch.bfloat16 and not kernel.is_cuda:
        budget = 2**-7 * truth.abs() + 1e-6
    else:
        budget = 2 * (twin.double() - truth).abs().max() + 1e-6
    return ((kernel.double() - truth).abs() / budget).max().item()


@contextmanager
def poisoned():
    """Memory that nobody has written yet is full of NaN, so that a number the kernel forgets is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def interpret(module):
    """Run all cases of a test module in the interpreter, and give a function from the name of a case to its excess."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.cases", module],
        env=os.environ
        | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        | {"PYTHONPATH": os.pathsep.join([str(ROOT / "kernels"), *sys.path])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])

    def outcome(name):
        assert isinstance(results[name], float), results[name]
        return results[name]

    return outcome


def main(module):
    tests = importlib.import_module(f"tests.ops.{module}")
    results = {}
    for name, case in tests.CASES.items():
        try:
            results[name] = tests.measure(**case)
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
