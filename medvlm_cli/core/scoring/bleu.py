"""Sentence BLEU as ``nltk`` computes it by default, without smoothing."""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

_ORDERS = (1, 2, 3, 4)


def bleu(said: Sequence[str], gold: Sequence[str]) -> float:
    """How far the runs of one to four words of ``said`` are those of ``gold``, 0 to 1.

    The geometric mean of the four precisions, times ``exp(1 - len(gold) / len(said))`` where the answer is the shorter.
    Without any common word it is 0.  A precision of 0 in longer runs counts as the smallest normal float, as in nltk:
    an answer of one right word scores 1.8e-231.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; the treatment of zeros is nltk's ``sentence_bleu``.
    """
    logs = []
    for order in _ORDERS:
        wanted = Counter(_runs(gold, order))
        common = (Counter(run for run in _runs(said, order) if run in wanted) & wanted).total() if wanted else 0
        if order == 1 and not common:
            return 0.0
        logs.append(math.log(common / (len(said) - order + 1) if common else sys.float_info.min) / len(_ORDERS))
    brevity = min(1.0, math.exp(1 - len(gold) / len(said)))
    return brevity * math.exp(math.fsum(logs))


def _runs(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    """Every run of ``order`` words, in turn."""
    return zip(*(words[start:] for start in range(order)), strict=False)
