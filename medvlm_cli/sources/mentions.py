"""Sentences that cite figures: by links (``xref``), by the ranges that links leave out, and by words without a link."""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lxml import etree

from medvlm_cli.sources.citations import between, joins, numbers_cited, panels, plain, series_and_number
from medvlm_cli.sources.markup import local_name, text_of, unmarked
from medvlm_cli.sources.text import clean, sentence_at

_BLOCKS = {
    "p", "title", "subtitle", "td", "th", "def", "term", "attrib", "verse-line", "label", "disp-quote", "article-title",
    "list-item",
}  # fmt: skip
"""Elements whose text is read as one run of sentences."""
_NO_MENTION = {"caption", "fig", "ref", "ref-list", "trans-abstract"}
"""What a sentence that mentions a figure does not stand in."""
_PARTS = {"sub-article", "response"}
_LONGEST_LINK = 200
"""Characters of a citation that are read; hostile files have longer ones."""
_PANELS_BEHIND = 48
"""Characters behind a link in which its panels are looked for."""

Place = tuple[str, str, int]
"""Where a figure stands: part of the article ("" for the article proper), series, number in the series."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A sentence that cites a figure, with the panels it names: ("... (Fig 2A,B).", "A,B")."""

    text: str
    panel: str | None


@dataclass(slots=True)
class Index:
    """How the figures of an article are found: by id and by number.  Figures count from 0, in document order."""

    targets: dict[str, list[int]] = field(default_factory=dict)
    """id of a figure or a group of figures -> the figures."""
    places: dict[Place, int] = field(default_factory=dict)
    labels: list[Place | None] = field(default_factory=list)
    """The place of every figure; None where its label has no number."""

    def add(self, ids: list[str | None], part: str, label: str | None) -> None:
        """Enter the next figure.

        Args:
            ids: its own and its group's.
            part: of the article, as ``part_of`` names it.
            label: as printed, ``Figure 2``.
        """
        number = len(self.labels)
        for name in ids:
            if name:
                self.targets.setdefault(name, []).append(number)
        found = series_and_number(label)
        place = (part, *found) if found else None
        self.labels.append(place)
        if place:
            self.places.setdefault(place, number)


@dataclass(slots=True)
class _Link:
    """A marked ``xref``: the block it stands in and the figures it cites, none where it leads elsewhere."""

    block: etree._Element
    cited: list[int]


def mentions(
    xrefs: Iterable[etree._Element], index: Index, unlinked: Iterable[etree._Element] = ()
) -> list[list[Mention]]:
    """The sentences that cite each figure, in document order.

    Every citing block is read once, however many figures it cites.

    Args:
        xrefs: all ``xref`` elements of the article.
        index: all its figures.
        unlinked: paragraphs that may cite figures without a link ("see Fig. 3").

    Returns:
        One list a figure, in the order of ``index``.
    """
    links: list[_Link] = []
    numbers: dict[etree._Element, int] = {}
    blocks: dict[etree._Element, None] = {}
    for xref in xrefs:
        if xref.get("ref-type") == "bibr":
            continue
        cited = [figure for rid in (xref.get("rid") or "").split() for figure in index.targets.get(rid, ())]
        if not cited and (xref.get("ref-type") or "").startswith("fig"):
            cited = _by_label(xref, index)
        if not cited and "ig" not in (xref.text or ""):
            continue
        block = _block(xref)
        if block is not None:
            if cited:
                blocks[block] = None
            numbers[xref] = len(links)
            links.append(_Link(block, cited))
    for paragraph in unlinked:
        if paragraph not in blocks and _names_a_figure(paragraph):
            blocks[paragraph] = None
    found: list[list[Mention]] = [[] for _ in index.labels]
    for block in blocks:
        for figure, mention in _read_block(block, links, numbers, index):
            found[figure].append(mention)
    return found


def part_of(element: etree._Element) -> str:
    """The part of the article an element stands in, ``sa1`` for a decision letter; "" for the article proper."""
    return next((part_name(above) for above in element.iterancestors() if local_name(above) in _PARTS), "")


def part_name(element: etree._Element) -> str:
    """The name of a part, which is its id."""
    return clean(element.get("id") or "") or "sub-article"


def _by_label(xref: etree._Element, index: Index) -> list[int]:
    """The figure a dangling link means, by the number in its words."""
    place = series_and_number("".join(xref.itertext()))
    figure = index.places.get((part_of(xref), *place)) if place else None
    return [] if figure is None else [figure]


def _block(element: etree._Element) -> etree._Element | None:
    """The paragraph or cell a citation stands in; None where that is no mention (a caption, a reference ...)."""
    block = None
    for above in element.iterancestors():
        name = local_name(above)
        if name in _NO_MENTION or (name == "sub-article" and above.get("article-type") == "translation"):
            return None
        if block is None and name in _BLOCKS:
            block = above
    return block


def _names_a_figure(paragraph: etree._Element) -> bool:
    """Whether words of a paragraph itself, not of a list or a figure inside it, may cite a figure without a link."""
    text = etree.tostring(paragraph, method="text", encoding="unicode", with_tail=False)
    if next(plain(text), None) is None or next(paragraph.iter("{*}list", "{*}fig", "{*}table-wrap"), None) is not None:
        return False
    return not any(local_name(above) in _NO_MENTION for above in paragraph.iterancestors())


def _read_block(
    block: etree._Element, links: list[_Link], numbers: dict[etree._Element, int], index: Index
) -> Iterator[tuple[int, Mention]]:
    """Each figure cited in a block, with the sentence, in the order of the sentences."""
    text, spans = unmarked(text_of(block, numbers))
    spans = [span for span in spans if span[0] < len(links) and links[span[0]].block is block]
    told: dict[tuple[int, int], list[str | None]] = {}  # (start of the sentence, figure) -> panels named
    bounds = _Sentences(text)
    before: tuple[int, list[int]] | None = None  # end and figures of the link before
    for number, start, end in spans:
        cited = links[number].cited
        if not cited:
            before = None
            continue
        sentence = bounds.start_at(start)
        words = text[start : min(end, start + _LONGEST_LINK)]
        for figure in _expanded(cited, words, index):
            told.setdefault((sentence, figure), [])
        if before is not None and joins(text[before[0] : start]):
            for figure in _skipped(before[1][-1], cited[0], index):
                told.setdefault((sentence, figure), [])
        for figure in cited:
            label = index.labels[figure]
            behind = text[start : start + len(words) + _PANELS_BEHIND]
            told[sentence, figure].append(panels(behind, len(words), label[2] if label else None))
        before = (end, cited)
    for figure, place, panel in _in_words(block, text, [(*span[1:], links[span[0]].cited) for span in spans], index):
        told.setdefault((bounds.start_at(place), figure), [panel])
    for (sentence, figure), answers in sorted(told.items(), key=lambda item: item[0][0]):
        letters = dict.fromkeys(letter for answer in answers if answer for letter in answer.split(","))
        yield figure, Mention(text[sentence : bounds.ends[sentence]], ",".join(letters) or None)


class _Sentences:
    """The sentences of a block that were asked for: each is looked for once, however often it cites."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts: list[int] = []
        self.ends: dict[int, int] = {}

    def start_at(self, place: int) -> int:
        """Where the sentence that holds ``place`` begins."""
        known = bisect.bisect_right(self.starts, place)
        since = self.starts[known - 1] if known else 0
        if known and place < self.ends[since]:
            return since
        start, end = sentence_at(self.text, place, since)
        if start not in self.ends:
            self.starts.insert(known, start)
            self.ends[start] = end
        return start


def _expanded(cited: list[int], words: str, index: Index) -> list[int]:
    """The figures linked to, and those that only the words of the link name: ``<Figs 2-5>`` leads to 2."""
    if sum(map(str.isdigit, words)) < 2:
        return cited
    more = list(cited)
    for label in {index.labels[figure] for figure in cited} - {None}:
        part, series, number = label  # type: ignore[misc]  # None was taken out
        named = (index.places.get((part, series, n)) for n in sorted(numbers_cited(words, number, series)))
        more += [figure for figure in named if figure is not None and figure not in more]
    return more


def _skipped(first: int, last: int, index: Index) -> Iterator[int]:
    """The figures that a range leaves out: ``<Fig 2>–<4>`` cites 3."""
    one, other = index.labels[first], index.labels[last]
    if one and other and one[:2] == other[:2]:
        for number in between(one[2], other[2])[1:-1]:
            figure = index.places.get((*one[:2], number))
            if figure is not None:
                yield figure


def _in_words(
    block: etree._Element, text: str, spans: list[tuple[int, int, list[int]]], index: Index
) -> Iterator[tuple[int, int, str | None]]:
    """Figures that words outside the links cite, with the place and the panels: "Fig. 3", "<Fig 2>–4".

    Args:
        block: what is read.
        text: its words.
        spans: start and end of every link, and the figures it cites.
        index: all figures.
    """
    for citation in plain(text, [span[:2] for span in spans]):
        inside = _span_at(spans, citation.place)
        if inside is not None:  # the link counts; only what its words go on with is new
            labels = [index.labels[figure] for figure in inside[2]]
            label = next((label for label in labels if label and label[1:] == citation.first), None)
            if label is None:
                continue
            part = label[0]
        else:
            part = part_of(block)
        for number, place in citation.numbers:
            figure = index.places.get((part, citation.first[0], number))
            if figure is not None and _span_at(spans, place) is None:
                words = text[place : place + _PANELS_BEHIND]
                yield figure, place, panels(words, len(str(number)), number)


def _span_at(spans: list[tuple[int, int, list[int]]], place: int) -> tuple[int, int, list[int]] | None:
    """The link that covers a place."""
    at = bisect.bisect_right(spans, place, key=lambda span: span[0]) - 1
    return spans[at] if at >= 0 and place < spans[at][1] else None
