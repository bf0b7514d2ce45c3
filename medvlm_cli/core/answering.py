"""Thousands of questions answered in batches, by one process or several, killed at any moment, with the same result.

Which questions share a batch hangs on the questions and the batch size alone: neither a kill nor the number of parts
changes what an answer was computed beside.  A batch counts once its line in the journal is on disk, so that a killed
process loses the one it was at; the dataset is written when all answers are there.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from medvlm_cli.core import commit
from medvlm_cli.core.generate import Answer

JOURNAL = "answers.jsonl"
"""In the folder of an unfinished dataset: a line a batch."""
WINDOW = 16
"""Batches whose questions are sorted by length together.  More pad less; fewer keep an image's questions together, and
so its features in memory and in one part."""


class Asked(NamedTuple):
    """What is known of a question before it is asked."""

    question_id: str
    image_id: str
    length: int
    """Of its words, in characters."""


def batches(asked: Sequence[Asked], size: int) -> list[list[str]]:
    """Question ids in batches of like length; questions of one image lie near each other.

    Args:
        asked: the questions, in any order.
        size: questions a batch; the last one may hold fewer.
    """
    by_image = sorted(asked, key=lambda one: (_hash(one.image_id), one.image_id, one.question_id))
    cut: list[list[str]] = []
    for start in range(0, len(by_image), WINDOW * size):
        window = sorted(by_image[start : start + WINDOW * size], key=lambda one: (-one.length, one.question_id))
        cut += [[one.question_id for one in window[i : i + size]] for i in range(0, len(window), size)]
    return cut


def part(cut: Sequence[list[str]], number: int, count: int) -> list[list[str]]:
    """The batches of part ``number`` of ``count``: neighbours, and as many as any other part has, or one fewer."""
    return list(cut[number * len(cut) // count : (number + 1) * len(cut) // count])


class Journal:
    """The answers of an unfinished dataset: what a killed process leaves to the next.

    It lies in the dataset's folder, whose writer holds the lock and knows that both processes are of one run.
    """

    def __init__(self, folder: Path) -> None:
        """Read what is there; a last line that a kill cut off is dropped."""
        self.path = folder / JOURNAL
        self.answers: dict[str, Answer] = {}
        """By question id."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if self._take(line)]
        if len(kept) < len(lines):
            commit.write_bytes(self.path, b"".join(kept))

    def _take(self, line: bytes) -> bool:
        """Read one line; false for one that a kill or a crash of the machine cut off."""
        if not line.endswith(b"\n"):
            return False
        try:
            self.answers |= {id_: Answer(**answer) for id_, answer in json.loads(line).items()}
        except ValueError:
            return False
        return True

    def add(self, answers: dict[str, Answer]) -> None:
        """Have the answers of a batch on disk."""
        commit.append_line(self.path, json.dumps({id_: asdict(answer) for id_, answer in answers.items()}))
        self.answers |= answers

    def left(self, cut: Sequence[list[str]]) -> Iterator[list[str]]:
        """The batches that were not answered."""
        return (ids for ids in cut if any(id_ not in self.answers for id_ in ids))


def remove_journal(folder: Path) -> None:
    """Remove the journal of a finished dataset, which holds all that is in it."""
    commit.remove(folder / JOURNAL)


def _hash(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()
