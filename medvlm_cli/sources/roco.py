"""ROCO's lists of figures (``dlinks.txt``), whose addresses are dead, fetched from the bucket of PubMed Central.

Source: Pelka et al. 2018, Radiology Objects in COntext; github.com/razorx89/roco-dataset.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.crew import Crew
from medvlm_cli.core.schemas import ARTICLE_FIGURES
from medvlm_cli.core.tell import Tell
from medvlm_cli.sources import relink
from medvlm_cli.sources.dead_links import wanted_by_roco
from medvlm_cli.sources.retrieval import Retrieval

REASONS = relink.REASONS
keys = relink.keys
counted = relink.counted
mendable = relink.mendable


def schema(config: FetchConfig) -> pa.Schema:
    """Figures with what credits an article."""
    return ARTICLE_FIGURES


def select(config: FetchConfig, folder: Path, tell: Tell) -> Path:
    """The articles that the lists name; errors as ``relink.select``."""
    return relink.select(config, folder, tell, wanted_by_roco)


def retrieval(keys: Sequence[str], config: FetchConfig, crew: Crew) -> Retrieval:
    """The figures of the lists, over the network."""
    return relink.retrieval(keys, config, crew, "roco")
