"""Answers and documents of scores that the tests of the pages of answers share."""

from medvlm_cli.core.browser import Entry
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.sheet import scores_document, sheet
from tests.core.report_cases import png

VERSION = {"medvlm": "0.0", "python": "3", "numpy": "2"}
"""In place of this machine's, so that a page is the same everywhere."""


def entry(id_="q1", **changes) -> Entry:
    """A closed question that was answered right by both protocols, with an image of its own."""
    number = sum(map(ord, id_)) % 200
    told = {
        "question_id": id_, "image": lambda: png((number, 40, 40)), "question": "Is there a mass?", "golds": ("yes",),
        "choices": ("yes", "no"), "kind": "closed", "category": "presence", "answer": "Yes.",
        "prompt": "USER: Is there a mass? ASSISTANT:", "published": {"accuracy": 1.0},
        "strict": {"accuracy": 1.0, "unparsed": 0.0}, "benchmark": "slake", "image_id": f"image of {id_}",
        "finish": "stop",
    }  # fmt: skip
    return Entry(**(told | changes))


def answered(count: int, said=("yes", "no", "normal", "a mass in the liver")) -> list[Entry]:
    """So many questions, three to an image, scored by both protocols."""
    items = [
        Item(f"q{n:03}", f"image{n // 3}", "open", f"What is seen in region {n}?", ("a mass",), (), f"c{n % 4}")
        if n % 2
        else Item(f"q{n:03}", f"image{n // 3}", "closed", f"Is region {n} normal?", ("no",), (), f"c{n % 4}")
        for n in range(count)
    ]
    answers = {item.question_id: said[n % len(said)] for n, item in enumerate(items)}
    published, honest = llama3med.published(items, answers).rows, strict.strict(items, answers).rows
    return [
        entry(
            item.question_id, question=item.question, golds=item.golds, choices=(), kind=item.kind,
            category=item.category, answer=answers[item.question_id], prompt=f"USER: {item.question} ASSISTANT:",
            published=published[item.question_id], strict=honest[item.question_id], image_id=item.image_id,
            image=lambda n=n // 3: png((n, 90, 90)), finish="length" if n % 5 == 4 else "stop",
        )
        for n, item in enumerate(items)
    ]  # fmt: skip


def document(entries: list[Entry], **facts) -> dict:
    """``scores.json`` of these answers and of a constant one."""
    items = [
        Item(one.question_id, one.image_id, one.kind, one.question, tuple(one.golds), tuple(one.choices), one.category)
        for one in entries
    ]
    said = {"model": {one.question_id: one.answer for one in entries}}
    said["always no"] = dict.fromkeys(said["model"], "no")
    sheets = {name: sheet(items, answers, draws=50) for name, answers in said.items()}
    told = {"benchmark": "slake", "split": "test", "made": "2026-11-20T10:00:00+00:00", "versions": VERSION}
    return scores_document(sheets, told | facts)
