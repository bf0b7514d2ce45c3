"""Figures asked for by an article and the name of a file: what a dead list of addresses still says.

Each line of the list is one of four things: ``resolved`` to a file of the article, ``gone``, ``ambiguous``, or of an
article that is there as an author's manuscript only, without its media.
"""

from dataclasses import replace

from medvlm_cli.core.arrow import Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.sources import reading
from medvlm_cli.sources.bucket import BucketPlace
from medvlm_cli.sources.dead_links import Ambiguous, match
from medvlm_cli.sources.places import flag
from medvlm_cli.sources.reading import Reading, Unit
from medvlm_cli.sources.text import clean

REASONS = {
    "gone": "the article, or the file in it, is no longer there",
    "manuscript_only": "of the article only an author's manuscript is there, without images",
    "ambiguous": "several files of the article fit the name equally well",
}
"""What keeps a line from being resolved."""

Asked = list[tuple[str, str]]
"""Id of the figure, and name of its file in the dead archive."""


def resolve(place: BucketPlace, asked: Asked) -> tuple[dict[str, list[str]], list[Reject]]:
    """Which of the article's media each line means.

    Returns:
        Ids of figures by name of the file, and a reject for each line that is not resolved.
    """
    found: dict[str, list[str]] = {}
    rejects = []
    for id_, file in asked:
        name = match(file, place.media) if not place.gone else None
        if isinstance(name, str):
            found.setdefault(name, []).append(id_)
            continue
        if isinstance(name, Ambiguous):
            reason, why = "ambiguous", f"'{file}' may be any of {', '.join(name.names)}"
        elif "xml" in place.lost and not place.gone:
            reason, why = place.lost["xml"]
        elif not place.gone and not place.media and flag(place.stated, "is_manuscript"):
            reason, why = "manuscript_only", f"{place.article} has no media"
        else:
            reason, why = "gone", f"{place.article}: no file '{file}'"
        rejects.append(Reject(id_, reason, clean(why), file))
    return found, rejects


def read(key: str, place: BucketPlace, config: FetchConfig, asked: Asked, source: str) -> Reading:
    """As ``reading.read``, of the figures asked for only, under the ids they were asked for by.

    Args:
        key: the article's id.
        place: where it lies.
        config: licence and modalities asked for.
        asked: the lines of the list that name this article.
        source: what the rows name as theirs.
    """
    found, rejects = resolve(place, asked)
    whole = reading.read(key, place, config) if found else Reading(key)
    units: list[Unit] = []
    for name, ids in found.items():
        unit = next((unit for unit in whole.units if any(name in files for files in unit.images)), None)
        for id_ in ids:
            if unit is None:
                reason, why = whole.refusal or ("missing_caption", f"no figure of {place.article} shows '{name}'")
                rejects.append(Reject(id_, reason, clean(why), name))
                continue
            columns = unit.columns | {"source": source}
            units.append(replace(unit, id=id_, images=[[name]], misses=[], columns=columns))
    return Reading(key, units, rejects=rejects)
