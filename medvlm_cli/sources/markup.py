"""XML to words: a safe parser, and the text of an element as a reader sees it.

Elements are matched by local name, because the same article comes without a namespace, with a default one (OAI-PMH)
and inside other elements (eFetch).
"""

import html
import re
from collections.abc import Callable, Mapping

from lxml import etree

from medvlm_cli.core.errors import DataError
from medvlm_cli.sources.text import clean, is_tidy, tidy

MAX_BYTES = 64 * 1024 * 1024
"""Largest XML file that is parsed."""

_DROPPED = {
    "object-id", "supplementary-material", "media", "fig", "fig-group", "table-wrap",
    "fn", "alt-text", "long-desc", "permissions", "graphic",
}  # fmt: skip
"""What stands inside a caption or a paragraph without being its text."""
_BREAKS = {
    "p", "title", "break", "list", "list-item", "def", "def-item", "disp-formula", "disp-quote", "td", "th", "sec",
    "label", "verse-line", "attrib",
}  # fmt: skip
"""Where a new line begins on the page, so that words do not run together; anything else is inline."""
_DEEPEST = 200
"""Elements inside each other that are told apart; below are files made to break programs."""


class XMLError(DataError):
    """A file is not a JATS article that can be read safely."""


def parse_xml(data: bytes, where: str) -> etree._Element:
    """The root of a document, with named entities as text and without comments and processing instructions.

    Args:
        data: the file as it is on disk; never decoded text, so that the XML declaration counts.
        where: how to name the file in an error.

    Raises:
        XMLError: not well formed, over ``MAX_BYTES``, or with a DTD of its own, which could define entities.
    """
    if len(data) > MAX_BYTES:
        raise XMLError(f"{where}: {len(data):,} bytes of XML, over the limit of {MAX_BYTES:,}")
    start = data.find(b"<!DOCTYPE")
    if start >= 0 and re.match(rb"<!DOCTYPE(?:\"[^\"]*\"|'[^']*'|[^>\"'\[])*\[", data[start : start + 4096]):
        raise XMLError(f"{where}: the document type has declarations of its own, which are refused")
    try:
        root = etree.fromstring(data, _parser(huge=False))
    except etree.XMLSyntaxError as error:
        if "XML_PARSE_HUGE" not in str(error):  # too deep or too long for the careful parser, yet below MAX_BYTES
            raise XMLError(f"{where}: not well-formed XML ({error})") from error
        try:
            root = etree.fromstring(data, _parser(huge=True))
        except etree.XMLSyntaxError as second:
            raise XMLError(f"{where}: not well-formed XML ({second})") from second
    subset = root.getroottree().docinfo.internalDTD
    if subset is not None and next(subset.iterentities(), None) is not None:  # as above, in UTF-16
        raise XMLError(f"{where}: the document type has declarations of its own, which are refused")
    for entity in list(root.iter(etree.Entity)):  # JATS takes its names from the sets that HTML took over
        _replace(entity, html.unescape(entity.text))
    return root


_BEGIN_REFERENCES, _END_REFERENCES = b"<ref-list", b"</ref-list>"


def without_references(data: bytes) -> bytes:
    """A file without its reference lists, which are 40 % of an article and hold nothing that is kept.

    A list is cut only where nothing inside could make it something else (a list in a list, a comment, CDATA) or belongs
    to the figures.  So what is cut from a well-formed file is one whole element, and the rest is well-formed.
    """
    kept: list[bytes] = []
    done = 0
    start = data.find(_BEGIN_REFERENCES)
    while start >= 0:
        end = data.find(_END_REFERENCES, start) + len(_END_REFERENCES)
        if end < start:
            break
        following = data.find(_BEGIN_REFERENCES, start + 1)
        if not 0 <= following < end and not any(_has(data, mark, start, end) for mark in (b"<!", b"<?", b"</fig>")):
            kept.append(data[done:start])
            done = end
        start = following if following >= end or following < 0 else data.find(_BEGIN_REFERENCES, end)
    return b"".join([*kept, data[done:]]) if done else data


def _has(data: bytes, mark: bytes, start: int, end: int) -> bool:
    if len(mark) == 2:  # its second byte alone is seldom, and found many times as fast as both
        for _ in range(100):
            start = data.find(mark[1], start, end) + 1
            if not start:
                return False
            if data[start - 2] == mark[0]:
                return True
    return data.find(mark, start, end) >= 0


def _parser(huge: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=huge,
        remove_comments=True, remove_pis=True,
    )  # fmt: skip


def text_of(element: etree._Element, links: Mapping[etree._Element, int] | None = None) -> str:
    """The words of an element as a reader sees them: inline markup leaves no gap ("CO2"), a new block one space.

    Args:
        element: what is read.
        links: ``xref`` elements and numbers to mark them with; the text is then left as it is, for ``unmarked``.
    """
    if not len(element):
        text = element.text or ""
    else:
        pieces: list[str] = []
        _collect(element, pieces.append, links or {}, 0)
        text = "".join(pieces)
    return clean(text) if links is None else text


def _collect(
    element: etree._Element, add: Callable[[str], None], links: Mapping[etree._Element, int], deep: int
) -> None:
    """Hand the pieces of the text to ``add``.  In Python, because nothing faster knows what a reader sees."""
    if deep > _DEEPEST:
        add(etree.tostring(element, method="text", encoding="unicode", with_tail=False))
        return
    text = element.text
    if text:
        add(text)
    for inner in element:
        name = inner.tag
        if name[0] == "{":
            name = name.rpartition("}")[2]
        if name in _DROPPED:
            add(" ")
        elif name == "math" or name == "tex-math":
            add(_formula(inner, name))
        elif name == "xref" and inner in links:
            add(f"{_OPEN}{links[inner]}{_CLOSE}")
            _collect(inner, add, links, deep + 1)
            add(_END)
        elif name in _BREAKS:
            add(" ")
            _collect(inner, add, links, deep + 1)
            add(" ")
        elif len(inner):
            _collect(inner, add, links, deep + 1)
        else:
            text = inner.text
            if text:
                add(text)
        text = inner.tail
        if text:
            add(text)


def _formula(formula: etree._Element, name: str) -> str:
    """A formula as plain words: MathML without the layout of its source; TeX only where there is nothing else."""
    if name == "math":
        words: list[str] = []
        _collect_math(formula, words.append, 0)
        return "".join(words)
    parent = formula.getparent()
    if parent is not None and any(local_name(other) in ("math", "textual-form") for other in parent):
        return ""
    text = formula.text or ""
    body = re.search(r"\\begin\{document\}(.*)\\end\{document\}", text, re.S)
    return (body[1] if body else text).strip().strip("$").strip()


def _collect_math(element: etree._Element, add: Callable[[str], None], deep: int) -> None:
    add((element.text or "").strip())
    for inner in element:
        if deep < _DEEPEST and not local_name(inner).startswith("annotation"):
            _collect_math(inner, add, deep + 1)
        add((inner.tail or "").strip())


def _replace(node: etree._Element, text: str) -> None:
    """Take a node out of the tree and leave ``text`` and its tail in its place."""
    parent = node.getparent()
    if parent is None:
        return
    text += node.tail or ""
    previous = node.getprevious()
    if previous is not None:
        previous.tail = (previous.tail or "") + text
    else:
        parent.text = (parent.text or "") + text
    parent.remove(node)


# Citations are marked in the text with noncharacters, so that it can be tidied as a whole.  A file that holds these
# characters itself can at worst spoil its own mentions: numbers are checked against the block.
_OPEN, _CLOSE, _END = "\ufdd0", "\ufdd1", "\ufdd2"


def unmarked(marked: str) -> tuple[str, list[tuple[int, int, int]]]:
    """Tidy text without the marks, and (number, start, end) of every link."""
    text, spans = _without_marks(" ".join(marked.split()))
    if is_tidy(text):
        return text, spans
    return _without_marks(tidy(marked))  # seldom: what cannot be seen goes first, so that the places hold


def _without_marks(marked: str) -> tuple[str, list[tuple[int, int, int]]]:
    first, *pieces = marked.split(_OPEN)
    done = [first.replace(_END, "")]
    length = len(done[0])
    spans: list[tuple[int, int, int]] = []
    spaced = not length or done[0].endswith(" ")
    for piece in pieces:
        number, closed, words = piece.partition(_CLOSE)
        words, ended, behind = (words if closed else number).partition(_END)
        if spaced:  # one space before the mark and one behind it are one
            words = words.lstrip()
        start, length = length, length + len(words)
        if ended and closed and number.isdecimal() and len(number) < 7:
            spans.append((int(number), start, length))
        spaced = words.endswith(" ") if words else spaced
        behind = behind.replace(_END, "")
        if spaced:
            behind = behind.lstrip()
        spaced = behind.endswith(" ") if behind else spaced
        length += len(behind)
        done += words, behind
    return "".join(done), spans


def local_name(element: etree._Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2]
