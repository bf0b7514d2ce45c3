"""Kernels as a Hopper GPU would get them, compiled where there is none.

The wrappers are called as ever, on tensors of full size that nobody fills, and what they would launch is compiled
instead: sizes of blocks, warps and stages are those of the package and not a copy.  Triton brings the assembler.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import torch

ROOT = Path(__file__).resolve().parents[2]
SHARED_BYTES = 227 * 1024
"""Most shared memory of one program on sm_90."""

TILES, LENGTH, CHANNELS = 32, 730, 1280
TYPES = {
    torch.bfloat16: "bf16", torch.float32: "fp32", torch.uint8: "u8", torch.int64: "i64", int: "i32", float: "fp32",
}  # fmt: skip


class Recorder:
    """Stands where a kernel stood, and keeps what it would have been launched with."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.launches = []

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((args, options))


def compiled(kernel, args, options):
    """Compile one launch for sm_90; what the binary needs, and how often it has which instruction."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    given = dict(zip(kernel.arg_names, args, strict=False))
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    constants |= {name: value for name, value in given.items() if isinstance(value, int) and value == 1}
    signature = {name: "constexpr" if name in constants else kind(given[name]) for name in kernel.arg_names}
    sixteens = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name not in constants and divides(given[name])
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=sixteens)
    options = {name: value for name, value in options.items() if name not in constants}
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return inspected(binary.asm["cubin"]) | {"SHARED": binary.metadata.shared}


def kind(value):
    """How Triton writes the type of an argument."""
    if hasattr(value, "block_shape"):
        return f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)}>"
    return f"*{TYPES[value.dtype]}" if isinstance(value, torch.Tensor) else TYPES[type(value)]


def divides(value):
    """Whether Triton may take it for a multiple of 16, as it does at a launch."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr() % 16 == 0
    return isinstance(value, int) and value % 16 == 0


def tool():
    """Path of cuobjdump, which need not exist."""
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def inspected(cubin):
    path = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    path.write_bytes(cubin)
    usage, code = (
        subprocess.run([tool(), flag, path], capture_output=True, text=True, check=True).stdout
        for flag in ("--dump-resource-usage", "--dump-sass")
    )
    needs = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    opcodes = Counter(re.findall(r"^\s+/\*\w+\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.]*)", code, re.MULTILINE))
    return needs | {"SASS": opcodes}


def faults(needs, registers, asked=()):
    """What speaks against a binary: what it spills or takes too much of, and which instructions it lacks."""
    spilled = {opcode: count for opcode, count in needs["SASS"].items() if opcode.split(".")[0] in ("LDL", "STL")}
    found = [f"spills: {opcode} x {count}" for opcode, count in spilled.items()]
    found += [f"{name} {needs[name]} bytes" for name in ("STACK", "LOCAL") if needs[name]]
    found += [f"{needs['REG']} registers, more than {registers}"] * (needs["REG"] > registers)
    found += [f"{needs['SHARED']} bytes shared"] * (needs["SHARED"] > SHARED_BYTES)
    return found + [f"no {want}" for want in asked if not any(re.match(want, opcode) for opcode in needs["SASS"])]


def recorded(module, op, call):
    """What ``call`` would have launched of a module's kernel, as compiled for a device."""
    recorder = Recorder(getattr(module, f"_{op}_kernel"))
    with patch.object(module, f"_{op}_kernel", recorder):
        call()
    assert recorder.launches, op
    return [
        compiled(recorder.kernel, args, options | ({"UP": False} if "UP" in options else {}))
        for args, options in recorder.launches
    ]


def normalised(channels, lane=None):
    from medvlm_kernels import normalise_triton as module

    hidden = torch.empty(TILES * LENGTH, channels, dtype=torch.bfloat16)
    shift, vector = torch.empty(channels), hidden[0]
    with patch.object(module, "LANE", lane or module.LANE):
        return recorded(module, "normalise", lambda: module.normalise_triton(hidden, shift, vector, vector, 1e-5))[0]


def merged():
    from medvlm_kernels import merge_triton as module

    tiles, places = torch.empty(14, 729, CHANNELS, dtype=torch.bfloat16), torch.empty(1, 14, dtype=torch.int64)
    shift = torch.empty(CHANNELS)
    return recorded(module, "merge", lambda: module.merge_triton(tiles, places, (1, 2, 3), shift))[0]


def patchified():
    from medvlm_kernels import patchify_triton as module
    from medvlm_kernels.geometry import Geometry

    images = torch.empty(1, 1134, 1134, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    geometry = Geometry(378, 14, (1, 2, 3))
    return recorded(
        module, "patchify", lambda: module.patchify_triton(images, geometry, (123, 117, 104), torch.bfloat16)
    )


def multiplied(op, ins, outs, blocks):
    from medvlm_kernels import linear_triton as module

    rows, weight = (torch.empty(count, ins, dtype=torch.bfloat16) for count in (TILES * LENGTH, outs))
    last = rows.new_empty(outs) if op == "linear_quick_gelu" else rows.new_empty(len(rows), outs)
    with patch.object(module, "choose", lambda *_: getattr(module, blocks)):
        return recorded(module, "linear", lambda: getattr(module, f"{op}_triton")(rows, weight, last))[0]


def main():
    """Compile everything and print what it needs."""
    results = {
        "normalise": normalised(CHANNELS),
        "normalise-8192": normalised(8192),
        "normalise-8192-in-one-warp": normalised(8192, lane=256),
        "merge": merged(),
    }
    results |= {f"patchify-{scale}": needs for scale, needs in zip((1, 2, 3), patchified(), strict=True)}
    for name, op, ins, outs in (
        ("up", "linear_quick_gelu", CHANNELS, 4 * CHANNELS),
        ("down", "linear_add", 4 * CHANNELS, CHANNELS),
        ("embed", "linear_add", 592, CHANNELS),
    ):
        for blocks in ("LARGE", "SMALL"):
            results[f"linear-{name}-{blocks.lower()}"] = multiplied(op, ins, outs, blocks)
    print(json.dumps(results))


def needs_of_all(folder):
    """Run ``main`` in a process of its own: Triton's cache in ``folder``, its interpreter off."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.sm90"],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        | {
            "TRITON_CACHE_DIR": str(folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "kernels"), *sys.path]),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
