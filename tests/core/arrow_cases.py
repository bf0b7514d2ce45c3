"""Rows and runs that the tests of the Arrow core share; as a program, a writer that holds its folder."""

import hashlib
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from medvlm_cli.core.arrow import Counts, Harvest, Reject, write_all
from medvlm_cli.core.schemas import FIGURES

KEYS = [f"PMC{number}" for number in range(60)]


def figure(id_: str, **changes) -> dict:
    """A good row; its image is noise made of the id."""
    data = random.Random(id_).randbytes(2000)
    return {
        "figure_id": id_,
        "source": "test",
        "image": {"bytes": data, "path": None},
        "image_sha256": hashlib.sha256(data).digest(),
        "width": 3,
        "height": 4,
        "caption": f"Caption of {id_}: größer.",
        "label": None,
        "mentions": [{"text": f"See {id_}.", "panel": None}],
        "modality": "ct",
        "modality_source": None,
        "n_panels": None,
        "license": "CC-BY-4.0",
        "commercial_ok": True,
        "retracted": False,
        "third_party": False,
        "article_id": None,
        "doi": None,
        "title": None,
        "url": None,
    } | changes


def harvest(key: str) -> Harvest:
    """Two figures of an article, and a reject."""
    return Harvest(3, [figure(f"{key}/fig1"), figure(f"{key}/fig2")], [Reject(f"{key}/fig3", "no_image", "lost")])


def write(out: Path, make: Callable[[str], Harvest] = harvest, keys: list[str] = KEYS, **changes) -> Counts:
    """A figures dataset of about six shards."""
    settings = {"stage": "fetch", "config": {"n": 60}, "keys_per_shard": 10, "tell": lambda *_: None} | changes
    return write_all(out, FIGURES, make, keys=keys, **settings)


def data_of(folder: Path) -> dict[str, bytes]:
    """Name and bytes of every file that is the same in every run: data, rejects, manifest."""
    files = [*folder.glob("data/*"), *folder.glob("rejects/*"), folder / "manifest.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_and_die(out: Path, harvests: int) -> int:
    """Write in a process of its own, killed without notice when so many keys were harvested; its signal."""
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1])
    left = iter(range(harvests))
    try:
        write(out, lambda key: harvest(key) if next(left, None) is not None else os.kill(os.getpid(), signal.SIGKILL))
    finally:
        os._exit(0)


if __name__ == "__main__":  # hold the lock of a folder until this process is ended

    def wait(key: str) -> Harvest:
        print("holding", flush=True)
        signal.pause()
        return harvest(key)

    write(Path(sys.argv[1]), wait)
