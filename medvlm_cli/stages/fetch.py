"""``fetch``: an outside party's figures, or a benchmark's questions, become an Arrow dataset."""

import functools
import hashlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from medvlm_cli.benchmarks import BENCHMARKS
from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.config import FetchConfig, as_dict
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.plugins import resolve
from medvlm_cli.core.schemas import FIGURES, QUESTIONS
from medvlm_cli.core.tell import Tell
from medvlm_cli.sources import SOURCES

MENDABLE = frozenset({"corrupt_image", "missing_image", "missing_caption", "image_too_big", "unreadable_xml"})
"""Reasons of rejects that the user can cure in the input and then fetch again: the verb ends with ``INCOMPLETE``."""

WORTH_PROCESSES = 64
"""Records from which starting processes pays."""


def kind_of(source: str) -> str:
    """The folder of the workspace that the source's dataset belongs in: ``questions`` for a benchmark."""
    return "questions" if source in BENCHMARKS else "figures"


def fetch(source: str, out: Path, config: FetchConfig, tell: Tell) -> dict[str, Any]:
    """Read every record of a source and write figures/1, or every question of a benchmark and write questions/1.

    Every record becomes rows or rejects; a broken one never ends the run.

    Args:
        source: name of a source of figures or of a benchmark.
        out: folder of the dataset to make.
        config: settings.
        tell: told the phase, the records done and their number.

    Returns:
        Counts of rows and rejects, by reason and modality, and the messages of the first rejects.

    Raises:
        ConfigError: there is no such source.
        DataError: the source is not there, or not one record became a row.
        BusyError: ``out`` is locked, or holds another run.
    """
    is_benchmark = source in BENCHMARKS
    module = resolve(source, SOURCES | BENCHMARKS, "source")
    keys = module.keys(config)
    schema = QUESTIONS if is_benchmark else FIGURES
    settings = {"source": source, **as_dict(config), "input_files": _listing(config)}
    make = functools.partial(module.harvest, config=config)
    with _Processes(len(keys)) as processes:
        counts = write_all(out, schema, make, stage="fetch", config=settings, keys=keys, tell=tell, each=processes.map)
    summary: dict[str, Any] = {"verb": "fetch", "source": source, "out": str(out), "rows": counts.out}
    summary |= {"rejected": counts.rejected, "reasons": counts.reasons}
    dataset = open_dataset(out, schema)
    rejects = list(dataset.rejects())
    summary["rejects"] = [f"{reject['reason']}: {reject['message']}" for reject in rejects[:20]]
    summary["retry"] = sum(reject["reason"] in MENDABLE for reject in rejects)
    if not counts.out:
        raise DataError(
            f"{source}: not one of {counts.found} records became a row; the first reason: "
            + (summary["rejects"][0] if rejects else "there are no records"),
            f"see {out / 'rejects'}, then remove {out}",
        )
    column = "category" if is_benchmark else "modality"
    summary[column] = _histogram(row[column] for row in dataset.rows([column]))
    return summary


class _Processes:
    """``map`` over all cores for many records, whose work is drawing, parsing and decoding; the plain one for few."""

    def __init__(self, records: int) -> None:
        self._workers = min(os.cpu_count() or 1, 16) if records >= WORTH_PROCESSES else 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, make: Callable[[str], Harvest], keys: Sequence[str]) -> Iterator[Harvest]:
        """What each key gave, in order; only a few keys ahead are held, because a harvest holds its images."""
        if self._workers == 1:
            yield from map(make, keys)
            return
        if self._pool is None:  # not before the folder is known to be ours, and something is to be done
            self._pool = ProcessPoolExecutor(self._workers, multiprocessing.get_context("spawn"), _end_with_parent)
        ahead: deque[Future[Harvest]] = deque()
        for key in keys:
            ahead.append(self._pool.submit(make, key))
            if len(ahead) > 8 * self._workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _end_with_parent() -> None:
    """In a worker: end when the parent dies, even by SIGKILL, which the pool's own pipes do not notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _histogram(values: Iterator[str | None]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value or "none"] = counts.get(value or "none", 0) + 1
    return dict(sorted(counts.items()))


def _listing(config: FetchConfig) -> str:
    """A digest of names and sizes of all input files, so that a changed input is another run and not a resume."""
    digest = hashlib.sha256()
    for given in (*config.mirror, config.images, config.captions):
        root = Path(given) if given else None
        if root is None or not root.exists():
            continue
        for path in sorted(path for path in (root.rglob("*") if root.is_dir() else [root]) if path.is_file()):
            digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode(errors="replace"))
    return digest.hexdigest()
