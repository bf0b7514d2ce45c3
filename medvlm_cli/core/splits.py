"""Which figures are kept from training: one rule for every conversation, whoever wrote it.

The rule looks at the figure's id alone, so that all conversations about a figure are on the same side.
"""

import hashlib

VAL_SHARE = 50
"""One figure in so many, picked by the hash of its id, is kept from training."""


def split_of(figure_id: str) -> str:
    """``val`` for one figure in ``VAL_SHARE``, else ``train``; the same on every machine."""
    digest = hashlib.sha256(f"{figure_id}\x00split".encode("utf-8", "replace")).hexdigest()
    return "val" if int(digest[:12], 16) % VAL_SHARE == 0 else "train"
