"""The three-scale encoder against its peers: ``python kernels/bench/encode.py [--device cpu|cuda]``.

Peers and ours take turns in one process on the same random weights and random figures; one table, a JSON file, and at
the end one line of ratios.  On a CPU the time is that of the processor, all threads together, and the least of all
rounds; on CUDA it is the device's, and the median.  FLOP are those the features need, the same for every path.
Memory is what an encode takes above weights and figures.  The error is the norm of the difference to S2 over Hugging
Face's tower in float32, relative.
"""

import argparse
import datetime
import functools
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # medvlm_kernels is found whether or not it is installed

import ours
import peers
import torch
from contest import Contender, Contest, Row
from measure import Device, bf16_units, matmul_peak, surroundings
from medvlm_kernels.geometry import Geometry
from sweeps import lines, sweep

QUICK = peers.Shape(layers=3, width=64, heads=2, hidden=128, geometry=Geometry(42, 14, (1, 2, 3)))
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
HUGGING_FACE, OPEN_CLIP, TIMM = "S2 + Hugging Face", "S2 + open_clip", "S2 + timm"
COMPILED, OURS, PADDED = "batched, torch.compile", "ours", "ours, 3:1 padded"


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = _options(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: give --device cpu")
    shape, device = _shape(options), Device(options.device)
    out = options.out or (None if options.quick else _place(device.name))
    _refuse_to_overwrite(out, device.name)
    torch.set_grad_enabled(False)
    if options.threads:
        torch.set_num_threads(options.threads)
    contest = Contest(device, shape)
    peaks = _peaks(contest, options.quick)
    drawn = contest.timed("random weights", lambda: peers.random_state(shape))
    state = {name: tensor.to(device.kind) for name, tensor in drawn.items()}
    if device.cuda:  # no contender there is in float32
        contest.set_truths(peers.hugging_face(state, shape, torch.float32, device.kind))
    contenders = _contenders(contest, state)
    for first in contenders[:1]:
        if (first.path, first.precision) == (HUGGING_FACE, "fp32"):
            contest.set_truths(first.encode)
    rows = [row for images in options.images for row in contest.rows(contenders, images, options.rounds)]
    baseline = "fp32" if options.device == "cpu" else "bf16"
    contest.compare(rows, (HUGGING_FACE, baseline), peaks)
    chosen = _chosen(contenders)
    sweeps = sweep(contest, state, options.quick) if device.cuda else {}
    about = surroundings(device)
    print("\n".join([_table(rows, baseline), *lines(sweeps)]))
    result = {
        "date": datetime.date.today().isoformat(),
        **about,
        "settings": {key: value for key, value in vars(options).items() if key != "out"} | {"flops": shape.flops},
        "matmul_flops": peaks,
        "chosen": chosen,
        "rows": [row.told() for row in rows],
        "sweeps": sweeps,
        "failures": contest.failures,
    }
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written: {out}", file=sys.stderr)
    for failure in contest.failures:
        print(f"left out: {failure['where']}: {failure['what']}")
    print(_ratios(rows, baseline))


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--layers", type=_count, help="blocks of the tower (32); the features come from the second last")
    add("--images", type=_count, nargs="+", help="figures of one call (1 on a CPU; 1 8 16 on CUDA)")
    add("--rounds", type=_count, help="how often each path is timed (2 on a CPU; 20 on CUDA)")
    add("--threads", type=_count, help="threads of the CPU (1; on CUDA as torch has it)")
    add("--out", type=Path, help="JSON file (kernels/bench/results/encode-DEVICE-DATE.json; none with --quick)")
    add("--quick", action="store_true", help="a tiny tower: whether everything runs, not how fast")
    options = parser.parse_args(argv)
    cpu = options.device == "cpu"
    options.images = options.images or ([1] if cpu else [1, 8, 16])
    options.rounds = options.rounds or (1 if options.quick else 2 if cpu else 20)
    options.threads = options.threads or (1 if cpu else None)
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _shape(options: argparse.Namespace) -> peers.Shape:
    shape = QUICK if options.quick else peers.Shape()
    options.layers = options.layers or shape.layers
    if options.layers < 2:
        raise SystemExit(f"--layers is {options.layers}: the features come from the second last, give 2 or more")
    return peers.Shape(options.layers, shape.width, shape.heads, shape.hidden, shape.geometry)


def _peaks(contest: Contest, quick: bool) -> dict[str, dict[str, float]]:
    """FLOP a second of matrix products here, by precision and way."""
    device = contest.device
    size = 256 if quick else 8192 if device.cuda else 4096
    repeats = 10 if device.cuda else 3
    peaks = {}
    for name in PRECISIONS:
        if name == "bf16" or not device.cuda:
            run = functools.partial(matmul_peak, device, PRECISIONS[name], size, repeats)
            peaks[name] = contest.attempt(f"matrix product {name}", run)
    return {name: rates for name, rates in peaks.items() if rates}


def _contenders(contest: Contest, state: peers.State) -> list[Contender]:
    """Every path that can be built here; the others are noted."""
    device, shape = contest.device, contest.shape
    cpu = not device.cuda
    second, other = (OPEN_CLIP, peers.open_clip) if contest.has("open_clip") else (TIMM, peers.timm)
    makers: list[tuple[str, str, Callable[..., Any]]] = [(HUGGING_FACE, "bf16", peers.hugging_face)]
    makers += [(second, "bf16", other)]
    if cpu:
        makers = [(name, "fp32", maker) for name, _, maker in makers] + makers + [(OURS, "fp32", ours.tower)]
    else:
        makers += [(COMPILED, "bf16", _compiled)]
    makers += [(OURS, "bf16", ours.tower)]
    if cpu and bf16_units() is None:
        contest.note("bf16", "this processor has neither AVX512-BF16 nor AMX")
        makers = [maker for maker in makers if maker[1] != "bf16"]
    built = []
    for name, precision, maker in makers:
        made = contest.build(
            name, precision, functools.partial(maker, state, shape, PRECISIONS[precision], device.kind)
        )
        built += [made] if made else []
    last = next((one for one in reversed(built) if one.path == OURS), None)
    return [*built, Contender(PADDED, last.precision, last.encode, padded=True)] if last else built


def _compiled(state: peers.State, shape: peers.Shape, dtype: torch.dtype, device: str) -> peers.Encode:
    from batched import batched

    return batched(state, shape, dtype, device, functools.partial(torch.compile, dynamic=False))


def _chosen(contenders: list[Contender]) -> dict[str, Any]:
    """What ours chose for itself: attention, products, tiles of one call."""
    engines = {one.precision: _engine(one) for one in contenders if one.path == OURS}
    names = ("attention", "ways", "tile_batch")
    return {
        precision: {name: getattr(engine, name) for name in names if hasattr(engine, name)}
        for precision, engine in engines.items()
    }


def _engine(one: Contender) -> Any:
    return one.encode.__self__.engine  # type: ignore[attr-defined]  # a method of FusedTower


def _table(rows: list[Row], baseline: str) -> str:
    titles = ["path", "precision", "images", "images/s", "ms/image", f"x {HUGGING_FACE} {baseline}", "TFLOP/s",
              "of peak", "memory MB", "error"]  # fmt: skip
    lines = [titles, *(row.cells() for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(titles))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" if place < 2 else f"{cell:>{width}}" for place, (cell, width) in
                  enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )  # fmt: skip


def _ratios(rows: list[Row], baseline: str) -> str:
    """One line: what ours is worth, at the largest number of figures that was measured."""
    images = max((row.images for row in rows), default=0)
    found = {(row.path, row.precision): row for row in rows if row.images == images}
    first = (HUGGING_FACE, baseline)
    pairs = [((OURS, precision), first) for precision in PRECISIONS]
    pairs += [((OURS, "bf16"), (peer, "bf16")) for peer in (HUGGING_FACE, OPEN_CLIP, TIMM, COMPILED)
              if (peer, "bf16") != first]  # fmt: skip
    pairs += [((PADDED, precision), (OURS, precision)) for precision in PRECISIONS]
    told = []
    for own, other in pairs:
        if own in found and other in found:
            a, b = found[own], found[other]
            memory = f", memory x {a.peak_bytes / b.peak_bytes:.3f}" if a.peak_bytes and b.peak_bytes else ""
            told.append(f"{' '.join(own)} {b.seconds / a.seconds:.2f}x {' '.join(other)}{memory}")
    share = found[OURS, "bf16"].share if (OURS, "bf16") in found else None
    told += [f"ours bf16 at {share:.0%} of the matrix product's rate"] if share else []
    return f"ratios, images a call {images}: " + "; ".join(told)


def _place(device: str) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    name = f"encode-{slug}-{datetime.date.today().isoformat()}.json"
    return Path(__file__).resolve().parent / "results" / name


def _refuse_to_overwrite(out: Path | None, device: str) -> None:
    if not out or not out.exists():
        return
    try:
        other = json.loads(out.read_text(encoding="utf-8")).get("device")
    except (ValueError, AttributeError):
        raise SystemExit(f"{out} is there already and no result of this bench: give another --out") from None
    if other != device:
        raise SystemExit(f"{out} holds the figures of {other}, not of {device}: give another --out")


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
