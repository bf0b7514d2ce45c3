"""What one set of images and questions was found to share with the asked one, counted and put into words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5
"""Most examples of each kind that are named."""


@dataclass(frozen=True)
class Row:
    """A question; its texts are in small letters and single blanks."""

    position: int
    """In its dataset."""
    question_id: str
    benchmark: str
    split: str
    image_id: str
    sha256: bytes | None
    """Of the image; None where there is none."""
    question: str
    answers: tuple[str, ...]


@dataclass
class Shared:
    """What was found in one other set; every value is the id there under which it was found first."""

    name: str
    kind: str
    """``questions``, ``figures``, ``conversations``; ``names``, where only the names of the images are known."""
    exact: dict[str, str] = field(default_factory=dict)
    """Asked images of which the very file is there, by image id."""
    near: dict[str, str] = field(default_factory=dict)
    """Asked images of which a copy in another file is there."""
    names: dict[str, str] | None = None
    """Asked images of whose name there is one there; None where names mean nothing."""
    questions: dict[str, str] = field(default_factory=dict)
    pairs: dict[tuple[str, str], str] = field(default_factory=dict)
    """Questions with an answer to them."""
    triples: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """Asked images with questions and answers about them, or about a copy."""
    images: int = 0
    """Different images there."""
    unknown: int = 0
    """Figures that it names and that nobody has."""
    faults: dict[str, str] = field(default_factory=dict)
    """Images there that cannot be decoded, and why: compared by their bytes alone."""

    def report(self, rows: Sequence[Row], images: Sequence[str]) -> dict[str, Any]:
        """All of it as JSON.

        Args:
            rows: the asked questions.
            images: ids of the asked images.

        Returns:
            ``name``, ``kind``; ``images`` with ``exact``, ``near`` (not counted again where exact), ``names`` (or
            null), ``there``, ``unknown`` and ``undecodable``; ``questions``, ``pairs``, ``triples``, null where there
            are no texts; each of these a ``count`` ``of`` so many, with ``examples``, pairs of ids here and there;
            ``line``, a sentence, empty where nothing is shared; ``gap``, a sentence on what could not be compared.
        """
        near = {image: name for image, name in self.near.items() if image not in self.exact}
        told: dict[str, Any] = {"name": self.name, "kind": self.kind}
        told["images"] = {
            "exact": _count(self.exact, len(images)),
            "near": _count(near, len(images)),
            "names": None if self.names is None else _count(self.names, len(images)),
            "there": self.images,
            "unknown": self.unknown,
            "undecodable": {"count": len(self.faults), "examples": dict(list(self.faults.items())[:EXAMPLES])},
        }
        texts = dict.fromkeys(("questions", "pairs", "triples"))
        if self.kind in ("questions", "conversations"):
            texts = {name: _count(found, len(rows)) for name, found in self._rows(rows).items()}
        told |= texts
        return told | {"line": _line(told, rows[0].split), "gap": self._gap()}

    def _rows(self, rows: Sequence[Row]) -> dict[str, dict[str, str]]:
        """The asked questions that were found: question id -> where."""
        found: dict[str, dict[str, str]] = {"questions": {}, "pairs": {}, "triples": {}}
        for row in rows:
            pairs = [self.pairs.get((row.question, answer)) for answer in row.answers]
            triples = [self.triples.get((row.image_id, row.question, answer)) for answer in row.answers]
            places = {"questions": [self.questions.get(row.question)], "pairs": pairs, "triples": triples}
            for name, each in places.items():
                if first := next(filter(None, each), None):
                    found[name][row.question_id] = first
        return found

    def _gap(self) -> str:
        gaps = []
        if self.unknown:
            gaps.append(f"{self.unknown:,} of the {self.images:,} figures of {self.name} are not here to be compared")
        if self.faults:
            what = f"{len(self.faults):,} of the {self.images:,} images of {self.name} cannot be decoded"
            gaps.append(f"{what}, and were compared by their bytes alone: {', '.join(list(self.faults)[:EXAMPLES])}")
        return "; ".join(gaps)


def _count(found: Mapping[str, str], of: int) -> dict[str, Any]:
    examples = [{"asked": asked, "there": there} for asked, there in list(found.items())[:EXAMPLES]]
    return {"count": len(found), "of": of, "examples": examples}


def _line(told: Mapping[str, Any], split: str) -> str:
    """``202 of 203 test images are also in vqa-rad train; 79 of 451 questions (17.5 %) are asked there too, ...``."""
    images, name = told["images"], told["name"]
    by_name = images["names"] or {"count": 0, "of": 0}
    clauses = []
    if images["exact"]["count"]:
        clauses.append(f"{_of(images['exact'])} {split} images are also in {name}")
    if images["near"]["count"]:
        more = "more" if clauses else f"{split} images"
        place = "there" if clauses else f"in {name}"
        clauses.append(f"{_of(images['near'])} {more} are {place} as copies")
    if by_name["count"] > images["exact"]["count"] + images["near"]["count"]:
        clauses.append(f"{_of(by_name)} {split} images are also in {name} by their names")
    if told["questions"] and told["questions"]["count"]:
        pairs, triples = told["pairs"], told["triples"]
        if not clauses and images["there"] > images["unknown"]:
            clauses.append(f"{_of(images['exact'])} {split} images are in {name}")
        place = "there" if clauses else f"in {name}"
        clauses.append(
            f"{_of(told['questions'])} {split} questions ({_percent(told['questions'])}) are asked {place} too"
        )
        clauses[-1] += f", {pairs['count']:,} ({_percent(pairs)}) with the same answer"
        clauses[-1] += f", {triples['count']:,} of them about the same image" if triples["count"] else ""
    return "; ".join(clauses)


def _of(share: Mapping[str, Any]) -> str:
    return f"{share['count']:,} of {share['of']:,}"


def _percent(share: Mapping[str, Any]) -> str:
    return f"{100 * share['count'] / share['of']:.1f} %"
