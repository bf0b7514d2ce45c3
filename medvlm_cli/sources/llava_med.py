"""LLaVA-Med's published conversations: ``llava_med_alignment_500k.json`` and the instruction files.

Licence: "The dataset is CC BY NC 4.0 (allowing only non-commercial use) and models trained using the dataset should not
be used outside of research purposes" (README of github.com/microsoft/LLaVA-Med).
Source: Li et al. 2023, arXiv:2306.00890; the format is what that repository's trainer reads.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath

import pyarrow as pa

from medvlm_cli.core.arrow import Dataset, Harvest
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.crew import Crew
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.schemas import ARTICLE_FIGURES, CONVERSATIONS
from medvlm_cli.core.tell import Tell
from medvlm_cli.sources import published, relink
from medvlm_cli.sources.dead_links import wanted
from medvlm_cli.sources.retrieval import Retrieval

REASONS = published.REASONS | relink.REASONS
URLS = "urls"
"""The part that lists images instead of conversations; its figures are fetched from the bucket."""
PARTS = {
    "alignment": "llava_med_alignment",
    "instruct-60k-im": "llava_med_instruct_60k_inline_mention",  # before the name that it begins with
    "instruct-60k": "llava_med_instruct_60k",
    "instruct-10k": "llava_med_instruct_10k",
    URLS: "llava_med_image_urls",
}
"""Parts of the publication, and how their files are called."""


def part(config: FetchConfig) -> str:
    """Which of ``PARTS`` the files are: as told, else by their names.

    Raises:
        ConfigError: there is no such part, a name tells none, or the files are of several.
    """
    asked = f"give --part {'|'.join(PARTS)}"
    if config.part:
        if config.part not in PARTS:
            raise ConfigError(f"llava-med has no part '{config.part}'", asked)
        return config.part
    if not config.files:
        raise ConfigError("no published file is given", "medvlm fetch llava-med FILE")
    found = {}
    for file in config.files:
        name = PurePath(file).name
        told = next((part for part, begin in PARTS.items() if name.lower().startswith(begin)), None)
        if told is None:
            raise ConfigError(f"{name}: the name does not tell which part of LLaVA-Med it is", asked)
        found[told] = name
    if len(found) > 1:
        parts = " and ".join(f"{name} ({part})" for part, name in found.items())
        raise ConfigError(f"{parts} are different parts of LLaVA-Med", "fetch them one after the other")
    return next(iter(found))


def name(config: FetchConfig) -> str:
    """Name of the dataset and its folder: ``llava-med-instruct-60k-im``."""
    return "llava-med" if part(config) == URLS else f"llava-med-{part(config)}"


def schema(config: FetchConfig) -> pa.Schema:
    """conversations/1; of the list of images, figures/1."""
    return ARTICLE_FIGURES if part(config) == URLS else CONVERSATIONS


def select(config: FetchConfig, folder: Path, tell: Tell) -> Path | None:
    """The articles that the list of images names; none for conversations.  Errors as ``relink.select``."""
    return relink.select(config, folder, tell, wanted) if part(config) == URLS else None


def keys(config: FetchConfig) -> list[str]:
    """One key a block of rows, in the order of the files; of the list of images, one an article.

    Raises:
        ConfigError: no file is given, it is not told which part it is, or its licence does not allow the use.
        DataError: a file is not there, not JSON, or holds no rows.
    """
    return relink.keys(config) if part(config) == URLS else published.keys(config, _publication(config))


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The conversations of one block of rows, and rejects.

    Args:
        key: one of ``keys(config)``.
        config: files and part.
    """
    return published.harvest(key, config, _publication(config))


def retrieval(keys: Sequence[str], config: FetchConfig, crew: Crew) -> Retrieval | None:
    """The figures of the list of images, over the network; none for conversations, which ``harvest`` reads."""
    return relink.retrieval(keys, config, crew, "llava-med") if part(config) == URLS else None


def mendable(config: FetchConfig) -> frozenset[str]:
    """Reasons that another try may cure."""
    return relink.mendable(config) if part(config) == URLS else frozenset()


def counted(dataset: Dataset, config: FetchConfig) -> dict[str, dict[str, int]]:
    """What became of the list's lines; of conversations, what their images are said to be."""
    return relink.counted(dataset, config) if part(config) == URLS else {"domains": published.domains(config)}


def _publication(config: FetchConfig) -> published.Publication:
    chosen = part(config)
    kind = "caption" if chosen == "alignment" else "instruct"
    return published.Publication(name(config), kind, "llava-med", "CC-BY-NC-4.0")
