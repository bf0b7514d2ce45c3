"""Articles of PubMed Central, from its bucket, and JATS articles of any publisher, from local folders and packages.

``found`` counts ``fig`` elements, each of which becomes one row or one reject, its further images beside the first; an
article that cannot be read counts once.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from medvlm_cli.core.arrow import Harvest, open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.crew import Crew
from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.schemas import ARTICLE_FIGURES, ARTICLES
from medvlm_cli.core.tell import Tell
from medvlm_cli.sources import mirror, modality, reading, selection
from medvlm_cli.sources.retrieval import Retrieval

REASONS = {
    "unreadable_article": "not well-formed, not JATS, too large, with a DTD of its own, or its metadata is broken",
    "unavailable": "not in the bucket, or the bucket kept failing",
    "superseded": "of a correction, a retraction, or a retracted article",
    "translation": "the same figure is there in the language of the article",
    "license_excluded": "the licence does not allow the use asked for",
    "modality_excluded": "of another modality than was asked for",
    "missing_caption": "no caption, neither its own nor its group's",
    "no_graphic": "the figure names no full image: a video, a table, a thumbnail only",
    "missing_image": "the image it names is not there, or several files fit the name equally well",
    "unsafe_path": "the name leads out of the article's folder",
    "corrupt_image": "truncated, broken, empty, with another MD5, or of a format that is not read",
    "image_too_big": "more pixels or bytes than are decoded",
}
"""Every reason for which a figure is no row."""

_articles = functools.lru_cache(maxsize=2)(mirror.articles)


def schema(config: FetchConfig) -> pa.Schema:
    """Figures with what credits an article."""
    return ARTICLE_FIGURES


def mendable(config: FetchConfig) -> frozenset[str]:
    """Reasons that a user can cure: in a folder the files; of the bucket what another try may give."""
    if config.mirror:
        return frozenset({"corrupt_image", "missing_image", "missing_caption", "image_too_big", "unreadable_article"})
    return frozenset({"unavailable"})


def select(config: FetchConfig, folder: Path, tell: Tell) -> Path | None:
    """The dataset of the articles to fetch, made once and kept, so that a resumed run gets the same; none for folders.

    Args:
        config: the selection asked for.
        folder: where it is to lie.
        tell: told how far it is.

    Raises:
        ConfigError: a modality is unknown, or the selection makes no sense.
        DataError: a file of ids is not one.
        RemoteError: the selection could not be had.
    """
    _check(config)
    return None if config.mirror else selection.select(config, folder, tell)


def _check(config: FetchConfig) -> None:
    check_modalities(config)
    selection.check(config)


def check_modalities(config: FetchConfig) -> None:
    """Refuse a modality that no figure can have.

    Raises:
        ConfigError: there is no such modality.
    """
    for name in config.modality:
        if name not in modality.NAMES:
            raise ConfigError(f"no modality '{name}'", f"there are {', '.join(modality.NAMES)}")


def estimate(config: FetchConfig) -> dict[str, Any]:
    """What fetching will cost, under ``cost``, and how many articles match, if NCBI answers; nothing for folders.

    An article is three requests and its images; 4 images and 0.55 MB are the mean of the open access articles
    (24 million images in 6 million articles, arXiv:2501.07171; XML 147 kB, images 90 kB on the median, our samples).
    Nobody is asked where the selection is there already.

    Raises:
        ConfigError: a modality is unknown, the selection makes no sense, or NCBI does not understand the search.
        DataError: a file of ids is not one.
    """
    _check(config)
    if config.mirror:
        return {}
    trouble = ""
    try:
        there = selection.made(config, Path(config.cache))
        matching = len(open_dataset(there, ARTICLES)) if there else selection.matches(config)
    except RemoteError as error:
        matching, trouble = None, error.what
    limited = config.limit if not config.pmcids else 0
    articles = min(matching, limited or matching) if matching is not None else limited
    told: dict[str, Any] = {"articles matching": "unknown" if matching is None else matching}
    if trouble:
        told["articles matching"] = f"unknown ({trouble})"
    if articles:
        requests, megabytes = 7 * articles, 0.55 * articles
        seconds = max(0.1 * requests / config.connections, megabytes / 12.5)
        cost = {"articles": articles, "requests": requests, "megabytes": round(megabytes, 1)}
        told["cost"] = cost | {"minutes at 100 Mbit/s": round(seconds / 60, 1)}
    return told


def keys(config: FetchConfig) -> list[str]:
    """Ids of all articles, sorted: PMC id, else (in folders) DOI, else mirror and path.

    Raises:
        DataError: a mirror is missing or holds no article.
    """
    if not config.mirror:
        return open_dataset(Path(config.selection), ARTICLES).ids
    _articles.cache_clear()
    mirror.forget()
    return sorted(_articles(config.mirror))


def harvest(key: str, config: FetchConfig) -> Harvest:
    """Rows and rejects of one article of a folder.

    Args:
        key: one of ``keys(config)``.
        config: mirrors, the licence and the modalities asked for.
    """
    place = _articles(config.mirror)[key]
    return reading.finish(reading.read(key, place, config), place, config)


def retrieval(keys: Sequence[str], config: FetchConfig, crew: Crew) -> Retrieval | None:
    """The harvests of articles over the network; None where ``harvest`` finds all in folders.

    Args:
        keys: some of ``keys(config)``, in the order in which they will be asked for.
        config: the bucket's address, and the cache folder.
        crew: workers that parse and decode.
    """
    if config.mirror:
        return None
    wanted = set(keys)
    rows = open_dataset(Path(config.selection), ARTICLES).rows(["article_id", "versions"])
    known = {
        row["article_id"]: [(one["version"], one["md5"]) for one in row["versions"]]
        for row in rows
        if row["article_id"] in wanted
    }
    return Retrieval(keys, config, crew, known=known)
