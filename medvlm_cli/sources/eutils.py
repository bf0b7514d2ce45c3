"""NCBI's E-utilities: a search of PubMed Central becomes a list of article ids that later updates do not shift.

Source: Entrez Programming Utilities Help (NBK25499); README.txt of the bucket for the filters of licences.
"""

import functools
import json
import logging
import os
import re
from collections.abc import Callable
from typing import Any

from lxml import etree

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.http import FaultyError, Http
from medvlm_cli.core.pace import Rate
from medvlm_cli.sources.text import clean

PAGE = 10_000
"""Most ids that one answer holds."""
MAX_BYTES = 32 << 20

_LICENSES = {
    "commercial": "(cc0_license[Filter] OR cc_by_license[Filter] OR cc_by-sa_license[Filter] OR "
    "cc_by-nd_license[Filter]) AND open_access[Filter]",
    "noncommercial": "open_access[Filter]",
    "all": "(open_access[Filter] OR author_manuscript[Filter])",
}
PAPER = {
    "chest_xray": ("chest x-ray", "chest radiograph", "chest radiography"),
    "ct": ("computed tomography", "CT scan"),
    "mri": ("magnetic resonance imaging", "MRI"),
    "histology": ("histopathology", "histopathological", "hematoxylin and eosin"),
    "gross": ("gross pathology", "surgical specimen", "macroscopic examination"),
}
"""The five modalities of the paper, in words that titles and abstracts of articles with such figures hold."""

_UNKNOWN = {"fieldsnotfound": "FieldNotFound", "phrasesnotfound": "PhraseNotFound"}
"""What NCBI says that it does not know: keys in JSON, tags in XML."""
_OUT_OF_ORDER = re.compile("search backend failed|address table is empty", re.I)
"""Errors that NCBI's search gives when it is out of order itself; the same search works later."""

log = logging.getLogger(__name__)


@functools.cache
def _rate(per_second: int) -> Rate:
    """One for the process: NCBI counts what comes from an address, whichever search of ours asks."""
    return Rate(per_second)


def terms(query: str, license_: str) -> dict[str, str]:
    """The searches that a selection is made of, by a name: that of the user, or one for each of the paper's modalities.

    Args:
        query: the user's own; empty for the paper's modalities.
        license_: commercial, noncommercial or all; becomes a filter, so that little is fetched in vain.
    """
    rights = f"{_LICENSES[license_]} NOT pmc_embargo[Filter]"
    if query:
        return {"query": f"({query}) AND {rights}"}
    fields = {
        name: " OR ".join(f'"{phrase}"[{field}]' for phrase in phrases for field in ("Title", "Abstract"))
        for name, phrases in PAPER.items()
    }
    return {name: f"({words}) AND {rights}" for name, words in fields.items()}


class Search:
    """Searches of one client, never more often than NCBI allows: 3 a second, 10 with a key in ``NCBI_API_KEY``.

    Args:
        base: address of the E-utilities.
        http: the client.
    """

    def __init__(self, base: str, http: Http) -> None:
        self._address = f"{base.rstrip('/')}/esearch.fcgi"
        self._http = http
        self._key = os.environ.get("NCBI_API_KEY", "").strip()
        self._rate = _rate(10 if self._key else 3)
        self._common = {"db": "pmc", "retmode": "json", "tool": "medvlm"}
        if self._key:
            self._common["api_key"] = self._key
        if email := os.environ.get("NCBI_EMAIL", ""):
            self._common["email"] = email

    async def count(self, term: str) -> int:
        """How many articles a search finds.

        Raises:
            ConfigError: NCBI does not understand it.
            RemoteError: no answer.
        """
        return int((await self._ask({"term": term, "retmax": "0"}))["count"])

    async def ids(self, term: str, most: int, tell: Callable[[int, int], None]) -> list[str]:
        """Ids ``PMC123`` that a search finds, in NCBI's order.

        The first answer freezes the result on NCBI's history server as set ``#1``; later pages are read from that set,
        and the search itself is not asked again.

        Args:
            term: the search.
            most: how many are wanted; 0 for all.
            tell: told how many are there, and of how many.

        Raises:
            ConfigError: NCBI does not understand it.
            RemoteError: no answer, or a page is missing.
        """
        wanted = {"term": term, "usehistory": "y", "retstart": "0", "retmax": str(min(most or PAGE, PAGE))}
        result = await self._ask(wanted)
        total = int(result["count"])
        total = min(total, most) if most else total
        found: dict[str, None] = dict.fromkeys(_numbers(result))
        given = len(result.get("idlist") or [])
        frozen = {"term": f"#{result.get('querykey', 1)}", "WebEnv": str(result.get("webenv", ""))}
        while len(found) < total:
            tell(len(found), total)
            place = {"retstart": str(given), "retmax": str(min(total - len(found), PAGE))}
            page = await self._ask(wanted | frozen | place)
            before = len(found)
            found |= dict.fromkeys(_numbers(page))
            if len(found) == before:
                raise RemoteError(f"NCBI counts {total:,} articles and gives {before:,}", "try again, or set limit")
            given += len(page["idlist"])
        return list(found)[:total]

    async def _ask(self, params: dict[str, str]) -> dict[str, Any]:
        try:
            body, _ = await self._http.get(
                self._address, limit=MAX_BYTES, params=self._common | params, check=_trouble, rate=self._rate
            )
        except FaultyError as error:
            if error.final and self._key:  # 400 is what a key that is not one is answered with
                raise RemoteError(error.what, "see that NCBI_API_KEY is a key of NCBI, or unset it") from error
            raise
        result = _result(body)
        errors = result.get("errorlist")
        for kind in _UNKNOWN:
            for words in (errors.get(kind) or []) if isinstance(errors, dict) else []:
                log.warning("NCBI does not know the %s %s", kind.removesuffix("snotfound"), clean(str(words))[:200])
        if result.get("error"):
            raise ConfigError(f"NCBI refuses the search: {clean(str(result['error']))[:300]}", "change --query")
        return result


def _trouble(body: bytes) -> str | None:
    try:
        error = clean(str(_result(body).get("error", "")))[:300]
    except (ValueError, RecursionError) as problem:
        return str(problem)
    return error if _OUT_OF_ORDER.search(error) else None


def _result(body: bytes) -> dict[str, Any]:
    """What a search found, with keys in lower case, from JSON or from XML.

    Raises:
        ValueError: neither.
    """
    content = {"esearchresult": _from_xml(body)} if body.lstrip()[:1] == b"<" else json.loads(body)
    told = content.get("esearchresult") if isinstance(content, dict) else None
    if not isinstance(told, dict):
        raise ValueError("not the result of a search")
    result = {str(name).lower(): value for name, value in told.items()}
    count = str(result.get("count", ""))
    counted = count.isascii() and count.isdigit() and isinstance(result.get("idlist"), list)
    if not counted and not result.get("error"):
        raise ValueError("the result of a search without a count and a list of ids")
    return result


def _from_xml(body: bytes) -> dict[str, Any]:
    try:
        root = etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    except etree.XMLSyntaxError as error:
        raise ValueError(f"not XML ({error})") from error
    if root.tag != "eSearchResult":
        raise ValueError(f"<{root.tag}> is not the result of a search")
    result: dict[str, Any] = {child.tag: child.text for child in root.iterfind("*") if not len(child)}
    unknown = {kind: [one.text for one in root.iterfind(f"ErrorList/{tag}")] for kind, tag in _UNKNOWN.items()}
    return result | {"idlist": [one.text for one in root.iterfind("IdList/Id")], "errorlist": unknown}


def _numbers(result: dict[str, Any]) -> list[str]:
    """``PMC123`` for each id; NCBI gives bare numbers."""
    listed = [str(one).upper().removeprefix("PMC") for one in result.get("idlist") or []]
    return [f"PMC{int(number)}" for number in listed if re.fullmatch(r"[0-9]{1,10}", number)]
