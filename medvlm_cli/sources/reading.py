"""An article becomes rows of figures/1 and rejects, in two steps: what it says, then what its images are.

``read`` needs the XML and the metadata only and says which images are wanted, so that whoever fetches over a network
fetches no other; ``finish`` decodes those.  Every ``fig`` element is one row or one reject.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.decoding import decode_bounded
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import ImageTooBigError, UnsafePathError
from medvlm_cli.sources import jats
from medvlm_cli.sources.licenses import UNKNOWN, commercial_ok, kept, spdx
from medvlm_cli.sources.looks import looks_like
from medvlm_cli.sources.modality import UNKNOWN as NO_MODALITY
from medvlm_cli.sources.modality import modality, n_panels
from medvlm_cli.sources.panels import n_panels_image
from medvlm_cli.sources.places import MissError, Place, flag
from medvlm_cli.sources.text import clean

_SUPERSEDED = {"correction", "retraction", "corrected-article", "retracted-article"}

Refusal = tuple[str, str]
"""A reason code and its words."""


@dataclass(slots=True)
class Unit:
    """A figure: what becomes a row or a reject."""

    id: str
    figure: jats.Figure
    columns: dict[str, Any]
    """What the article's figures share."""
    modality: tuple[str, str | None]
    images: list[list[str]]
    """The alternatives of each image, as the place names them."""
    misses: list[Refusal]
    """Why further images are not there."""
    refusal: Refusal | None


@dataclass(slots=True)
class Reading:
    """What an article says."""

    key: str
    units: list[Unit] = field(default_factory=list)
    refusal: Refusal | None = None
    """Why nothing of it could be read; then there are no units."""
    rejects: list[Reject] = field(default_factory=list)
    """What was found to be no unit at all, and counts as found."""

    def wanted(self) -> list[str]:
        """The files that ``finish`` will ask for, each once."""
        units = [unit for unit in self.units if unit.refusal is None]
        return list(dict.fromkeys(file for unit in units for files in unit.images for file in files))


def read(key: str, place: Place, config: FetchConfig) -> Reading:
    """Parse an article and decide which of its figures may become rows.

    Args:
        key: the article's id, with which the ids of its figures begin.
        place: where it lies.
        config: licence and modalities asked for.
    """
    try:
        articles = jats.parse(place.xml(), place.name)
    except DataError as error:
        reason = error.reason if isinstance(error, MissError) else "unreadable_article"
        return Reading(key, refusal=(reason, error.what))
    try:
        metadata, broken = place.metadata(), None
    except DataError as error:
        metadata, broken = {}, ("unreadable_article", error.what)
    reading = Reading(key)
    for number, article in enumerate(articles, 1):
        # Several articles in a file: each keeps the file's key in its figures' ids, because keys alone are unique.
        prefix = key if len(articles) == 1 else f"{key}+{article.pmcid or article.doi or ''}~{number}"
        columns = _shared(prefix, article, metadata, place)
        superseded = broken or _superseded(article, columns["retracted"])
        for figure in article.figures:
            kind = modality(figure.caption, [mention.text for mention in figure.mentions], article.keywords)
            refusal = superseded or _refusal(figure, columns["license"], kind[0], config)
            reading.units.append(_unit(f"{prefix}/{figure.id}", figure, columns, kind, refusal, place))
    return reading


def _unit(
    name: str,
    figure: jats.Figure,
    columns: dict[str, Any],
    kind: tuple[str, str | None],
    refusal: Refusal | None,
    place: Place,
) -> Unit:
    """What a figure's images are called where the article lies, and why those that are not there are not."""
    images, misses = [], []
    for addresses in figure.images:
        files, miss = _files(addresses, place)
        if files:
            images.append(files)
        else:
            misses.append(miss)
    return Unit(name, figure, columns, kind, images, misses, refusal or (None if images else misses[0]))


def _files(addresses: list[str], place: Place) -> tuple[list[str], Refusal]:
    """The files of one image's alternatives, and why there are none; the first miss counts."""
    files, miss = [], None
    for address in dict.fromkeys(addresses):
        try:
            files.append(place.find(address))
        except MissError as error:
            miss = miss or (error.reason, error.what)
    return list(dict.fromkeys(files)), miss or ("no_graphic", f"{place.name}: the figure names no full image")


def _shared(prefix: str, article: jats.Article, metadata: dict[str, Any], place: Place) -> dict[str, Any]:
    license_ = article.license
    if metadata:  # decides, where it is there; the XML may add the version
        code = metadata.get("license_code")
        code = code if isinstance(code, str) else None
        cleared = flag(metadata, "is_pmc_openaccess") and spdx([code]) != UNKNOWN
        license_ = spdx([code, article.license]) if cleared else UNKNOWN
    url = f"https://doi.org/{article.doi}" if article.doi else None
    if article.pmcid:
        url = f"https://pmc.ncbi.nlm.nih.gov/articles/{article.pmcid}/"
    return {
        "source": "pmc",
        "license": license_,
        "retracted": article.retracted or flag(metadata, "is_retracted"),
        "article_id": article.pmcid or article.doi or prefix,
        "doi": article.doi,
        "title": article.title,
        "url": url,
        "article_version": place.version,
        "year": article.year,
        "journal": article.journal,
        "authors": article.authors,
        "license_code": clean(str(metadata["license_code"])) if metadata.get("license_code") else None,
    }


def _superseded(article: jats.Article, retracted: bool) -> Refusal | None:
    if article.kind in _SUPERSEDED:
        return "superseded", f"article-type is {article.kind}"
    return ("superseded", "the article is retracted") if retracted else None


def _refusal(figure: jats.Figure, license_: str, kind: str, config: FetchConfig) -> Refusal | None:
    """Why a figure is no row, whatever its image; None where nothing speaks against it."""
    wanted = config.license or "commercial"
    if figure.translation:
        return "translation", "the same figure is there in the language of the article"
    if not any(figure.images):
        return "no_graphic", "the figure names no full image"
    if not figure.caption:
        return "missing_caption", "no caption, neither its own nor its group's"
    if not kept(wanted, license_, figure.third_party):
        rights = "somebody else's rights are stated" if figure.third_party else license_
        return "license_excluded", f"{wanted} use was asked for, the licence is {rights}"
    return _unwanted(kind, config)


def _unwanted(kind: str, config: FetchConfig) -> Refusal | None:
    if config.modality and kind not in config.modality:
        return "modality_excluded", f"{', '.join(config.modality)} was asked for, this is {kind}"
    return None


def finish(reading: Reading, place: Place, config: FetchConfig) -> Harvest:
    """Decode the images that a reading wants, and make its rows and rejects.

    Args:
        reading: of ``read``.
        place: of the same article, its wanted files there.
        config: limits of decoding, and the modalities asked for.
    """
    if reading.refusal is not None:
        reason, what = reading.refusal
        return Harvest(1, [], [Reject(reading.key, reason, clean(what))])
    rows: list[dict[str, Any]] = []
    rejects = list(reading.rejects)
    for unit in reading.units:
        _finish_unit(unit, place, config, rows.append, rejects.append)
    return Harvest(len(reading.units) + len(reading.rejects), rows, rejects)


def _finish_unit(
    unit: Unit, place: Place, config: FetchConfig, keep: Callable[[dict], None], reject: Callable[[Reject], None]
) -> None:
    refusal = unit.refusal
    if refusal is None:
        found, lost = _images(unit, place, config.decode_seconds)
        if found:
            row = _row(unit, found, lost, place)
            refusal = _unwanted(row["modality"], config)  # a picture may refute what keywords promised
            if refusal is None:
                keep(row)
                return
        else:
            refusal = lost[0]
    what = clean(f"{place.name}, {unit.figure.id}: {refusal[1]}")
    reject(Reject(unit.id, refusal[0], what, unit.figure.caption or None))


_Decoded = tuple[str, bytes, Image.Image]
"""File, bytes and pixels."""


def _images(unit: Unit, place: Place, seconds: float) -> tuple[list[_Decoded], list[Refusal]]:
    """The figure's images that are sound, in the order of the article, and why the others are not."""
    found, lost = [], list(unit.misses)
    for files in unit.images:
        try:
            found.append(_largest(files, place, seconds))
        except DataError as error:
            lost.append((_reason(error), error.what))
    return found, lost


def _largest(files: list[str], place: Place, seconds: float) -> _Decoded:
    """The largest image among alternatives.

    Raises:
        DataError: none of them is there and sound; the first failure counts.
    """
    best: _Decoded | None = None
    first: DataError | None = None
    for file in files:
        try:
            data = place.read(file)
            image = decode_bounded(data, place.where(file), seconds)
        except DataError as error:
            first = first or error
            continue
        if best is None or image.width * image.height > best[2].width * best[2].height:
            best = file, data, image
    if best is None:
        raise first or DataError(f"{place.name}: no image")
    return best


def _reason(error: DataError) -> str:
    if isinstance(error, MissError):
        return error.reason
    if isinstance(error, UnsafePathError):
        return "unsafe_path"
    return "image_too_big" if isinstance(error, ImageTooBigError) else "corrupt_image"


def _row(unit: Unit, found: list[_Decoded], lost: list[Refusal], place: Place) -> dict[str, Any]:
    """A row; the first image is the figure's, the others stand beside it."""
    figure = unit.figure
    file, data, image = found[0]
    kind, source = unit.modality
    if source == "keywords" and not looks_like(image, kind):  # keywords speak of the article, not of the figure
        kind, source = NO_MODALITY, None
    told, seen = n_panels(figure.caption), sum(n_panels_image(each) for _, _, each in found)
    key = clean(place.key(file))
    return unit.columns | {
        "figure_id": unit.id,
        "image": {"bytes": data, "path": key},
        "image_sha256": hashlib.sha256(data).digest(),
        "width": image.width,
        "height": image.height,
        "source_key": key,
        "source_md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "more_images": [{"bytes": more, "path": clean(place.key(name))} for name, more, _ in found[1:]],
        "lost_images": [clean(f"{reason}: {what}") for reason, what in lost],
        "caption": figure.caption,
        "label": figure.label,
        "mentions": [{"text": mention.text, "panel": mention.panel} for mention in figure.mentions],
        "modality": kind,
        "modality_source": source,
        "n_panels": told if told > 1 else seen,
        "n_panels_caption": told,
        "n_panels_image": seen,
        "commercial_ok": commercial_ok(unit.columns["license"]) and not figure.third_party,
        "third_party": figure.third_party,
        "in_subarticle": figure.in_subarticle,
    }
