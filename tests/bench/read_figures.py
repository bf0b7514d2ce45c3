"""Read figures at random: our reader beside ``datasets`` on the same files.  Run it, it is no test.

    python tests/bench/read_figures.py [--n 20000] [--mean-bytes 90000] [--json]

Each reader runs in a fresh process, so that its peak is its own.  The peak is VmHWM: anonymous memory and mapped file
pages together.  What is asked of ours: at most 1 ms p50 an image, under 300 MB however many figures.  Opening includes
what is done once: imports, the hash of every byte (ours), the copy into the cache (datasets, its first run).  ``cold``
drops our files, or the copy, from the page cache before the reads.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

READS = 4000
LIMIT_MS, LIMIT_MB = 1.0, 300.0


def make(folder: Path, n: int, mean_bytes: int) -> None:
    """Write ``n`` figures of random bytes, sizes from half to one and a half of the mean."""
    from medvlm_cli.core.arrow import Harvest, write_all
    from medvlm_cli.core.schemas import FIGURES

    noise = random.Random(0).randbytes(4 * mean_bytes)
    rest = dict.fromkeys(("label", "modality_source", "n_panels", "article_id", "doi", "title", "url"))

    def figure(key: str) -> Harvest:
        rng = random.Random(key)
        start, size = rng.randrange(2 * mean_bytes), rng.randint(mean_bytes // 2, mean_bytes * 3 // 2)
        data = key.encode() + noise[start : start + size]
        row = {
            "figure_id": key,
            "source": "bench",
            "image": {"bytes": data, "path": None},
            "image_sha256": hashlib.sha256(data).digest(),
            "width": 300,
            "height": 300,
            "caption": f"Figure {key}. " + "A caption of common length, about the finding it shows. " * 5,
            "mentions": [{"text": f"As {key} shows, the lesion is there.", "panel": None}],
            "modality": "unknown",
            "license": "unknown",
            "commercial_ok": False,
            "retracted": False,
            "third_party": False,
        }
        return Harvest(1, [row | rest], [])

    keys = [f"bench/{i}" for i in range(n)]
    write_all(folder, FIGURES, figure, stage="bench", config={"n": n}, keys=keys, tell=lambda *_: None)


def read_ours(folder: Path) -> tuple[int, Callable[[int], bytes]]:
    """Count and a function from position to image bytes."""
    from medvlm_cli.core.arrow import open_dataset
    from medvlm_cli.core.schemas import FIGURES

    dataset = open_dataset(folder, FIGURES)
    ids = dataset.ids
    dataset.position(ids[0])  # the index of ids and the hashes belong to opening
    dataset.verify()
    return len(dataset), lambda i: dataset.row(ids[i], ["image"])["image"]["bytes"]


def read_datasets(folder: Path) -> tuple[int, Callable[[int], bytes]]:
    """The same through ``datasets``, which first copies the files into its cache; images are not decoded."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted(str(path) for path in folder.glob("data/*.arrow"))
    loaded = datasets.load_dataset("arrow", data_files=files, split="train")
    loaded = loaded.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    return len(loaded), lambda i: loaded[i]["image"]["bytes"]


def drop_from_cache(*folders: Path) -> None:
    """Have the kernel forget the pages of all Arrow files."""
    os.sync()
    for path in [path for folder in folders for path in folder.rglob("*.arrow")]:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(reader: str, folder: Path, cold: bool) -> dict[str, float]:
    """Open and read in this process; milliseconds and megabytes."""
    start = time.perf_counter()
    rows, read = {"ours": read_ours, "datasets": read_datasets}[reader](folder)
    opened = time.perf_counter() - start
    order = random.Random(1).choices(range(rows), k=READS)
    if cold:
        drop_from_cache(folder, Path(os.environ["HF_HOME"]))
    total, times = 0, []
    begin = time.perf_counter()
    for i in order:
        start = time.perf_counter()
        total += len(read(i))
        times.append(1e3 * (time.perf_counter() - start))
    seconds = time.perf_counter() - begin
    times.sort()
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {
        "open_s": opened,
        "p50_ms": times[READS // 2],
        "p99_ms": times[READS * 99 // 100],
        "all_s": seconds,
        "peak_mb": peak,
        "read_mb": total / 1e6,
    }


def main() -> None:
    """Make the figures, measure each reader in a process of its own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--mean-bytes", type=int, default=90_000)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON after the table")
    parser.add_argument("--measure", nargs=3, metavar=("READER", "FOLDER", "CACHE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        reader, folder, cache = options.measure
        print(json.dumps(measure(reader, Path(folder), cache == "cold")))
        return
    needed = 3 * options.n * options.mean_bytes  # the files, the copy that datasets makes, and room
    scratch = Path(tempfile.mkdtemp(prefix="medvlm-bench-"))
    try:
        if shutil.disk_usage(scratch).free < needed:
            raise SystemExit(f"{needed / 1e9:.1f} GB are needed in {scratch.parent}: give a smaller --n, or TMPDIR")
        start = time.perf_counter()
        make(scratch / "figures", options.n, options.mean_bytes)
        print(f"{options.n:,} figures of {options.mean_bytes:,} bytes written in {time.perf_counter() - start:.1f} s")
        results = {f"{reader}, {cache}": run(reader, scratch, cache) for reader, cache in RUNS}
    finally:
        shutil.rmtree(scratch)
    show(results)
    if options.json:
        print(json.dumps(results))


RUNS = (("ours", "warm"), ("ours", "cold"), ("datasets", "warm"), ("datasets", "cold"))


def run(reader: str, scratch: Path, cache: str) -> dict[str, float]:
    """Measure in a fresh process; ``datasets`` keeps its cache in the scratch folder."""
    root = Path(__file__).resolve().parents[2]
    home = {"HF_HOME": str(scratch / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, __file__, "--measure", reader, str(scratch / "figures"), cache]
    done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(results: dict[str, dict[str, float]]) -> None:
    """The table, the ratios and whether ours keeps to its limits."""
    names = list(results["ours, warm"])
    print(f"{'':16}" + "".join(f"{name:>10}" for name in names))
    for name, result in results.items():
        print(f"{name:16}" + "".join(f"{result[column]:10.3f}" for column in names))
    for cache in ("warm", "cold"):
        ours, theirs = results[f"ours, {cache}"], results[f"datasets, {cache}"]
        ratios = "".join(f"{ours[column] / theirs[column]:10.3f}" for column in names)
        print(f"{'ours/datasets':16}{ratios}  {cache}")
    ours = results["ours, warm"]
    kept = ours["p50_ms"] <= LIMIT_MS and ours["peak_mb"] < LIMIT_MB
    print(f"at most {LIMIT_MS} ms p50 and under {LIMIT_MB:.0f} MB: {'yes' if kept else 'NO'}")


if __name__ == "__main__":
    main()
