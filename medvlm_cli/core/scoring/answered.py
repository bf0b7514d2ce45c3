"""Questions beside their answers, checked once for all protocols."""

from collections.abc import Mapping, Sequence

from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.scoring.items import Item


def answered(items: Sequence[Item], answers: Mapping[str, str]) -> list[tuple[Item, str]]:
    """Each question with its answer, in the order of ``items``.

    Raises:
        DataError: there is no question, an id comes twice, or a question is neither open nor closed, or lacks a gold
            answer or a text for an answer.
    """
    if not items:
        raise DataError("there is no question to score", "give references with one question or more")
    seen: set[str] = set()
    for item in items:
        where = f"question {clean(item.question_id)}"
        if item.question_id in seen:
            raise DataError(f"{where} comes twice", "give every question an id of its own")
        if item.kind not in ("open", "closed"):
            raise DataError(f"{where} is of kind {clean(item.kind)!r}", "a question is open or closed")
        if not item.golds:
            raise DataError(f"{where} has no gold answer", "add it to the references, or drop the question")
        if not isinstance(answers.get(item.question_id), str):
            raise DataError(f"{where} has no answer", "answer every question; an empty text is an answer")
        seen.add(item.question_id)
    return [(item, answers[item.question_id]) for item in items]
