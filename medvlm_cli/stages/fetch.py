"""``fetch``: an outside party's figures, questions or conversations become an Arrow dataset."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

import pyarrow as pa

from medvlm_cli.benchmarks import BENCHMARKS
from medvlm_cli.core import cluster, parts
from medvlm_cli.core.arrow import Dataset, Harvest, Reject, Writer, open_dataset
from medvlm_cli.core.attribution import attribution
from medvlm_cli.core.commit import write_text
from medvlm_cli.core.config import FetchConfig, as_dict
from medvlm_cli.core.crew import Crew, WorkerDiedError
from medvlm_cli.core.errors import BusyError, DataError, LaterError
from medvlm_cli.core.plugins import resolve
from medvlm_cli.core.record import MANIFEST, RUN, read_json
from medvlm_cli.core.report import write_report
from medvlm_cli.core.schemas import FIGURES, QUESTIONS, name_of
from medvlm_cli.core.summary import tables
from medvlm_cli.core.tell import Tell
from medvlm_cli.sources import SOURCES

MENDABLE = frozenset({"corrupt_image", "corrupt_file", "missing_image", "missing_caption", "image_too_big"})
"""Reasons of rejects that the user can cure in the input and then fetch again: the verb ends with ``INCOMPLETE``."""

NOT_THE_RUN = ("cache", "selection", "connections", "tries", "decode_seconds", "shards", "engine")
"""Settings that change how fast a dataset is made and not what is in it: a run resumes with others."""


class Supply(Protocol):
    """Where the harvests of a run come from, in the order of its keys."""

    def harvests(self, keys: Sequence[str]) -> Iterator[Harvest]:
        """Those of the next keys."""

    def spent(self) -> dict[str, int]:
        """What it cost so far, for ``run.json``."""

    def forget(self, keys: Sequence[str]) -> None:
        """Their rows are committed."""


def destination(source: str, config: FetchConfig) -> tuple[str, str]:
    """Where in the workspace the dataset belongs: ``("questions", "slake")``, ``("figures", "pmc")``.

    Raises:
        ConfigError: there is no such source.
    """
    module = resolve(source, SOURCES | BENCHMARKS, "source")
    name = module.name(config) if hasattr(module, "name") else source
    return name_of(_schema(module, source, config)).split("/")[0], name


def estimate(source: str, out: Path, config: FetchConfig) -> dict[str, Any]:
    """What fetching will cost, under ``cost``; empty where nothing is known, or the dataset is there.

    Raises:
        ConfigError: the settings make no sense.
        DataError: an input is not what it must be.
    """
    module = resolve(source, SOURCES | BENCHMARKS, "source")
    part = out / parts.name(*parts.parse(config.shard)) if config.shard else out
    there = (part / MANIFEST).exists() or (not config.shard and parts.are_finished(out, MANIFEST))
    if there or not hasattr(module, "estimate"):
        return {}
    return module.estimate(dataclasses.replace(config, cache=str(_state(out))))


def fetch(source: str, out: Path, config: FetchConfig, tell: Tell) -> dict[str, Any]:
    """Read every record of a source and write figures/1, questions/1 or conversations/1.

    Every record becomes rows or rejects; a broken one never ends the run.

    Args:
        source: name of a source of figures or of a benchmark.
        out: folder of the dataset to make; of a dataset in parts, the folder of them all.
        config: settings; with ``shard``, only that part is made.
        tell: told the phase, the records done and their number.

    Returns:
        Counts of rows and rejects, by reason and by what a row is, and the messages of the first rejects.

    Raises:
        ConfigError: there is no such source, or the settings make no sense.
        DataError: the source is not there, or not one record became a row.
        LaterError: some of it could not be had just now; the dataset is finished by the same call, later.
        RemoteError: the other party refuses, or does not answer.
        BusyError: ``out`` is locked, or holds another run.
    """
    module = resolve(source, SOURCES | BENCHMARKS, "source")
    number, count = parts.parse(config.shard) if config.shard else (0, 0)
    _refuse_the_other(out, bool(count) or config.engine == "ray")
    if config.engine == "ray" and not count:
        return _on_cluster(source, module, out, config, tell)
    schema = _schema(module, source, config)
    state = _state(out)
    config = dataclasses.replace(config, cache=str(state))
    inputs = {}
    if hasattr(module, "select") and (selected := module.select(config, state, tell)):
        inputs["selection"] = selected
        config = dataclasses.replace(config, selection=str(selected))
    keys = module.keys(config)
    if count:
        keys = [key for key in keys if _hash(key) % count == number]
        out = out / parts.name(number, count)
    settings = {name: value for name, value in as_dict(config).items() if name not in NOT_THE_RUN}
    settings = {"source": source, **settings, "input_files": _listing(config)}
    with Writer(out, schema, stage="fetch", config=settings, keys=keys, inputs=inputs) as writer:
        if not writer.done:
            _work(writer, keys, module, config, tell)
    if count and name_of(schema) == name_of(FIGURES) and parts.are_finished(out.parent, MANIFEST):
        with contextlib.suppress(DataError):  # parts of two runs; whoever reads them is told
            _pages(open_dataset(out.parent, schema), getattr(module, "REASONS", {}))  # by the last part to finish
    return _finished(source, module, out, schema, config)


def _on_cluster(source: str, module: ModuleType, out: Path, config: FetchConfig, tell: Tell) -> dict[str, Any]:
    """All parts of a dataset as tasks of a Ray cluster whose machines share the file system of ``out``."""
    state = _state(out)
    config = dataclasses.replace(config, cache=str(state))
    if hasattr(module, "select"):  # once, before the tasks ask for it
        config = dataclasses.replace(config, selection=str(module.select(config, state, tell) or ""))
    if parts.are_finished(out, MANIFEST):  # no cluster is needed to see that they are those asked for
        for shard in (f"{number}/{count}" for number, count in parts.found(out)):
            fetch(source, out, dataclasses.replace(config, shard=shard), tell)
    else:
        with cluster.connected() as processors:
            count = next((count for _, count in parts.found(out)), config.shards or processors)
            config = dataclasses.replace(config, connections=max(1, config.connections // min(count, processors)))
            each = [dataclasses.replace(config, shard=f"{number}/{count}") for number in range(count)]
            cluster.run(fetch, [(source, out, one, _quiet) for one in each], tell)
    return _finished(source, module, out, _schema(module, source, config), config)


def _state(out: Path) -> Path:
    """Where what a run leaves on the way to ``out`` lies: its selection, and what it downloaded."""
    out = Path(os.path.abspath(out))  # noqa: PTH100 - the name of "." and of "a/..", links left as they are
    return out.parent / f".{out.name}.state"


def _quiet(phase: str, done: int, total: int | None) -> None:
    """A task of a cluster has nobody to tell."""


def _schema(module: ModuleType, source: str, config: FetchConfig) -> pa.Schema:
    if hasattr(module, "schema"):
        return module.schema(config)
    return QUESTIONS if source in BENCHMARKS else FIGURES


def _refuse_the_other(out: Path, in_parts: bool) -> None:
    """A folder holds a dataset in one piece, or parts of one, never both."""
    fix = f"give another folder with -o, or remove {out}"
    if in_parts and ((out / MANIFEST).exists() or (out / RUN).exists()):
        raise BusyError(f"{out} holds a dataset in one piece", fix)
    if not in_parts and parts.found(out):
        raise BusyError(f"{out} holds a dataset in parts", f"give --shard, or {fix}")


def _hash(key: str) -> int:
    """Decides the part of a key, on any machine and whatever else is fetched."""
    return int.from_bytes(hashlib.sha256(f"part {key}".encode("utf-8", "surrogatepass")).digest()[:8])


def _work(writer: Writer, keys: Sequence[str], module: ModuleType, config: FetchConfig, tell: Tell) -> None:
    """Harvest what is left of a run and commit it shard by shard."""
    todo = list(writer.todo())
    order = [key for _, part in todo for key in part]
    done = len(keys) - len(order)
    later: list[LaterError] = []
    before = writer.extra.get("network", {})
    tell("fetch", done, len(keys))

    def told(supply: Supply, part: Sequence[str]) -> Iterator[Harvest]:
        nonlocal done
        for harvest in supply.harvests(part):
            yield harvest
            done += 1
            tell("fetch", done, len(keys))
        spent = {name: before.get(name, 0) + amount for name, amount in supply.spent().items()}
        writer.extra |= {"network": spent} if spent else {}

    with Crew(1 if config.engine == "ray" else None) as crew:  # a task of Ray has one processor
        supply = module.retrieval(order, config, crew) if hasattr(module, "retrieval") else None
        with supply or _Local(module, config, crew) as opened:
            for shard, part in todo:
                try:
                    writer.commit(shard, told(opened, part))
                except LaterError as error:  # the other shards first; this one stays to be done
                    later.append(error)
                else:
                    opened.forget(part)
    if later:
        raise LaterError(later[-1].what, later[-1].fix, sum(error.count for error in later))


class _Local(AbstractContextManager):
    """What a source's ``harvest`` gives, by a crew."""

    def __init__(self, module: ModuleType, config: FetchConfig, crew: Crew) -> None:
        self._make: Callable[[str], Harvest] = functools.partial(module.harvest, config=config)
        self._crew = crew

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def harvests(self, keys: Sequence[str]) -> Iterator[Harvest]:
        """Those of some keys; one that kills its worker is a reject."""
        for key, future in self._crew.futures(self._make, keys):
            try:
                yield future.result()
            except WorkerDiedError:
                what = f"{key}: reading it killed its process twice"
                yield Harvest(1, [], [Reject(key, "corrupt_image", what)])

    def spent(self) -> dict[str, int]:
        """Nothing that counts."""
        return {}

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is held."""


def _finished(source: str, module: ModuleType, out: Path, schema: pa.Schema, config: FetchConfig) -> dict[str, Any]:
    """The summary of a finished dataset; figures get their page and their credits."""
    dataset = open_dataset(out, schema)
    rejects = list(dataset.rejects())
    summary: dict[str, Any] = {"verb": "fetch", "source": source, "out": str(out), "rows": len(dataset)}
    summary |= {"rejected": len(rejects), "reasons": _histogram(reject["reason"] for reject in rejects)}
    summary["rejects"] = [f"{reject['reason']}: {reject['message']}" for reject in rejects[:20]]
    if network := (read_json(out / RUN) or {}).get("network"):
        summary["network"] = network
    mendable = module.mendable(config) if hasattr(module, "mendable") else MENDABLE
    summary["retry"] = sum(reject["reason"] in mendable for reject in rejects)
    if not len(dataset) and not config.shard:
        raise DataError(
            f"{source}: not one of {len(rejects)} records became a row; the first reason: "
            + (summary["rejects"][0] if rejects else "there are no records"),
            f"see {out / 'rejects'}, then remove {out}",
        )
    kind = name_of(schema).split("/")[0]
    if hasattr(module, "counted"):
        summary |= module.counted(dataset, config)
    if kind == "figures":
        summary["tables"] = tables(dataset)
        summary |= _pages(dataset, getattr(module, "REASONS", {}))
    elif kind == "questions":
        summary["category"] = _histogram(row["category"] or "none" for row in dataset.rows(["category"]))
    return summary


def _pages(dataset: Dataset, reasons: Mapping[str, str]) -> dict[str, str]:
    """The report and the credits, made once: a finished folder is not changed."""
    pages = {"report": dataset.folder / "report.html", "attribution": dataset.folder / "ATTRIBUTION.csv"}
    if not pages["report"].exists():
        write_report(dataset, reasons)
    if not pages["attribution"].exists():
        write_text(pages["attribution"], attribution(dataset))
    return {name: str(path) for name, path in pages.items()}


def _histogram(values: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))


def _listing(config: FetchConfig) -> str:
    """A digest of names and sizes of all input files, so that a changed input is another run and not a resume."""
    digest = hashlib.sha256()
    for given in (*config.mirror, *config.files, config.images, config.captions):
        root = Path(given) if given else None
        if root is None or not root.exists():
            continue
        for path in sorted(path for path in (root.rglob("*") if root.is_dir() else [root]) if path.is_file()):
            digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode(errors="replace"))
    return digest.hexdigest()
