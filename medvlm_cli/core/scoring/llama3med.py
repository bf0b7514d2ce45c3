"""The protocol of the published numbers: what Llama3-Med's and LLaVA-Med's scripts count, with their mistakes.

Its numbers compare with those of the papers, and with nothing else: "exact match" is not one, repetition raises recall,
and a closed question counts as right by substrings, so that "normal" answers "no" and "yes or no" answers both.  The
strict protocol stands beside it for that.  Written from a description of the rules; no line of the scripts is in it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.scoring.answered import answered
from medvlm_cli.core.scoring.bleu import bleu
from medvlm_cli.core.scoring.candidates import Candidates
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.published_words import normalise

PROTOCOL = "llama3med/1"
"""The rules of Llama3-Med's ``run_eval.py``, LLaVA-Med's script of that name with its denominator mended."""
BATCH_PROTOCOL = "llavamed-batch/1"
"""The rules of LLaVA-Med's ``run_eval_batch.py``: no gate before a closed answer counts."""

OPEN_METRICS = ("exact_match", "f1", "precision", "recall", "open_accuracy", "bleu")
"""What an open question may score; ``open_accuracy`` only with candidates, or without the gate."""
CLOSED_METRICS = ("accuracy", "recall_closed")
"""What a closed question may score; ``recall_closed`` only without the gate."""

_LABELS = {
    "exact_match": "exact match score",
    "f1": "f1 score",
    "precision": "precision",
    "recall": "recall",
    "open_accuracy": "open accuracy",
    "bleu": "bleu",
    "accuracy": "yes/no accuracy",
    "recall_closed": "recall closed",
}


@dataclass(frozen=True)
class Published:
    """Scores of one set of answers under the published rules."""

    protocol: str
    rows: dict[str, dict[str, float]]
    """By question id, each score from 0 to 1: ``OPEN_METRICS`` of an open one, ``CLOSED_METRICS`` of a closed one."""
    skipped: list[str]
    """Ids of questions whose answer type the script does not know and passes over in silence."""
    open: int
    closed: int

    def means(self) -> dict[str, float | None]:
        """Each metric's mean in percent, unrounded; None where no question has it."""
        means: dict[str, float | None] = {}
        for name in (*OPEN_METRICS, *CLOSED_METRICS):
            scores = [row[name] for row in self.rows.values() if name in row]
            means[name] = sum(scores) / len(scores) * 100 if scores else None
        return means

    def printed(self, *, as_printed: bool = True) -> str:
        """The numbers digit for digit as the script prints them: percent, six significant digits.

        Args:
            as_printed: whether to swap the labels of the two counts, as the script does by mistake.
        """
        opens, closeds = (self.closed, self.open) if as_printed else (self.open, self.closed)
        shown = {_LABELS[name]: f"{value:g}" for name, value in self.means().items() if value is not None}
        width = max(map(len, shown))
        lines = [f"num_open {opens}  num_close {closeds}", f"{'Metric':<{width}}  Performance"]
        return "\n".join([*lines, *(f"{label:<{width}}  {value}" for label, value in shown.items())])


def published(
    items: Sequence[Item],
    answers: Mapping[str, str],
    candidates: Sequence[str] | None = None,
    *,
    gate: bool = True,
) -> Published:
    """Score answers by the published rules.

    Args:
        items: the questions; ``answer_type`` decides, exactly ``OPEN`` or ``CLOSED``, and where it is empty ``kind``.
        answers: the answer of each, by question id.
        candidates: the answers that open accuracy chooses from, in the order of their file; not used without the gate.
        gate: whether a closed answer must contain "yes" or "no" to count.  Off, the rules are ``BATCH_PROTOCOL``.

    Raises:
        DataError: a question without answer or gold, no question of a type that the script scores, or no candidate.
    """
    known = None
    if candidates is not None and gate:
        if not candidates:
            raise DataError("the list of candidates is empty", "give candidates with one answer or more, or none")
        known = Candidates([_twice(text) for text in candidates])
    rows: dict[str, dict[str, float]] = {}
    counts: Counter[str] = Counter()
    skipped = []
    for item, answer in answered(items, answers):
        answer_type = item.answer_type or item.kind.upper()
        gold, said = normalise(item.golds[0].lower()), normalise(answer.lower())
        if answer_type == "OPEN":
            scores = _open(gold, said)
            if known is not None:
                scores["open_accuracy"] = float(known.nearest(normalise(said)) == normalise(gold))
            if not gate:
                scores["open_accuracy"] = float(gold in said)
        elif answer_type == "CLOSED":
            passed = not gate or "yes" in said or "no" in said
            scores = {"accuracy": float(passed and gold in said)}
            if not gate:
                scores["recall_closed"] = _open(gold, said)["recall"]
        else:
            skipped.append(item.question_id)
            continue
        rows[item.question_id] = scores
        counts[answer_type] += 1
    if not rows:
        found = ", ".join(sorted({f"'{clean(item.answer_type)}'" for item in items}))
        raise DataError(
            f"no question has the answer type OPEN or CLOSED, found {found}: the published rules score none",
            "write OPEN or CLOSED, in capitals, into answer_type of the references",
        )
    return Published(PROTOCOL if gate else BATCH_PROTOCOL, rows, skipped, counts["OPEN"], counts["CLOSED"])


def _twice(text: str) -> str:
    return normalise(normalise(text.lower()))


def _open(gold: str, said: str) -> dict[str, float]:
    """Scores of an open question; the texts come normalised, and for F1 the script normalises them once more."""
    once, said_once = gold.split(), said.split()
    wanted, given = Counter(normalise(gold).split()), Counter(normalise(said).split())
    found = sum(count for word, count in given.items() if word in wanted)  # the answer's counts: repetition pays
    missed = sum(count for word, count in wanted.items() if word not in given)
    total = given.total()
    recall, precision = (found / (found + missed), found / total) if found else (0.0, 0.0)
    return {
        "exact_match": len(set(once) & set(said_once)) / len(said_once) if said_once else 0.0,
        "f1": 2 * precision * recall / (precision + recall) if found else 0.0,
        "precision": precision,
        "recall": recall,
        "bleu": bleu(said_once, once),
    }
