"""What the words of a citation say: "Figs 2-4", "Fig. 3A,B", "Figure 1—figure supplements 3–5".

Publishers mark up the first and the last figure of a range, or one of them, or write the panels behind the link; the
rest is in the text only.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DASH = "[-\u2010-\u2015\u2212]"
_WORD = r"(?:fig(?:ure|ura|s|ures|uras)?\b\.?)"
_SUPPLEMENT = re.compile(r"\b(?:suppl?(?:ement(?:ary|al))?|supporting|online)\b\.?(?!s)", re.I)
_NUMBER = re.compile(r"\d+")
_FIGURE = re.compile(_WORD, re.I)
_NO_SERIES = re.compile(r"[^\w.\-]")
_ROMAN = re.compile(rf"{_WORD}\s*([ivxl]+)\b", re.I)
_ROMAN_VALUES = {"i": 1, "v": 5, "x": 10, "l": 50}

MAX_RANGE = 60
"""Longest range of figures that is believed; "Figs 3-2019" is something else."""


def series_and_number(label: str | None) -> tuple[str, int] | None:
    """The place of a figure in its article: which series, and which number there.

    ``Fig 2`` is ("", 2), ``Figure S3`` ("s", 3), ``Figure 1—figure supplement 2`` ("1supplement", 2), ``Figure 2.1``
    ("2.", 1), ``FIG. IV`` ("", 4); a label without a number is None.
    """
    if not label:
        return None
    numbers = list(_NUMBER.finditer(label))
    if not numbers:
        roman = _ROMAN.search(label)
        return ("", _roman(roman[1].lower())) if roman else None
    before = label[: numbers[-1].start()]
    if len(numbers) == 1:
        before = _SUPPLEMENT.sub("s", before)  # "Supplementary Figure 3" is cited as "Fig S3"
    before = _FIGURE.sub(" ", before).lower()
    return _NO_SERIES.sub("", before).lstrip(".-"), int(numbers[-1][0])


def _roman(text: str) -> int:
    values = [_ROMAN_VALUES[letter] for letter in text]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


_RANGE = re.compile(
    rf"(?<![\d.])(\d{{1,3}})(?:\s?\(?[A-Za-z]\)?)?\s*(?:{DASH}|\bto\b|\bthrough\b)\s*{_WORD}?\s*[A-Z]?(\d{{1,3}})(?![\d.]\d)",
    re.I,
)
_ITEM = r"[A-Z]?\d{1,3}(?:\s?\(?[A-Z]\)?)?"
_LIST = re.compile(
    rf"\W*{_WORD}?\s*({_ITEM}(?:(?:\s*(?:[,;&+]|\band\b|{DASH}|\bto\b|\bthrough\b)\s*)+{_WORD}?\s*{_ITEM})+)\W*", re.I
)


def numbers_cited(text: str, number: int, series: str) -> set[int]:
    """The figures of one series that the words of one link cite, beside the one it is linked to.

    Args:
        text: the words, ``Figures 2-5``.
        number: number of the figure the link leads to; the words must name it, or the rest is not trusted.
        series: its series; in ``Figure 2-1`` the dash belongs to the label.

    Returns:
        The numbers, {2, 3, 4, 5}; empty where there is one figure only.
    """
    if series.endswith(("-", ".")) or len(_NUMBER.findall(text)) < 2:
        return set()
    cited: set[int] = set()
    for match in _RANGE.finditer(text):
        cited.update(between(int(match[1]), int(match[2])))
    if _LIST.fullmatch(text):
        cited.update(int(found[0]) for found in _NUMBER.finditer(text))
    return cited if number in cited else set()


def between(first: int, last: int) -> range:
    """The numbers of a range, both ends included; empty when it runs backwards or is too long to be one."""
    return range(first, last + 1) if 0 < last - first <= MAX_RANGE else range(0)


_JOINS = re.compile(rf"(?:\s?\(?[A-Za-z]\)?)?\s*(?:{DASH}|to|through|thru|until)\s*{_WORD}?\s*", re.I)


def joins(text: str) -> bool:
    """Whether the words between two links make a range of them: ``<2>–<4>``, ``<Fig 2>A to Fig. <4>``."""
    return len(text) < 24 and _JOINS.fullmatch(text) is not None


_PANEL = r"[A-Za-z](?:\d{1,2}|[ivx]{1,3})?(?![A-Za-z0-9])"
_AND = rf"(?:\s*,?\s*(?:\band\b|&|\+)\s*|\s*(?:,|;|/)\s*|\s*(?:{DASH}|\bto\b|\bthrough\b)\s*)"
_SEPARATOR = re.compile(f"({_AND})")
_NUMBER_AGAIN = re.compile(r"(?<![A-Za-z\d])\d+(?=\(?[A-Za-z])")
_TO = re.compile(rf"\s*(?:{DASH}|to\b|through\b)\s*")
_PANELS = re.compile(
    rf"(?<![\d.])(?P<number>\d{{1,4}})(?P<space>\s?)(?P<open>\()?\s?"
    rf"(?P<letters>{_PANEL}(?:{_AND}(?:(?P=number))?\(?{_PANEL}\)?)*)"
)
_ALONE = re.compile(rf"\W*({_PANEL}(?:{_AND}{_PANEL})*)\W*")  # a link "B" after a link "Fig 1A"
_WORDS_OF_ONE_LETTER = frozenset("aeiouy")
"""English, Portuguese, Spanish and Italian words that look like a panel in "Fig. 2 a mass"."""


def panels(text: str, link: int, number: int | None) -> str | None:
    """The panels of a figure that a citation names.

    Args:
        text: the words of the link and some of what follows: "Fig 2A–C) and then".
        link: length of the words of the link alone; the panels may lie behind it, the number may not.
        number: the figure's number; None takes any.

    Returns:
        Letters as written, a range spelled out, joined by commas ("A,B,C"); None where none is named.
    """
    listed = [
        match["letters"]
        for found in _NUMBER.finditer(text, 0, link)
        if (match := _PANELS.match(text, found.start())) is not None
        and (number is None or int(match["number"]) == number)
        and _believable(text, match)
    ]
    if alone := _ALONE.fullmatch(text, 0, link):
        listed.append(alone[1])
    return ",".join(dict.fromkeys(panel for letters in listed for panel in _spelled_out(letters))) or None


def _believable(text: str, match: re.Match[str]) -> bool:
    """Whether the letters are panels: "2(a" must close its bracket, "2 a" must not go on as a sentence."""
    rest = text[match.end() :]
    if match["open"]:
        return rest[:1] in (")", "]", ",") or match["letters"].endswith(")")
    if match["space"] and match["letters"] in _WORDS_OF_ONE_LETTER:
        return not rest or rest[0] in ",;:.)]"
    return True


def _spelled_out(listed: str) -> list[str]:
    """``A–C and 5E`` as A, B, C, E; stops where the letters stop to rise, which is where prose begins."""
    if len(listed) == 1:
        return [listed]
    tokens = _SEPARATOR.split(_NUMBER_AGAIN.sub("", listed))
    letters = [tokens[0].strip("() ")]
    for separator, token in zip(tokens[1::2], tokens[2::2], strict=True):
        before, panel = letters[-1], token.strip("() ")
        if panel[:1].isupper() != before[:1].isupper() or panel <= before:
            break
        if panel == "I" and before < "F":
            break
        if _TO.fullmatch(separator) and len(panel) == len(before) == 1:
            letters += [chr(code) for code in range(ord(before) + 1, ord(panel))]
        letters.append(panel)
    return letters


@dataclass(frozen=True, slots=True)
class Plain:
    """Figures that words cite without the help of a link: "Figs. 2A and 4", "Supplementary Fig. 3"."""

    place: int
    """Where the first number stands."""
    first: tuple[str, int]
    """Series and number of the first figure; the others are of its series."""
    numbers: list[tuple[int, int]]
    """Every figure's number, and where the words that name it stand."""


_ONE = rf"\d{{1,2}}(?:\s?\(?[A-Za-z](?:\s?(?:[,/&]|{DASH}|and)\s?[A-Za-z](?![A-Za-z\d]))*(?![A-Za-z\d])\)?)?"
_NEXT = (
    rf"(?:\s?(?:,\s?(?:and\s)?|;\s?|&\s?|and\s|(?:{DASH}\s?|to\s|through\s)(?:[Ff]ig(?:ure)?s?\.?\s?)?)[A-Z]?{_ONE})"
)
_CITED = re.compile(
    rf"ig(?:ure|ura)?(?P<many>s)?\.?\s?(?P<series>[A-Z]?)(?P<list>{_ONE}{_NEXT}*)(?!\d|[.,]\d|\s?%|\s?[mkµμn]?[mglL]\b)"
)  # begins with letters that are always there, which makes the search fast
_SUPPLEMENT_OF = re.compile(rf"{DASH}\s?[Ff]igure supplements?\s(?P<number>\d{{1,2}})(?!\d)")
_PART_OF = re.compile(rf"\s?{DASH}\s?[Ff]igure|\s?{DASH}\s?[Ss]ource|\s?{DASH}\s?[Vv]ideo|\s?{DASH}\s?[Aa]nim")
_QUALIFIED = re.compile(
    r"(?:suppl?(?:ement(?:ary|al))?\.?|supporting(?: information)?|online|extended data|appendix)\s$", re.I
)
_SOMEBODY_ELSES = re.compile(r"\b(?:their|his|her|whose)\s$")
_OF_ANOTHER = re.compile(
    r"[A-Za-z,\s)]{0,8}\b(?:in|of|from|by)\s(?:the\s)?(?:\[|\(?\d|\(?[Rr]ef|S\d|[Ss]uppl|[Aa]dditional|[Aa]ppendix|"
    r"[Oo]nline|original|accompanying|companion|previous|earlier|[A-Z][\w'’-]+,?\s(?:et\sal|and\s[A-Z]|&|\(|\[))"
)


def plain(text: str, links: Sequence[tuple[int, int]] = ()) -> Iterator[Plain]:
    """Figures cited in running text; what cites another article or a supplement file is left out.

    Of "Fig. 2, 10 mm" only 2 is believed; "Figs. 2, 4" and "Fig. 2–4" are lists.

    Args:
        text: the words.
        links: start and end of every link, in order; what names no number outside of them is left out.
    """
    ahead = 0  # links that end before the match
    for match in _CITED.finditer(text):
        start = match.start() - 1
        if start < 0 or text[start] not in "Ff" or text[max(0, start - 1) : start].isalnum():
            continue
        while ahead < len(links) and links[ahead][1] <= match.start("list"):
            ahead += 1
        inside = ahead < len(links) and links[ahead][0] <= match.start("list")
        if inside and not _NUMBER.search(text, links[ahead][1], match.end()):
            continue
        before, behind = text[max(0, start - 24) : start], text[match.end() : match.end() + 48]
        if _SOMEBODY_ELSES.search(before) or _OF_ANOTHER.match(behind):
            continue
        place = match.start("list")
        number = int(_NUMBER.match(text, place)[0])  # type: ignore[index]  # the list begins with a number
        if supplement := _SUPPLEMENT_OF.match(behind):
            number = int(supplement["number"])
            place = match.end() + supplement.start("number")
            words, numbers = text[match.start() : match.end() + supplement.end()], [(number, place)]
        elif _PART_OF.match(behind):
            continue
        else:
            qualifier = _QUALIFIED.search(before)
            words = f"{qualifier[0] if qualifier else ''}f{text[match.start() : place]}{number}"
            numbers = _listed(match, text)
        first = series_and_number(words)
        if first is not None:
            yield Plain(place, first, numbers)


def _listed(match: re.Match[str], text: str) -> list[tuple[int, int]]:
    """Numbers and places of a list; after a word in the singular, of the first figure or range only."""
    found = [(int(one[0]), one.start()) for one in _NUMBER.finditer(text, *match.span("list"))]
    numbers = found[:1]
    for (last, at), (number, place) in itertools.pairwise(found):
        if joins(text[at + len(str(last)) : place]):
            numbers += [(n, place) for n in between(last, number)[1:]]
        elif match["many"]:
            numbers.append((number, place))
        if not match["many"]:
            break
    return numbers


_IN_BYTES = re.compile(rb"Fig(?:ure|ura)?s?\.?(?:\s|\xc2\xa0|&#160;|&#x0*[aA]0;)*[A-Z]?\d")

_BEFORE = frozenset(bytes([byte]) for byte in b" \t\r\n([;,/\xa0")


def plain_in_bytes(data: bytes) -> bool:
    """Whether a file of XML may cite a figure without a link; a look at its bytes, much faster than at its paragraphs.

    What follows a tag is a label or the words of a link, except at the beginning of a paragraph; what follows a
    quotation mark is an id.
    """
    return any(
        data[match.start() - 1 : match.start()] in _BEFORE or data[match.start() - 3 : match.start()] == b"<p>"
        for match in _IN_BYTES.finditer(data)
    )
