"""JATS and NLM articles as publishers and PubMed Central write them: figures, captions, sentences that cite them."""

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lxml import etree

from medvlm_cli.sources.citations import between, joins, numbers_cited, panels, series_and_number
from medvlm_cli.sources.licenses import spdx
from medvlm_cli.sources.markup import XMLError, local_name, mark, parse_xml, text_of, unmarked
from medvlm_cli.sources.text import clean, sentences

_HREF = "{http://www.w3.org/1999/xlink}href"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

_BLOCKS = {
    "p", "title", "subtitle", "td", "th", "def", "term", "attrib", "verse-line", "label", "disp-quote", "article-title",
    "list-item",
}  # fmt: skip
"""Elements whose text is read as one run of sentences."""
_NO_MENTION = {"caption", "fig", "ref", "ref-list", "trans-abstract"}
"""What a sentence that mentions a figure does not stand in."""
_NO_IMAGE = {
    "caption", "fig", "table-wrap", "supplementary-material", "media", "disp-formula", "inline-formula", "label",
    "object-id", "permissions", "attrib",
}  # fmt: skip
"""Children of a figure whose graphics are not the figure's own image."""
_LONGEST_LINK = 200
"""Characters of a citation that are read; hostile files have longer ones."""
_PARTS = {"sub-article", "response"}

_RIGHTS = ("permission", "©", "copyright", "reprinted", "reproduced", "courtesy of")
_PERMISSION = re.compile(
    r"\bwith (?:the )?(?:kind )?permissions?\b|\bby (?:kind )?permission\b|\bpermission (?:from|of|by)\b|©|"
    r"\bcopyright\b|\bre(?:printed|produced) (?:from|with|under|by)\b|\bcourtesy of\b"
)
_OWN_LABEL = re.compile(r"\W*fig\w*\.?\s*\w?\d", re.I)
_THUMBNAIL = re.compile(r"thumb|icon|preview|\d+\s?x\s?\d+", re.I)
_THUMBNAIL_NAME = re.compile(r"[-_.](?:thumb(?:nail)?s?|\d{2,3}x\d{2,3})$", re.I)


@dataclass(frozen=True, slots=True)
class Mention:
    """A sentence that cites a figure, with the panels it names: ("... (Fig 2A,B).", "A,B")."""

    text: str
    panel: str | None


@dataclass(slots=True)
class Figure:
    """A ``fig`` element."""

    id: str
    """Unique in its article; a figure of a decision letter carries the letter's id, ``sa1/fig1``."""
    label: str | None
    caption: str
    images: list[list[str]]
    """One entry an image; each lists the addresses of its alternatives, best first, thumbnails left out."""
    third_party: bool
    """Somebody else's rights are stated beside the image or in the caption."""
    translation: bool
    """Shows what another figure shows in the language of the article."""
    mentions: list[Mention] = field(default_factory=list)


@dataclass(slots=True)
class Article:
    """What is kept of an article."""

    pmcid: str | None
    doi: str | None
    title: str | None
    year: int | None
    license: str
    """SPDX, or ``unknown``."""
    kind: str
    """``article-type``, for example research-article, correction, retraction."""
    retracted: bool
    figures: list[Figure]


def parse(data: bytes, where: str) -> list[Article]:
    """Every article of a JATS file: one, or those of a ``pmc-articleset`` or an OAI-PMH reply.

    Args:
        data: the file as it is on disk; never decoded text, so that the XML declaration counts.
        where: how to name the file in an error.

    Raises:
        XMLError: not well formed, over ``MAX_BYTES``, with a DTD of its own (which could define entities), or without
            an ``article``.
    """
    root = parse_xml(data, where)
    articles = [root] if local_name(root) == "article" else list(root.iter("{*}article"))
    if not articles:
        raise XMLError(f"{where}: <{local_name(root)}> holds no JATS article")
    return [_article(element) for element in articles]


def _article(article: etree._Element) -> Article:
    meta = article.find("{*}front/{*}article-meta")
    if meta is None:
        meta = etree.Element("article-meta")
    pmcid, doi = _ids(meta)
    title = meta.find("{*}title-group/{*}article-title")
    years = [int(text) for text in (year.text or "" for year in meta.iterfind("{*}pub-date/{*}year")) if text.isdigit()]
    related = {element.get("related-article-type") for element in meta.iterfind("{*}related-article")}
    title_text = text_of(title) if title is not None else ""
    kind = article.get("article-type") or ""
    return Article(
        pmcid=pmcid,
        doi=doi,
        title=title_text or None,
        year=min(years, default=None),
        license=_license(meta),
        kind=kind,
        retracted=kind == "retracted-article"
        or bool(related & {"retraction-forward", "retraction"})
        or re.match(r"\W*(?:retracted|withdrawn)(?: article)?\s*[:\]]", title_text, re.I) is not None,
        figures=_Reader(article).figures(),
    )


def _ids(meta: etree._Element) -> tuple[str | None, str | None]:
    """PMC id (``PMC123``) and DOI of the article itself; the internal numbers pmcaid and pmcaiid are neither."""
    ids = {element.get("pub-id-type"): clean(element.text or "") for element in meta.iterfind("{*}article-id")}
    digits = (ids.get("pmcid") or ids.get("pmc") or "").upper().removeprefix("PMC")
    return (f"PMC{digits}" if digits.isdigit() else None), ids.get("doi") or None


def _license(meta: etree._Element) -> str:
    stated: list[str | None] = []
    for element in meta.iterfind("{*}permissions//{*}license"):
        stated.append(element.get(_HREF))
        for reference in element.iter("{*}license_ref"):
            stated += [reference.text, reference.get("content-type")]
        stated += [link.get(_HREF) for link in element.iter("{*}ext-link", "{*}uri")]
    stated += [reference.text for reference in meta.iterfind("{*}permissions/{*}license_ref")]
    for custom in meta.iterfind("{*}custom-meta-group/{*}custom-meta"):
        if custom.findtext("{*}meta-name") == "pmc-license-ref":
            stated.append(custom.findtext("{*}meta-value"))
    prose = "{*}permissions", "{*}copyright-statement", "{*}license"  # the last two as NLM 2.x has them
    return spdx(stated, " ".join("".join(element.itertext()) for tag in prose for element in meta.iterfind(tag)))


class _Reader:
    """Figures of one article and what cites them; a class because everything looks up ids, labels and languages."""

    def __init__(self, article: etree._Element) -> None:
        self.article = article
        self.language = (article.get(_LANG) or "en")[:2].lower()
        self.elements: list[etree._Element] = list(article.iter("{*}fig"))
        self.found: list[Figure] = []
        self.targets: dict[str, list[int]] = {}
        """id of a figure or a group of figures -> the figures."""
        self.places: dict[tuple[str, str, int], int] = {}
        """(part of the article, series, number) -> the figure."""
        self.labels: list[tuple[str, str, int] | None] = []

    def figures(self) -> list[Figure]:
        """All figures, in document order."""
        taken: set[str] = set()
        for number, element in enumerate(self.elements, 1):
            self._add(number, element, taken)
        if self.found:
            self._mentions()
        return self.found

    def _add(self, number: int, element: etree._Element, taken: set[str]) -> None:
        part, group, foreign = _surroundings(element)
        name = f"{part}/" * bool(part) + (clean(element.get("id") or "") or f"fig-{number}")
        if name in taken:  # ids are unique by the standard, not in every file
            name = f"{name}~{number}"
        taken.add(name)
        label, caption = self._words(element, group)
        index = len(self.found)
        self.found.append(
            Figure(
                id=name,
                label=label,
                caption=caption,
                images=_images(element),
                third_party=_reserved(caption) or _credited(element),
                translation=foreign or self._doubled(element, group),
            )
        )
        for owner in (element, group):
            if owner is not None and owner.get("id"):
                self.targets.setdefault(owner.get("id"), []).append(index)
        place = series_and_number(label)
        self.labels.append((part, *place) if place else None)
        if place:
            self.places.setdefault((part, *place), index)

    def _words(self, element: etree._Element, group: etree._Element | None) -> tuple[str | None, str]:
        """Label and caption; those of a ``fig-group`` hold for each of its figures."""
        own = self._caption(element)
        label = _label(element)
        if group is None:
            return label, own
        shared = _label(group)
        if shared and not (label and series_and_number(label)):
            label = f"{shared} {label}" if label else shared
        return label, f"{self._caption(group)} {own}".strip()

    def _caption(self, element: etree._Element) -> str:
        captions = element.findall("{*}caption")
        if len(captions) > 1:  # one in each language
            own = [one for one in captions if (one.get(_LANG) or self.language)[:2].lower() == self.language]
            captions = own or captions[:1]
        return " ".join(text_of(one) for one in captions)

    def _doubled(self, element: etree._Element, group: etree._Element | None) -> bool:
        """Whether the group holds this figure a second time, in the language of the article."""
        language = (element.get(_LANG) or self.language)[:2].lower()
        if group is None or language == self.language:
            return False
        return any((fig.get(_LANG) or self.language)[:2].lower() == self.language for fig in group.iterfind("{*}fig"))

    def _mentions(self) -> None:
        """Find every citation, mark it in the tree, read each citing block once, and share its sentences out."""
        links: list[tuple[etree._Element, list[int]]] = []
        blocks: dict[etree._Element, None] = {}
        for xref in self.article.iter("{*}xref"):
            if xref.get("ref-type") == "bibr":
                continue
            cited = [index for rid in (xref.get("rid") or "").split() for index in self.targets.get(rid, ())]
            if not cited and (xref.get("ref-type") or "").startswith("fig"):
                cited = self._by_label(xref)
            block = _block(xref) if cited else None
            if block is not None:
                blocks[block] = None
                mark(xref, len(links))
                links.append((block, cited))
        for block in blocks:
            self._read_block(block, links)

    def _by_label(self, xref: etree._Element) -> list[int]:
        """The figure a dangling link means, by the number in its words."""
        place = series_and_number("".join(xref.itertext()))
        part = next((_part_id(above) for above in xref.iterancestors() if local_name(above) in _PARTS), "")
        index = self.places.get((part, *place)) if place else None
        return [] if index is None else [index]

    def _read_block(self, block: etree._Element, links: list[tuple[etree._Element, list[int]]]) -> None:
        text, spans = unmarked(text_of(block, keep_marks=True))
        spans = [span for span in spans if span[0] < len(links) and links[span[0]][0] is block]
        if not spans:
            return
        bounds = sentences(text)
        ends = [end for _, end in bounds]
        told: dict[tuple[int, int], list[str | None]] = {}  # (figure, sentence) -> panels named
        before: tuple[int, list[int]] | None = None  # end and figures of the link before
        for number, start, end in spans:
            cited = links[number][1]
            sentence = min(bisect.bisect_right(ends, start), len(bounds) - 1)
            words = text[start : min(end, start + _LONGEST_LINK)]
            for index in self._expanded(cited, words):
                told.setdefault((index, sentence), [])
            if before is not None and joins(text[before[0] : start]):
                for index in self._between(before[1][-1], cited[0]):
                    told.setdefault((index, sentence), [])
            for index in cited:
                label = self.labels[index]
                named = panels(text[start : start + len(words) + 48], len(words), label[2] if label else None)
                told[index, sentence].append(named)
            before = (end, cited)
        for (index, sentence), answers in told.items():
            start, end = bounds[sentence]
            letters = dict.fromkeys(letter for answer in answers if answer for letter in answer.split(","))
            self.found[index].mentions.append(Mention(text[start:end], ",".join(letters) or None))

    def _expanded(self, cited: list[int], words: str) -> list[int]:
        """The figures linked to, and those that only the words of the link name: ``<Figs 2-5>`` leads to 2."""
        more = list(cited)
        for label in {self.labels[index] for index in cited} - {None}:
            part, series, number = label  # type: ignore[misc]  # None was taken out
            named = (self.places.get((part, series, n)) for n in sorted(numbers_cited(words, number, series)))
            more += [index for index in named if index is not None and index not in more]
        return more

    def _between(self, first: int, last: int) -> Iterator[int]:
        """The figures that a range leaves out: ``<Fig 2>–<4>`` cites 3."""
        one, other = self.labels[first], self.labels[last]
        if one and other and one[:2] == other[:2]:
            for number in between(one[2], other[2])[1:-1]:
                index = self.places.get((*one[:2], number))
                if index is not None:
                    yield index


def _surroundings(element: etree._Element) -> tuple[str, etree._Element | None, bool]:
    """The part of the article ("" for the article proper), the group of figures, and whether it is a translation."""
    group = None
    part, foreign, inside = "", False, False
    for above in element.iterancestors():
        name = local_name(above)
        inside = inside or name == "fig"
        if name == "fig-group" and group is None and not inside:
            group = above
        elif name == "trans-abstract":
            foreign = True
        elif name in _PARTS:
            part = part or _part_id(above)
            foreign = foreign or above.get("article-type") == "translation"
    return part, group, foreign


def _part_id(element: etree._Element) -> str:
    return clean(element.get("id") or "") or "sub-article"


def _label(element: etree._Element) -> str | None:
    label = element.find("{*}label")
    return (text_of(label) or None) if label is not None else None


def _reserved(caption: str) -> bool:
    """Whether the caption says that the image is somebody else's."""
    lower = caption.lower()
    return any(word in lower for word in _RIGHTS) and _PERMISSION.search(lower) is not None


def _credited(element: etree._Element) -> bool:
    """Whether the figure carries a credit line; SciELO puts the translated caption there, which begins "Figure 1."."""
    for note in element.iter("{*}attrib", "{*}permissions"):
        owner = next((above for above in note.iterancestors("{*}fig")), element)
        if owner is element and not (local_name(note) == "attrib" and _OWN_LABEL.match("".join(note.itertext()))):
            return True
    return False


def _images(figure: etree._Element) -> list[list[str]]:
    """The figure's own images: one per ``graphic``, one per ``alternatives``; files of one stem are one image."""
    units: dict[str, list[str]] = {}
    for position, graphics in enumerate(_graphics(figure)):
        full = [graphic for graphic in graphics if not _is_thumbnail(graphic, len(graphics) > 1)]
        addresses = [(graphic.get(_HREF) or "").strip() for graphic in full]
        addresses = [address for address in addresses if address]
        if addresses:
            stem = re.sub(r"\.\w{2,4}$", "", addresses[0]).lower()
            units.setdefault(stem, []).extend(addresses)
        elif len(graphics) > 1 or not full:
            units.setdefault(f" {position}", [])  # something is here, but no full image: a reject of its own
    return list(units.values())


def _graphics(figure: etree._Element) -> Iterator[list[etree._Element]]:
    """The graphics of a figure in document order, those of one ``alternatives`` together."""
    open_elements = list(reversed(figure))
    while open_elements:  # a stack, because files nest deeper than Python's
        element = open_elements.pop()
        name = local_name(element)
        if name == "graphic":
            yield [element]
        elif name == "alternatives":
            inside = list(element.iter("{*}graphic"))
            if inside:
                yield inside
        elif name not in _NO_IMAGE:
            open_elements.extend(reversed(element))


def _is_thumbnail(graphic: etree._Element, has_alternatives: bool) -> bool:
    kind = f"{graphic.get('content-type') or ''} {graphic.get('specific-use') or ''}"
    if _THUMBNAIL.search(kind):
        return True
    stem = re.sub(r"\.\w{2,4}$", "", (graphic.get(_HREF) or "").strip())
    return has_alternatives and _THUMBNAIL_NAME.search(stem) is not None


def _block(xref: etree._Element) -> etree._Element | None:
    """The paragraph or cell a citation stands in; None where that is no mention (a caption, a reference ...)."""
    block = None
    for above in xref.iterancestors():
        name = local_name(above)
        if name in _NO_MENTION or (name == "sub-article" and above.get("article-type") == "translation"):
            return None
        if block is None and name in _BLOCKS:
            block = above
    return block
