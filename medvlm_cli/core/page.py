"""What the pages for the eyes share: a page is one file that opens offline, runs nothing and loads nothing.

Everything on a page comes from strangers.  Text is cleaned, cut, and escaped by the template engine; class names and
ids are made here and never of data; an address becomes a link only if it is plain https.
"""

import base64
import hashlib
import heapq
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from PIL import Image

from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import decode
from medvlm_cli.core.summary import UNKNOWN

SIDE = 220
"""Longest side of a thumbnail in pixels."""
WORD, SENTENCE = 200, 600
"""Most characters of what is no running text, and of a sentence."""
_OPTIONS = 12
"""Most values that a filter tells apart; the others are one."""

_SHARED = ("_head.html", "_style.html", "_words.html", "_filters.html")
"""Pieces that the templates include: the policy, the looks with the rules of the filters, the buttons, words."""
_HTTPS = re.compile(
    r"https://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::\d{1,5})?(?:[/?#][a-z0-9._~:/?#@!$&'()*+,;=%\[\]-]*)?",
    re.IGNORECASE | re.ASCII,
)
"""An address without a user's name in it, of the characters that RFC 3986 allows."""
_FOLDERS = re.compile(r"(^|[=,])(?:~|/)\S*/([^/\s]+)/?$")


@dataclass(frozen=True)
class Filter:
    """One group of buttons on the page; ``options`` are (class name, text, cards on the page)."""

    title: str
    name: str
    options: list[tuple[str, str, int]]


def rendered(package: str, template: str, **values: Any) -> str:
    """A page from a template, every value escaped.

    Args:
        package: where the template lies, ``medvlm_cli.core``.
        template: its name; it may include the pieces of this package.
        values: what it shows; ``filters`` are always asked for.
    """
    core = files("medvlm_cli.core")
    environment = Environment(
        loader=DictLoader({name: core.joinpath(name).read_text("utf-8") for name in _SHARED}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(files(package).joinpath(template).read_text("utf-8")).render(**values)


def spread(entries: Iterable[tuple[str, str]], most: int) -> list[int]:
    """Positions of at most ``most`` entries, as evenly over the strata as these allow; the same in every run.

    Args:
        entries: stratum and id of each; of a stratum those whose ids have the smallest hashes are taken.
        most: 1 or more.
    """
    strata: dict[str, list[tuple[int, int]]] = {}  # heaps whose first entry is the largest hash kept
    for position, (stratum, id_) in enumerate(entries):
        heap = strata.setdefault(stratum, [])
        digest = hashlib.sha256(id_.encode()).digest()
        entry = (-int.from_bytes(digest[:8]), position)
        if len(heap) < most:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    chosen: list[int] = []
    rarest_first = sorted(strata.items(), key=lambda stratum: (len(stratum[1]), stratum[0]))
    for number, (_, heap) in enumerate(rarest_first):  # what a rare stratum leaves goes to the commoner ones
        share = (most - len(chosen)) // (len(strata) - number)
        chosen += [position for _, position in sorted(heap, reverse=True)[:share]]
    return sorted(chosen)


def filters(cards: Sequence[dict[str, Any]]) -> list[Filter]:
    """The groups of buttons for these cards; gives each card its ``classes``.

    Args:
        cards: each with ``kinds``: for every group, in the same order, its value there, or a tuple of several.
    """
    groups = []
    for card in cards:
        card["classes"] = []
    for number, title in enumerate(cards[0]["kinds"] if cards else ()):
        kinds = [_values(card["kinds"][title]) for card in cards]
        counts = Counter(value for values in kinds for value in values)
        known = sorted(counts, key=lambda value: (value == UNKNOWN, -counts[value], value))
        kept = known if len(known) <= _OPTIONS else known[: _OPTIONS - 1]
        class_of = {value: f"f{number}-{place}" for place, value in enumerate(kept)}
        options = [(class_of[value], value, counts[value]) for value in kept]
        if others := known[len(kept) :]:
            class_of |= dict.fromkeys(others, f"f{number}-rest")
            within = sum(any(value not in kept for value in values) for values in kinds)
            options.append((f"f{number}-rest", f"{len(others)} others", within))
        for card, values in zip(cards, kinds, strict=True):
            card["classes"] += dict.fromkeys(class_of[value] for value in values)
        groups.append(Filter(title, f"f{number}", options))
    return groups


def _values(kind: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind)) if isinstance(kind, tuple) else (kind,)


def bars(lines: Mapping[str, int], meanings: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines of a table of counts, with bars whose lengths are in per cent of the longest.

    Args:
        lines: counts by value, none of them left out.
        meanings: what a value means, where that is known.
    """
    longest = max(lines.values(), default=1)
    total = sum(lines.values())
    return [
        {
            "value": word(value),
            "meaning": cut(meanings.get(value, ""), WORD),
            "count": count,
            "length": f"{max(0.5, 100 * count / longest):.1f}",
            "share": f"{100 * count / total:.1f} %",
        }
        for value, count in lines.items()
    ]


def thumbnail(data: bytes, name: str) -> dict[str, Any] | None:
    """A small WebP as an address, with its size in pixels; None for what cannot be decoded."""
    try:
        image = decode(data, name)
    except DataError:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=72, method=4)
    address = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return {"address": address, "width": image.width, "height": image.height}


def made(run: Mapping[str, Any]) -> dict[str, str]:
    """Version, command and day of a run; empty what the record does not say.

    Of paths only the last part is shown: whoever is mailed the page need not know where the data lies.

    Args:
        run: ``run.json``, or nothing.
    """
    words = [_FOLDERS.sub(r"\1…/\2", str(argument)) for argument in run.get("argv", [])[1:]]
    return {
        "version": word(run.get("medvlm")),
        "command": cut(" ".join(["medvlm", *words]), SENTENCE) if words else "",
        "day": word(str(run.get("finished", ""))[:10]),
    }


def link(url: str | None) -> tuple[str, str]:
    """An https address in plain ASCII and its host; twice nothing for any other."""
    match = _HTTPS.fullmatch(url) if url and len(url) <= 2000 else None
    return (match[0], match["host"]) if match else ("", "")


def word(value: Any) -> str:
    """Anything as a few words, printable; nothing for None."""
    return "" if value is None else cut(str(value), WORD)


def cut(text: str, most: int) -> str:
    """The beginning of a text, printable, and how much there is of it where something is left out."""
    return clean(text) if len(text) <= most else f"{clean(text[:most])}… [{len(text):,} characters]"
