"""Llama3-Med's published conversations, ``llama3_med_instruct_finetuning_llama3_claude3_20k.json``.

Licence: none was found, neither in the README nor as a file of github.com/standardmodelbio/Llama3-Med, so it is
``unknown``; what Claude and Llama 3 wrote is also under the terms of those two.
Source: Chen et al. 2024, arXiv:2406.09454.
"""

import pyarrow as pa

from medvlm_cli.core.arrow import Dataset, Harvest
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.schemas import CONVERSATIONS
from medvlm_cli.sources import published
from medvlm_cli.sources.licenses import UNKNOWN

REASONS = published.REASONS
_PUBLICATION = published.Publication("llama3-med-20k", "instruct", "llama3-med", UNKNOWN)


def name(config: FetchConfig) -> str:
    """Name of the dataset and its folder."""
    return _PUBLICATION.dataset


def schema(config: FetchConfig) -> pa.Schema:
    """conversations/1."""
    return CONVERSATIONS


def keys(config: FetchConfig) -> list[str]:
    """One key a block of rows, in the order of the files.

    Raises:
        ConfigError: no file is given, or its licence does not allow the use asked for.
        DataError: a file is not there, not JSON, or holds no rows.
    """
    return published.keys(config, _PUBLICATION)


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The conversations of one block of rows, and rejects.

    Args:
        key: one of ``keys(config)``.
        config: the files.
    """
    return published.harvest(key, config, _PUBLICATION)


def mendable(config: FetchConfig) -> frozenset[str]:
    """Nothing: the file is as it was published."""
    return frozenset()


def counted(dataset: Dataset, config: FetchConfig) -> dict[str, dict[str, int]]:
    """What the rows say their images are."""
    return {"domains": published.domains(config)}
