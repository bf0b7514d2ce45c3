"""Licences of figures: what a publisher or a user wrote becomes an SPDX identifier, or ``unknown``.

Convention: where the version of a Creative Commons licence is nowhere stated, the identifier goes without
(``CC-BY``, which SPDX itself does not list): the terms are known, the version is not.  Ports of a licence to a
country are not told apart.
"""

import re
from collections.abc import Iterable

UNKNOWN = "unknown"

_URL = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/(?P<code>by(?:-(?:nc|nd|sa))*)|publicdomain/(?P<zero>zero))"
    r"(?:/(?P<version>\d\.\d))?",
    re.I,
)
_CODE = re.compile(
    r"(?:(?P<zero>CC[ -]?(?:0|zero))|(?:CC[ -]?)?(?P<code>BY(?:[ -](?:NC|ND|SA))*))(?:[ -]?v?(?P<version>\d\.\d))?",
    re.I,
)
_PROSE = re.compile(
    r"Creative Commons Attribution(?P<code>(?:[ -](?:Non-?Commercial|No-?Deriv\w*|Share-?Alike))*)"
    r"(?: (?:International |Unported )?(?P<version>\d\.\d))?",
    re.I,
)
_CONTENT_TYPE = re.compile(r"cc(?:(?P<zero>0|zero)|(?P<code>by(?:nc|nd|sa)*))license", re.I)


def spdx(texts: Iterable[str | None], prose: str = "") -> str:
    """The licence that several statements about one figure add up to.

    Each statement is an address (``http://creativecommons.org/licenses/by/4.0/``), a code (``CC BY-NC``) or a JATS
    content type (``ccbylicense``).  Where they disagree the most restrictive one counts; a version is taken from any
    statement of the same terms.

    Args:
        texts: the statements.
        prose: words of the publisher, read only where no statement names a licence, and only for "Creative Commons
            Attribution ..." spelled out: old articles say no more.

    Returns:
        ``CC-BY-4.0``, ``CC-BY-NC-ND-4.0``, ``CC0-1.0``, ``CC-BY`` ... or ``unknown``.
    """
    read = [_read(text) for text in texts if text]
    if not any(read) and (match := _PROSE.search(prose)):
        restricted = re.search("non-?commercial", prose, re.I) is not None  # wherever it stands
        read.append((_terms(match["code"] + " NonCommercial" * restricted), match["version"] or ""))
    terms = dict(sorted(statement for statement in read if statement))  # a version sorts after "", and so replaces it
    if not terms:
        return UNKNOWN
    strictest = max(terms, key=lambda code: ("-NC" in code, len(code)))
    version = "1.0" if strictest == "CC0" else terms[strictest]
    return f"{strictest}-{version}" if version else strictest


def _read(text: str) -> tuple[str, str] | None:
    match = _URL.search(text) or _CODE.fullmatch(text.strip()) or _CONTENT_TYPE.fullmatch(text.strip())
    if match is None:
        return None
    if match["zero"]:
        return "CC0", ""
    return _terms(match["code"]), (match.groupdict().get("version") or "")


def _terms(text: str) -> str:
    """``by-nc-nd``, ``BYNC``, ``-NonCommercial-NoDerivs`` ... as ``CC-BY-NC-ND``."""
    marks = {"NC": r"NC|Non-?Commercial", "ND": r"ND|No-?Deriv", "SA": r"SA|Share-?Alike"}
    return "-".join(["CC-BY", *(name for name, pattern in marks.items() if re.search(pattern, text, re.I))])


def commercial_ok(license_: str) -> bool:
    """Whether the licence allows commercial use: CC0, BY, BY-SA and BY-ND do; NC and unknown do not."""
    return license_.startswith("CC0") or (license_.startswith("CC-BY") and "-NC" not in license_)


def kept(wanted: str, license_: str, third_party: bool) -> bool:
    """Whether a figure may stay in a set made for ``wanted``: commercial, noncommercial (any known licence) or all."""
    if wanted == "commercial":
        return commercial_ok(license_) and not third_party
    return wanted == "all" or license_ != UNKNOWN
