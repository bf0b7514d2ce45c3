"""Before a cent is spent: which figures there are, whom each goes to, and which cannot or need not be asked about."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_cli.core.arrow import Reject
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.teachers import mix
from medvlm_cli.teachers.asks import Composer, Family
from medvlm_cli.teachers.ledger import Ask

MEANINGS = {
    "no_caption_text": "the caption holds no words to write about",
    "duplicate_source": "another figure has the same caption and is cited by the same sentences",
    "contaminated_source": "the caption shares thirteen words in a row with a benchmark's questions",
}


@dataclass(frozen=True)
class Surveyed:
    """What was found; without the words, so that a million figures fit into memory."""

    teacher: dict[str, str]
    """Figure id -> the teacher that the mix gives it to, rejects included."""
    modality: dict[str, str]
    """Figure id -> modality."""
    rejects: dict[str, Reject]
    chars: Counter[str] = field(default_factory=Counter)
    """Characters of the user's messages, by teacher."""
    rows: Counter[str] = field(default_factory=Counter)
    """Requests, by teacher."""


def chosen(figures: Iterable[tuple[str, str]], config: SynthesizeConfig) -> list[tuple[str, str]]:
    """Ids and modalities of the figures to write about: with ``limit`` those of the smallest hashes."""
    everything = sorted(figures)
    if not config.limit or len(everything) <= config.limit:
        return everything
    return sorted(sorted(everything, key=lambda figure: _digest("limit", figure[0]))[: config.limit])


def shares_of(config: SynthesizeConfig) -> dict[str, float]:
    """Percent of each teacher: the mix, or all for the one that was named.

    Raises:
        ConfigError: the mix is none.
    """
    if config.teacher in mix.TEACHERS:
        return {config.teacher: 100.0}
    return mix.parse(config.mix)


def survey(
    figures: Sequence[tuple[str, str]],
    rows: Iterable[Mapping[str, Any]],
    config: SynthesizeConfig,
    composer: Composer,
    hit: Callable[[str], str | None],
    take: Callable[[Ask], None],
    families: Mapping[str, Family],
) -> Surveyed:
    """Go over the figures once: divide them among the teachers and make their requests.

    Args:
        figures: ids and modalities of those to write about.
        rows: rows of figures/1 with their words, in any order; others than ``figures`` are passed over.
        config: the mix and its mode.
        composer: makes the requests.
        hit: names the benchmark that a text has words of, or None.
        take: is given every request.
        families: teachers by name.
    """
    shares = shares_of(config)
    found = Surveyed(mix.divide(figures, shares, config.seed, config.mix_mode), dict(figures), {})
    first: dict[bytes, str] = {}
    asks: dict[str, tuple[Ask, int]] = {}
    for row in rows:
        figure_id = row["figure_id"]
        if figure_id not in found.modality:
            continue
        if reject := _unfit(row, hit):
            found.rejects[figure_id] = reject
            continue
        source = hashlib.sha256(_words(row).encode("utf-8", "backslashreplace")).digest()[:16]
        user = composer.user(row)
        asks[figure_id] = composer.ask_of(families[found.teacher[figure_id]], figure_id, user, "teach"), len(user)
        other = first.setdefault(source, figure_id)
        if other != figure_id:  # the one whose id has the smallest hash stays, in whatever order they come
            keep, drop = sorted((other, figure_id), key=lambda one: _digest("source", one))
            first[source] = keep
            asks.pop(drop)
            message = f"{keep} has the same caption and the same sentences"
            found.rejects[drop] = Reject(drop, "duplicate_source", message, row["caption"])
    for ask, chars in asks.values():
        take(ask)
        found.chars[ask.teacher] += chars
        found.rows[ask.teacher] += 1
    return found


def dumped(found: Surveyed) -> str:
    """What a later process of the same run needs of a survey, as JSON; teachers and modalities it finds anew."""
    rejects = [[one.id, one.reason, one.message, one.raw] for one in found.rejects.values()]
    return json.dumps({"rejects": rejects, "chars": found.chars, "rows": found.rows}, ensure_ascii=True)


def loaded(text: str, figures: Sequence[tuple[str, str]], config: SynthesizeConfig) -> Surveyed:
    """A survey from ``dumped``; arguments as ``survey``."""
    told = json.loads(text)
    return Surveyed(
        mix.divide(figures, shares_of(config), config.seed, config.mix_mode),
        dict(figures),
        {one[0]: Reject(*one) for one in told["rejects"]},
        Counter(told["chars"]),
        Counter(told["rows"]),
    )


def _unfit(row: Mapping[str, Any], hit: Callable[[str], str | None]) -> Reject | None:
    figure_id, caption = row["figure_id"], row["caption"]
    if not re.search(r"[^\W\d_]{2,}", caption):
        return Reject(figure_id, "no_caption_text", MEANINGS["no_caption_text"], caption)
    if benchmark := hit(caption):
        return Reject(figure_id, "contaminated_source", f"thirteen words in a row are in {benchmark}", caption)
    return None


def _words(row: Mapping[str, Any]) -> str:
    parts = [row["caption"], *(mention["text"] for mention in row["mentions"])]
    return "\0".join(" ".join(part.split()).casefold() for part in parts)


def _digest(purpose: str, figure_id: str) -> bytes:
    return hashlib.sha256(f"medvlm/{purpose}/v1\0{figure_id}".encode("utf-8", "surrogatepass")).digest()
