"""Figures that medvlm draws itself: no download, no patient, free of rights.  What they show is in ``core.phantom``."""

import hashlib

from medvlm_cli.core.arrow import Harvest
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.phantom import caption, draw, mentions, png
from medvlm_cli.core.phantom_draw import SIDE


def keys(config: FetchConfig) -> list[str]:
    """The indices of ``config.n`` figures, in order."""
    return [str(index) for index in range(config.n)]


def harvest(key: str, config: FetchConfig) -> Harvest:
    """Draw the figure of one index; none is ever rejected."""
    phantom = draw("figures", config.seed, int(key))
    data, label = png(phantom), f"Figure {int(key) + 1}"
    row = {
        "figure_id": phantom.figure_id, "source": "phantom",
        "image": {"bytes": data, "path": f"{phantom.figure_id}.png"}, "image_sha256": hashlib.sha256(data).digest(),
        "width": SIDE, "height": SIDE, "caption": caption(phantom), "label": label,
        "mentions": [{"text": text, "panel": None} for text in mentions(phantom, label)],
        "modality": phantom.modality, "modality_source": "phantom", "n_panels": 1,
        "license": "CC0-1.0", "commercial_ok": True, "retracted": False, "third_party": False,
        "article_id": None, "doi": None, "title": None, "url": None,
    }  # fmt: skip
    return Harvest(1, [row], [])
