"""Lists of figures with dead addresses, fetched from the bucket: what ``llava-med`` and ``roco`` share.

A source that reads such a list has these functions as its own, with the reader of its format.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from medvlm_cli.core.arrow import Dataset, Harvest, Reject, open_dataset
from medvlm_cli.core.commit import sha256_of
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.crew import Crew
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.schemas import ARTICLES
from medvlm_cli.core.tell import Tell
from medvlm_cli.sources import asked, dead_links, pmc, selection
from medvlm_cli.sources.dead_links import Trouble, Wanted
from medvlm_cli.sources.retrieval import Retrieval

REASONS = dead_links.REASONS | asked.REASONS | pmc.REASONS
"""Every reason for which a line is no row."""

UNUSABLE = "lines that ask for nothing"
"""The key of what no article could be found for."""

Reader = Callable[[Path], Iterator[Wanted | Trouble]]


def select(config: FetchConfig, folder: Path, tell: Tell, reader: Reader) -> Path:
    """The articles that the list names, each with the figures that are asked of it; made once.

    Args:
        config: the files of the list.
        folder: where selections lie.
        tell: told how many lines were read.
        reader: of the list's format.

    Raises:
        ConfigError: no file is given, or a modality is unknown.
        DataError: a file is not there, or names no article.
    """
    pmc.check_modalities(config)
    if not config.files:
        raise ConfigError("no list of figures is given", "medvlm fetch llava-med llava_med_image_urls.jsonl")
    for file in config.files:
        if not Path(file).is_file():
            raise DataError(f"{file} is not there", "give the published list of figures")
    settings = {"list": [sha256_of(Path(file)) for file in config.files]}

    def make(_: str) -> Harvest:
        by_article: dict[str, list[dict[str, str]]] = {}
        rejects = []
        seen: set[str] = set()
        lines = (line for file in config.files for line in reader(Path(file)))
        for number, line in enumerate(lines, 1):
            tell("read the list", number, None)
            if isinstance(line, Trouble):
                rejects.append(Reject(line.id, line.reason, line.message, line.raw))
            elif line.figure_id in seen:  # in an earlier file
                what = f"line {line.line}: '{line.figure_id}' is the id of an earlier line"
                rejects.append(Reject(line.figure_id, "duplicate_id", what, line.file))
            else:
                seen.add(line.figure_id)
                by_article.setdefault(line.pmcid, []).append({"id": line.figure_id, "file": line.file})
        rows = [
            {"article_id": article, "versions": [], "wanted": by_article[article]} for article in sorted(by_article)
        ]
        return Harvest(len(rows) + len(rejects), rows, rejects)

    return selection.make_once(folder, settings, make, tell)


def mendable(config: FetchConfig) -> frozenset[str]:
    """Reasons that another try may cure."""
    return frozenset({"unavailable"})


def keys(config: FetchConfig) -> list[str]:
    """The articles of the list, and ``UNUSABLE`` where a line names none."""
    selected = open_dataset(Path(config.selection), ARTICLES)
    return selected.ids + [UNUSABLE] * bool(selected.manifest["rejected"])


def retrieval(keys: Sequence[str], config: FetchConfig, crew: Crew, name: str) -> Retrieval:
    """The figures asked for, over the network.

    Args:
        keys: some of ``keys(config)``, in the order in which they will be asked for.
        config: as for ``pmc``; without a licence any known one is kept, because the lists are of research data.
        crew: workers that parse and decode.
        name: what the rows' ``source`` is.
    """
    selected = open_dataset(Path(config.selection), ARTICLES)
    wanted = {row["article_id"]: [(one["id"], one["file"]) for one in row["wanted"]] for row in selected.rows()}
    ready = {}
    if UNUSABLE in keys:
        rejects = [Reject(row["id"], row["reason"], row["message"], row["raw"]) for row in selected.rejects()]
        ready[UNUSABLE] = Harvest(len(rejects), [], rejects)

    def died(key: str, what: str) -> Harvest:
        lost = [Reject(id_, "unreadable_article", what, file) for id_, file in wanted[key]]
        return Harvest(len(lost), [], lost)

    config = dataclasses.replace(config, license=config.license or "noncommercial")
    reads = {key: functools.partial(asked.read, asked=wanted[key], source=name) for key in keys if key in wanted}
    return Retrieval(keys, config, crew, reads=reads, ready=ready, died=died)


def counted(dataset: Dataset, config: FetchConfig) -> dict[str, dict[str, int]]:
    """What became of every line of the list, or of those of one part, under ``mapping``; they add up to the lines."""
    counts = Counter(gone=0, manuscript_only=0, ambiguous=0, unavailable=0)
    useless = {(row["id"], row["message"]) for row in open_dataset(Path(config.selection), ARTICLES).rejects()}
    lines, unusable = len(dataset), 0
    for reject in dataset.rejects():
        lines += 1
        if (reject["id"], reject["message"]) in useless:
            unusable += 1
        elif reject["reason"] in counts:
            counts[reject["reason"]] += 1
    resolved = lines - counts.total() - unusable
    return {"mapping": {"lines": lines, "resolved": resolved, **counts, "unusable": unusable}}
