"""Articles of PubMed Central, and JATS articles of any publisher, from local mirrors: one row a figure image.

``found`` counts images: every ``fig`` element counts once, one with several images once for each of them, so that each
``fig`` becomes at least one row or reject.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import ImageTooBigError, UnsafePathError, decode, read_inside
from medvlm_cli.sources import jats, mirror
from medvlm_cli.sources.licenses import UNKNOWN, commercial_ok, kept, spdx
from medvlm_cli.sources.markup import MAX_BYTES
from medvlm_cli.sources.modality import modality, n_panels
from medvlm_cli.sources.text import clean

REASONS = {
    "unreadable_xml": "not well-formed, not JATS, too large, or with a DTD of its own",
    "unreadable_metadata": "the bucket's JSON beside the article is broken",
    "superseded": "of a correction, a retraction, or a retracted article",
    "translation": "the same figure is there in the language of the article",
    "license_excluded": "the licence does not allow the use asked for",
    "missing_caption": "no caption, neither its own nor its group's",
    "no_graphic": "the figure names no full image: a video, a table, a thumbnail only",
    "missing_image": "the image it names is not in the mirror",
    "ambiguous_image": "several files fit the name equally well",
    "unsafe_path": "the name leads out of the mirror",
    "corrupt_image": "truncated, broken, empty, or of a format that is not read",
    "image_too_big": "more pixels or bytes than are decoded",
}
"""Every reason for which a figure is no row."""

_SUPERSEDED = {"correction", "retraction", "corrected-article", "retracted-article"}

_articles = functools.lru_cache(maxsize=2)(mirror.articles)


def keys(config: FetchConfig) -> list[str]:
    """Ids of all articles in ``config.mirror``, sorted: PMC id, else DOI, else mirror and path.

    Raises:
        ConfigError: no mirror is given.
        DataError: a mirror is missing or holds no article.
    """
    _articles.cache_clear()
    mirror.forget()
    return sorted(_articles(config.mirror))


def harvest(key: str, config: FetchConfig) -> Harvest:
    """Rows and rejects of one article.

    Args:
        key: one of ``keys(config)``.
        config: mirrors and the licence asked for.
    """
    place = _articles(config.mirror)[key]
    try:
        articles = jats.parse(read_inside(place.root, place.xml, limit=MAX_BYTES), place.name())
    except DataError as error:
        return Harvest(1, [], [Reject(key, "unreadable_xml", clean(error.what))])
    try:
        metadata = place.metadata()
    except DataError as error:
        count = sum(_units(figure) for article in articles for figure in article.figures)
        rejects = [Reject(f"{key}/{number}", "unreadable_metadata", clean(error.what)) for number in range(count)]
        return Harvest(count, [], rejects)
    rows: list[dict[str, Any]] = []
    rejects = []
    found = 0
    for number, article in enumerate(articles, 1):
        # Several articles in a file: each keeps the file's key in its figures' ids, because keys alone are unique.
        prefix = key if len(articles) == 1 else f"{key}+{article.pmcid or article.doi or ''}~{number}"
        context = _Context.of(prefix, article, metadata, place, config.license)
        for figure in article.figures:
            found += _units(figure)
            _read_figure(figure, context, rows.append, rejects.append)
    return Harvest(found, rows, rejects)


def _units(figure: jats.Figure) -> int:
    return max(1, len(figure.images))


@dataclass(frozen=True, slots=True)
class _Context:
    """What the figures of one article share."""

    prefix: str
    place: mirror.Place
    wanted: str
    superseded: str
    """Why none of the figures is taken; empty where they are."""
    columns: dict[str, Any]

    @classmethod
    def of(cls, prefix: str, article: jats.Article, metadata: dict, place: mirror.Place, wanted: str) -> "_Context":
        retracted = article.retracted or bool(metadata.get("is_retracted"))
        superseded = "the article is retracted" if retracted else ""
        if article.kind in _SUPERSEDED:
            superseded = f"article-type is {article.kind}"
        license_ = article.license
        if metadata:  # decides, where it is there; the XML may add the version
            code = metadata.get("license_code")
            cleared = metadata.get("is_pmc_openaccess") is not False and spdx([code]) != UNKNOWN
            license_ = spdx([code, article.license]) if cleared else UNKNOWN
        url = f"https://doi.org/{article.doi}" if article.doi else None
        if article.pmcid:
            url = f"https://pmc.ncbi.nlm.nih.gov/articles/{article.pmcid}/"
        columns = {
            "source": "pmc",
            "license": license_,
            "retracted": retracted,
            "article_id": article.pmcid or article.doi or prefix,
            "doi": article.doi,
            "title": article.title,
            "url": url,
        }
        return cls(prefix, place, wanted, superseded, columns)


def _read_figure(
    figure: jats.Figure, context: _Context, keep: Callable[[dict], None], reject: Callable[[Reject], None]
) -> None:
    """Hand every image of a figure to ``keep`` as a row, or to ``reject`` with the reason."""
    name = f"{context.prefix}/{figure.id}"
    reason, why = _refusal(figure, context)
    for number in range(1, _units(figure) + 1):
        unit = f"{name}.{number}" if len(figure.images) > 1 else name
        if reason:
            where = f"{context.place.name()}, {figure.id}"
            reject(Reject(unit, reason, clean(f"{where}: {why}"), figure.caption or None))
            continue
        try:
            path, data, image = _largest(figure.images[number - 1], context.place)
        except DataError as error:
            reject(Reject(unit, _reason(error), clean(f"{error.what} (figure {figure.id})"), figure.caption))
            continue
        keep(_row(unit, figure, context) | _image_columns(path, data, image))


def _refusal(figure: jats.Figure, context: _Context) -> tuple[str, str]:
    """The reason code and its words, or two empty strings."""
    if context.superseded:
        return "superseded", context.superseded
    if figure.translation:
        return "translation", REASONS["translation"]
    if not figure.images or not any(figure.images):
        return "no_graphic", REASONS["no_graphic"]
    if not figure.caption:
        return "missing_caption", REASONS["missing_caption"]
    if not kept(context.wanted, context.columns["license"], figure.third_party):
        rights = "somebody else's rights are stated" if figure.third_party else context.columns["license"]
        return "license_excluded", f"{context.wanted} use was asked for, the licence is {rights}"
    return "", ""


def _largest(addresses: list[str], place: mirror.Place) -> tuple[str, bytes, Image.Image]:
    """File name, bytes and pixels of the largest image among alternatives.

    Raises:
        DataError: none of them is there and sound; the first failure counts.
    """
    if not addresses:
        raise mirror.MissError("no_graphic", f"{place.name()}: {REASONS['no_graphic']}")
    best: tuple[str, bytes, Image.Image] | None = None
    first: DataError | None = None
    for address in dict.fromkeys(addresses):
        try:
            path = mirror.find_image(place, address)
            data = read_inside(place.root, path)
            image = decode(data, f"{place.root.name}/{path.relative_to(place.root).as_posix()}")
        except DataError as error:
            first = first or error
            continue
        if best is None or image.width * image.height > best[2].width * best[2].height:
            best = path.name, data, image
    if best is None:
        raise first or DataError(f"{place.name()}: no image")
    return best


def _reason(error: DataError) -> str:
    if isinstance(error, mirror.MissError):
        return error.reason
    if isinstance(error, UnsafePathError):
        return "unsafe_path"
    return "image_too_big" if isinstance(error, ImageTooBigError) else "corrupt_image"


def _row(figure_id: str, figure: jats.Figure, context: _Context) -> dict[str, Any]:
    kind, source = modality(figure.caption, [mention.text for mention in figure.mentions])
    return context.columns | {
        "figure_id": figure_id,
        "caption": figure.caption,
        "label": figure.label,
        "mentions": [{"text": mention.text, "panel": mention.panel} for mention in figure.mentions],
        "modality": kind,
        "modality_source": source,
        "n_panels": n_panels(figure.caption),
        "commercial_ok": commercial_ok(context.columns["license"]) and not figure.third_party,
        "third_party": figure.third_party,
    }


def _image_columns(path: str, data: bytes, image: Image.Image) -> dict[str, Any]:
    return {
        "image": {"bytes": data, "path": clean(path)},
        "image_sha256": hashlib.sha256(data).digest(),
        "width": image.width,
        "height": image.height,
    }
