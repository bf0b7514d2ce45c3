"""XML to words: a safe parser, and the text of an element as a reader sees it.

Elements are matched by local name, because the same article comes without a namespace, with a default one (OAI-PMH)
and inside other elements (eFetch).  A tree is changed while it is read: it belongs to nobody else.
"""

import html
import re

from lxml import etree

from medvlm_cli.core.errors import DataError
from medvlm_cli.sources.text import clean, tidy

MAX_BYTES = 64 * 1024 * 1024
"""Largest XML file that is parsed."""

_DROPPED = {
    "object-id", "supplementary-material", "inline-supplementary-material", "media", "fig", "fig-group", "table-wrap",
    "fn", "alt-text", "long-desc", "permissions", "graphic",
}  # fmt: skip
"""What stands inside a caption or a paragraph without being its text."""
_BREAKS = {
    "p", "title", "break", "list", "list-item", "def", "def-item", "disp-formula", "disp-quote", "td", "th", "sec",
    "label", "verse-line", "attrib",
}  # fmt: skip
"""Where a new line begins on the page, so that words do not run together; anything else is inline."""
_FORMULAS = {"math", "tex-math"}
_SPECIAL = tuple(f"{{*}}{name}" for name in sorted(_DROPPED | _BREAKS | _FORMULAS))


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


def _parser(huge: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=huge,
        remove_comments=True, remove_pis=True,
    )  # fmt: skip


def text_of(element: etree._Element, keep_marks: bool = False) -> str:
    """The words of an element as a reader sees them: inline markup leaves no gap ("CO2"), a new block one space.

    ``keep_marks`` leaves the text as it is, with the marks of ``mark``, for ``unmarked``.
    """
    for special in list(element.iter(*_SPECIAL)):
        kind = local_name(special)
        if kind in _FORMULAS:
            _flatten(special)
        elif special is not element:
            special.text = " " + (special.text or "")
            special.tail = " " + (special.tail or "")
            if kind in _DROPPED:
                _replace(special, "")
    text = etree.tostring(element, method="text", encoding="unicode", with_tail=False)
    return text if keep_marks else clean(text)


def _flatten(math: etree._Element) -> None:
    """A formula as plain words: MathML without the layout of its source; TeX only where there is nothing else."""
    if local_name(math) == "math":
        for note in list(math.iter("{*}annotation", "{*}annotation-xml")):
            _replace(note, "")
        words = "".join(piece.strip() for piece in math.itertext())
    else:
        parent = math.getparent()
        if parent is not None and any(local_name(other) in ("math", "textual-form") for other in parent):
            words = ""
        else:
            body = re.search(r"\\begin\{document\}(.*)\\end\{document\}", math.text or "", re.S)
            words = (body[1] if body else math.text or "").strip().strip("$").strip()
    for child in list(math):
        math.remove(child)
    math.text = words


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


# Citations are marked in the tree with noncharacters, so that the text of a block can be taken in one call in C.
# A file that holds these characters itself can at worst spoil its own mentions: numbers are checked against the block.
_OPEN, _CLOSE, _END = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = re.compile(f"{_OPEN}(\\d{{1,6}}){_CLOSE}|({_END})")


def mark(xref: etree._Element, number: int) -> None:
    """Mark a link in the tree, for ``unmarked`` to find in the text."""
    xref.text = f"{_OPEN}{number}{_CLOSE}{xref.text or ''}"
    if len(xref):
        xref[-1].tail = (xref[-1].tail or "") + _END
    else:
        xref.text += _END


def unmarked(marked: str) -> tuple[str, list[tuple[int, int, int]]]:
    """Tidy text without the marks, and (number, start, end) of every link."""
    pieces = _MARKS.split(tidy(marked))
    text = pieces[0]
    spans: list[tuple[int, int, int]] = []
    begun: tuple[int, int] | None = None
    for number, end, piece in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        if number is not None:
            begun = (int(number), len(text))
        elif end is not None and begun is not None:
            spans.append((*begun, len(text)))
            begun = None
        text += piece.lstrip() if text.endswith(" ") or not text else piece
    return text, spans


def local_name(element: etree._Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2]
