"""JATS and NLM articles as publishers and PubMed Central write them: figures, captions, sentences that cite them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lxml import etree

from medvlm_cli.sources.citations import plain_in_bytes, series_and_number
from medvlm_cli.sources.licenses import spdx
from medvlm_cli.sources.markup import XMLError, local_name, parse_xml, text_of, without_references
from medvlm_cli.sources.mentions import Index, Mention, mentions, part_name
from medvlm_cli.sources.text import clean

_HREF = "{http://www.w3.org/1999/xlink}href"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

_NO_IMAGE = {
    "caption", "fig", "table-wrap", "supplementary-material", "media", "disp-formula", "inline-formula", "label",
    "object-id", "permissions", "attrib",
}  # fmt: skip
"""Children of a figure whose graphics are not the figure's own image."""
_PARTS = {"sub-article", "response"}

_RIGHTS = ("ermission", "©", "opyright", "eprinted", "eproduced", "ourtesy")
"""One of these stands in every text that ``_PERMISSION`` finds; looking for them is faster."""
_PATIENT = r"(?:the |her |his |their )?(?:patient|parent|guardian|famil|participant|subject|relative|next of kin)"
_PERMISSION = re.compile(
    rf"\bwith (?:the )?(?:kind )?permissions?\b(?! (?:of|from|by) {_PATIENT})|\bby (?:kind )?permission\b|"
    rf"\bpermission (?:from|of|by)\b(?! {_PATIENT})|©|\bcopyright\b|\bcourtesy of\b|"
    r"\bre(?:printed|produced) (?:from|with|under|by)\b|\bre(?:printed|produced)\b[^.]{0,60}\bpermission\b",
    re.I,
)
_OWN_LABEL = re.compile(r"\W*fig\w*\.?\s*\w?\d", re.I)
_ENDING = re.compile(r"\.\w{2,4}$")
_THUMBNAIL = re.compile(r"thumb|icon|preview|\d+\s?x\s?\d+", re.I)
_THUMBNAIL_NAME = re.compile(r"[-_.](?:thumb(?:nail)?s?|\d{2,3}x\d{2,3})$", re.I)


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
    in_subarticle: bool
    """Belongs to a decision letter, a response or a translation, not to the article proper."""
    mentions: list[Mention] = field(default_factory=list)


@dataclass(slots=True)
class Article:
    """What is kept of an article."""

    pmcid: str | None
    doi: str | None
    title: str | None
    journal: str | None
    authors: str | None
    """``Smith J, Doe AB, et al.``: three names at most, a group of authors is one of them."""
    keywords: list[str]
    """Of the authors, of MeSH, and the subjects the journal sorts the article under, as written."""
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
    data = without_references(data)
    root = parse_xml(data, where)
    articles = [root] if local_name(root) == "article" else list(root.iter("{*}article"))
    if not articles:
        raise XMLError(f"{where}: <{local_name(root)}> holds no JATS article")
    unlinked = plain_in_bytes(data)
    return [_article(element, unlinked) for element in articles]


def _article(article: etree._Element, unlinked: bool) -> Article:
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
        journal=_journal(article),
        authors=_authors(meta),
        keywords=_keywords(meta),
        year=min(years, default=None),
        license=_license(meta),
        kind=kind,
        retracted=kind == "retracted-article"
        or bool(related & {"retraction-forward", "retraction"})
        or re.match(r"\W*(?:retracted|withdrawn)(?: article)?\s*[:\]]", title_text, re.I) is not None,
        figures=_figures(article, unlinked),
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


def _journal(article: etree._Element) -> str | None:
    journal = article.find("{*}front/{*}journal-meta")
    title = next(journal.iter("{*}journal-title"), None) if journal is not None else None
    return (text_of(title) or None) if title is not None else None


_MOST_NAMES = 3


def _authors(meta: etree._Element) -> str | None:
    names: list[str] = []
    for contributor in meta.iterfind("{*}contrib-group/{*}contrib"):
        name = _name(contributor) if contributor.get("contrib-type", "author") == "author" else ""
        if not name:
            continue
        if len(names) == _MOST_NAMES:
            names.append("et al.")
            break
        names.append(name)
    return ", ".join(names) or None


def _name(contributor: etree._Element) -> str:
    """``Smith JA``, or the name of a group without those of its members."""
    for element in contributor.iter("{*}name", "{*}string-name", "{*}collab", "{*}collab-name"):
        surname = element.find("{*}surname")
        if surname is not None:
            given = element.find("{*}given-names")
            words = re.split(r"[\s.-]+", text_of(given)) if given is not None else []
            initials = "".join(
                word if word.isupper() and len(word) < 4 else word[:1] for word in words if word[:1].isupper()
            )
            return f"{text_of(surname)} {initials}".strip()
        for members in element.findall("{*}contrib-group"):
            element.remove(members)
        return text_of(element)
    return ""


def _keywords(meta: etree._Element) -> list[str]:
    words = [text_of(word) for word in meta.iter("{*}kwd")]
    for group in meta.iterfind("{*}article-categories/{*}subj-group"):
        if group.get("subj-group-type") not in ("heading", "display-channel"):  # which name the kind of article
            words += [text_of(subject) for subject in group.iter("{*}subject")]
    return list(dict.fromkeys(word for word in words if word))


def _figures(article: etree._Element, unlinked: bool) -> list[Figure]:
    """All figures, in document order, and what cites them."""
    language = (article.get(_LANG) or "en")[:2].lower()
    index = Index()
    found: list[Figure] = []
    taken: set[str] = set()
    figs: list[etree._Element] = []
    xrefs: list[etree._Element] = []
    for element in article.iter("{*}fig", "{*}xref"):  # one walk through the tree for both
        (figs if element.tag.endswith("fig") else xrefs).append(element)
    for number, element in enumerate(figs, 1):
        part, group, foreign = _surroundings(element)
        name = f"{part}/" * bool(part) + (clean(element.get("id") or "") or f"fig-{number}")
        if name in taken:  # ids are unique by the standard, not in every file
            name = f"{name}~{number}"
        taken.add(name)
        label, caption = _words(element, group, language)
        found.append(
            Figure(
                id=name,
                label=label,
                caption=caption,
                images=_images(element) or _images_of_group(group),
                third_party=_reserved(caption) or _credited(element),
                translation=foreign or _doubled(element, group, language),
                in_subarticle=bool(part),
            )
        )
        index.add([element.get("id"), group.get("id") if group is not None else None], part, label)
    body = article.find("{*}body") if found and unlinked else None
    told = mentions(xrefs, index, body.iter("{*}p") if body is not None else ()) if found else []
    for figure, sentences in zip(found, told, strict=True):
        figure.mentions = sentences
    return found


def _words(element: etree._Element, group: etree._Element | None, language: str) -> tuple[str | None, str]:
    """Label and caption; those of a ``fig-group`` hold for each of its figures."""
    label, own = _label_and_caption(element, language)
    if group is None:
        return label, own
    shared, introduction = _label_and_caption(group, language)
    if shared and not (label and series_and_number(label)):
        label = f"{shared} {label}" if label else shared
    return label, f"{introduction} {own}".strip()


def _label_and_caption(element: etree._Element, language: str) -> tuple[str | None, str]:
    label = None
    captions = []
    for child in element:
        name = local_name(child)
        if name == "caption":
            captions.append(child)
        elif name == "label" and label is None:
            label = text_of(child) or None
    if len(captions) > 1:  # one in each language
        own = [one for one in captions if (one.get(_LANG) or language)[:2].lower() == language]
        captions = own or captions[:1]
    return label, " ".join(text_of(one) for one in captions)


def _doubled(element: etree._Element, group: etree._Element | None, language: str) -> bool:
    """Whether the group holds this figure a second time, in the language of the article."""
    if group is None or (element.get(_LANG) or language)[:2].lower() == language:
        return False
    return any((fig.get(_LANG) or language)[:2].lower() == language for fig in group.iterfind("{*}fig"))


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
            part = part or part_name(above)
            foreign = foreign or above.get("article-type") == "translation"
    return part, group, foreign


def _reserved(caption: str) -> bool:
    """Whether the caption says that the image is somebody else's."""
    return any(word in caption for word in _RIGHTS) and _PERMISSION.search(caption) is not None


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
            stem = _ENDING.sub("", addresses[0]).lower()
            units.setdefault(stem, []).extend(addresses)
        elif len(graphics) > 1 or not full:
            units.setdefault(f" {position}", [])  # something is here, but no full image: a reject of its own
    return list(units.values())


def _images_of_group(group: etree._Element | None) -> list[list[str]]:
    """Images that stand beside the only figure of a group, not in it."""
    if group is None or len(group.findall("{*}fig")) != 1:
        return []
    return _images(group)


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
    stem = _ENDING.sub("", (graphic.get(_HREF) or "").strip())
    return has_alternatives and _THUMBNAIL_NAME.search(stem) is not None
