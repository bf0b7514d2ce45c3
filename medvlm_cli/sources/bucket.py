"""PubMed Central's bucket: the article of a selection, whichever version counts, with the images its figures want.

Requests for an article, in this order: its versions (none where an inventory told them), the metadata of the version
that counts, its XML, and of the images only those that a figure wants which may become a row.  Every object but the
metadata has its MD5 in the metadata, and nothing is kept that does not have it; ETags are hints only, because that of
an object uploaded in parts is no MD5.

Source: README.txt of the bucket, 2026.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from lxml import etree

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.http import Check, FaultyError, GoneError, Http, RefusedError, TooBigError, md5_is
from medvlm_cli.core.images import MAX_BYTES as MAX_IMAGE_BYTES
from medvlm_cli.sources.ledger import Ledger, Stored, Versions
from medvlm_cli.sources.markup import MAX_BYTES as MAX_XML_BYTES
from medvlm_cli.sources.places import MissError, as_metadata, flag, names_of, split

BUCKET = "pmc-oa-opendata"
MAX_JSON_BYTES = 8 << 20
MAX_LIST_BYTES = 8 << 20

_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_ADDRESS = re.compile(rf"s3://{BUCKET}/(?P<key>[^?#]*)(?:\?md5=(?P<md5>[0-9a-fA-F]{{32}}))?")
_NUMBER = r"[0-9]{1,4}"
"""Of a version; one with more digits would not fit the column, and ends no run."""
_STATED = re.compile(rf"metadata/(PMC[0-9]+)\.({_NUMBER})\.json")


@dataclass(slots=True)
class BucketPlace:
    """An article fetched from the bucket; see ``places.Place``.  What could not be had says so when it is asked for."""

    article: str
    """``PMC1.2``, or ``PMC1`` where there is no version."""
    stated: dict[str, Any] = field(default_factory=dict)
    """What of the metadata ``reading`` asks for."""
    xml_md5: str | None = None
    media: dict[str, str] = field(default_factory=dict)
    """MD5 of each of the article's media by name; empty where the metadata states none."""
    stored: dict[str, Stored] = field(default_factory=dict)
    """Where each file that was got lies, by name."""
    lost: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Reason and words of what could not be had, by name; ``xml`` for the article itself."""
    gone: bool = False
    """There is no such article."""
    renewed: bool = False
    """Whether the metadata was asked for a second time."""

    @property
    def name(self) -> str:
        """``PMC1.2/PMC1.2.xml``."""
        return f"{self.article}/{self.article}.xml"

    @property
    def version(self) -> int | None:
        """The version in the bucket."""
        return int(self.article.partition(".")[2] or 0) or None

    def xml(self) -> bytes:
        """The XML."""
        if "xml" in self.lost:
            raise MissError(*self.lost["xml"])
        return self.stored[f"{self.article}.xml"].read()

    def metadata(self) -> dict[str, Any]:
        """The JSON."""
        return self.stated

    def find(self, address: str) -> str:
        """The name of one of the media that the metadata lists."""
        return names_of(tuple(self.media)).find(split(address, self.name)[-1], self.name, self.article)

    def read(self, file: str) -> bytes:
        """One of the media."""
        if file in self.lost:
            raise MissError(*self.lost[file])
        return self.stored[file].read()

    def where(self, file: str) -> str:
        """``PMC1.2/fig1.jpg``."""
        return self.key(file)

    def key(self, file: str) -> str:
        """``PMC1.2/fig1.jpg``."""
        return f"{self.article}/{file}"

    def describe(self, stated: Mapping[str, Any]) -> None:
        """Take over the metadata; once an article was called retracted it stays so.

        Raises:
            MissError: the XML that it names is not that of the article.
        """
        retracted = flag(self.stated, "is_retracted") or flag(stated, "is_retracted")
        wanted = ("license_code", "is_pmc_openaccess", "is_manuscript")
        self.stated = {name: stated.get(name) for name in wanted} | {"is_retracted": retracted}
        self.media = _media(stated, self.article)
        if address := stated.get("xml_url"):
            key, self.xml_md5 = _own_key(address, self.article)
            if key != self.name:
                raise MissError("unsafe_path", f"{self.name}: its metadata names {str(address)[:200]!r} as its XML")


class Bucket:
    """What is asked of the bucket, through the ledger: nothing that is there already is asked for again.

    Args:
        base: address of the bucket.
        http: the client.
        ledger: what is there already.
    """

    def __init__(self, base: str, http: Http, ledger: Ledger) -> None:
        self.base = base.rstrip("/")
        self._http = http
        self._ledger = ledger
        self._has_listings = True

    async def place(self, article: str, known: Versions) -> BucketPlace:
        """An article with its XML; of its versions the highest that has media and is no author manuscript, or highest.

        Args:
            article: ``PMC1``.
            known: its versions, where the selection told them.

        Raises:
            CircuitOpenError: the bucket refuses altogether.
        """
        try:
            versions = known or await self._versions(article)
            if not versions:
                return _nothing(article, "unavailable", "the bucket has no such article", gone=True)
            place = await self._chosen(article, versions, known=bool(known))
            await self._verified(place, place.name, MAX_XML_BYTES, lambda: place.xml_md5)
        except GoneError as error:
            return _nothing(article, "unavailable", error.what, gone=True)
        except FaultyError as error:
            return _nothing(article, _fault(error, "unreadable_article"), error.what)
        except MissError as error:
            return _nothing(article, error.reason, error.what)
        return place

    async def probe(self) -> None:
        """Ask for something that is always there, so that a bucket which answers is known from one that does not.

        It also tells a bucket from a mirror that is a plain web server, which has no listings.  It may be asked again:
        what was found to have none is not thought to have some because it was out of order once.
        """
        try:
            await self._listing("metadata/", "", max_keys="1")
        except GoneError:
            self._has_listings = False
        except FaultyError as error:
            self._has_listings = self._has_listings and not error.final

    async def images(self, place: BucketPlace, files: list[str]) -> None:
        """Get media of a place; what cannot be had is noted in ``place.lost``."""
        await asyncio.gather(*(self._image(place, file) for file in files))

    async def _image(self, place: BucketPlace, file: str) -> None:
        try:
            await self._verified(place, place.key(file), MAX_IMAGE_BYTES, lambda: place.media.get(file))
        except GoneError as error:
            place.lost[file] = "missing_image", error.what
        except TooBigError as error:
            place.lost[file] = "image_too_big", error.what
        except FaultyError as error:
            place.lost[file] = _fault(error, "corrupt_image"), error.what

    async def _verified(self, place: BucketPlace, key: str, limit: int, md5: Callable[[], str | None]) -> None:
        """Get an object that has the MD5 which the place's metadata states."""
        stated = md5()
        try:
            found, _ = await self._object(key, limit, stated)
        except FaultyError as error:
            if not error.final or isinstance(error, RefusedError | TooBigError):
                raise
            await self._renew(place)  # it may be the metadata that is wrong, or older than the object
            if md5() == stated:
                raise
            found, _ = await self._object(key, limit, md5())
        place.stored[key.rpartition("/")[2]] = found

    async def _renew(self, place: BucketPlace) -> None:
        """Get the metadata of a place a second time, at most."""
        if place.renewed:
            return
        place.renewed = True
        article, _, number = place.article.partition(".")
        for key in _metadata_keys(place.article):
            self._ledger.drop(key)
        place.describe(await self._stated(article, int(number), None))

    async def _versions(self, article: str, anew: bool = False) -> Versions:
        """The versions of an article, highest last.

        The trailing dot matters: ``PMC123`` begins ``PMC1230`` too.
        """
        found = None if anew else self._ledger.versions(article)
        if found is None and not self._has_listings:
            found = await self._tried(article)
            self._ledger.note_versions(article, found)
        elif found is None:
            keys = await self._listing(f"metadata/{article}.", "")
            matches = [(_STATED.fullmatch(key), etag) for key, etag in keys]
            found = sorted((int(match[2]), etag) for match, etag in matches if match and match[1] == article)
            if not found:  # a mirror may leave the copies under metadata/ out
                folders = await self._listing(f"{article}.", "/")
                numbers = [key.rstrip("/").partition(".")[2] for key, _ in folders if key.endswith("/")]
                found = sorted((int(number), None) for number in numbers if re.fullmatch(_NUMBER, number))
                if found and not anew:  # or the listing was a faulty one, and without its ETags metadata is not proved
                    return await self._versions(article, anew=True)
            self._ledger.note_versions(article, found)
        return found

    async def _tried(self, article: str) -> Versions:
        """The versions of an article where nothing lists them: 1, 2 and so on; the first two may be missing."""
        found: Versions = []
        for number in range(1, 100):
            try:
                await self._stated(article, number, None)
                found.append((number, None))
            except GoneError:
                if found or number == 3:
                    break
        return found

    async def _listing(self, prefix: str, delimiter: str, max_keys: str = "1000") -> list[tuple[str, str | None]]:
        """Keys below a prefix with their ETags, or with a delimiter the folders; one page is enough for an article."""
        params = {"list-type": "2", "prefix": prefix, "max-keys": max_keys} | (
            {"delimiter": delimiter} if delimiter else {}
        )
        body, _ = await self._http.get(f"{self.base}/", limit=MAX_LIST_BYTES, params=params, check=not_a_list)
        return [(key, etag) for key, etag in read_list(body)[0] if key.startswith(prefix)]

    async def _chosen(self, article: str, versions: Versions, known: bool) -> BucketPlace:
        first: BucketPlace | None = None
        trouble: FaultyError | GoneError | None = None
        retracted = False
        for number, etag in reversed(versions):
            try:
                stated = await self._stated(article, number, etag)
            except (GoneError, FaultyError) as error:
                trouble = trouble or error
                continue
            retracted = retracted or flag(stated, "is_retracted")
            place = BucketPlace(f"{article}.{number}", {"is_retracted": retracted})
            place.describe(stated)
            if place.media and not flag(stated, "is_manuscript"):
                return place
            first = first or place
        if first is not None:
            return first
        if isinstance(trouble, GoneError) and not known:  # the listing may have been a faulty one
            again = await self._versions(article, anew=True)
            if again != versions:
                return await self._chosen(article, again, known=True)
        raise trouble or GoneError(f"{article}: no metadata")

    async def _stated(self, article: str, number: int, etag: str | None) -> dict[str, Any]:
        """The metadata of one version, from ``metadata/``, else from beside the article."""
        seen: set[bytes] = set()

        def check(body: bytes) -> str | None:
            """An ETag is a hint: it may be no MD5, or of a faulty listing; what came twice the same is believed."""
            trouble = _not_about(body, article, number)
            if trouble or etag is None or body in seen:
                return trouble
            seen.add(body)
            return md5_is(etag)(body)

        gone: GoneError | None = None
        for key in _metadata_keys(f"{article}.{number}"):
            try:
                return as_metadata((await self._object(key, MAX_JSON_BYTES, None, check))[1], key)
            except GoneError as error:
                gone = error
        raise gone or GoneError(f"{article}.{number}: no metadata")

    async def _object(self, key: str, limit: int, md5: str | None, check: Check | None = None) -> tuple[Stored, bytes]:
        """An object and where it lies, from the ledger or from the bucket; kept once it passes."""
        if self._ledger.is_gone(key):
            raise GoneError(f"{key}: not in the bucket")

        def whole(body: bytes) -> str | None:
            if not body:
                return "an empty body"
            return (check(body) if check else None) or (md5_is(md5)(body) if md5 else None)

        stored = self._ledger.get(key)
        if stored is not None and whole(body := stored.read()) is None:
            return stored, body
        try:
            body, _ = await self._http.get(f"{self.base}/{quote(key)}", limit=limit, check=whole)
        except GoneError:
            self._ledger.gone(key)
            raise
        return self._ledger.put(key, body), body


def _fault(error: FaultyError, reason: str) -> str:
    """``reason`` where the object itself is at fault."""
    return reason if error.final and not isinstance(error, RefusedError) else "unavailable"


def _metadata_keys(name: str) -> tuple[str, str]:
    return f"metadata/{name}.json", f"{name}/{name}.json"


def _nothing(article: str, reason: str, what: str, gone: bool = False) -> BucketPlace:
    return BucketPlace(article, lost={"xml": (reason, f"{article}: {what}")}, gone=gone)


def _media(stated: Mapping[str, Any], folder: str) -> dict[str, str]:
    """The media that the metadata lists right below the article's own folder; anything else is passed over."""
    media = {}
    listed = stated.get("media_urls")
    for address in listed if isinstance(listed, list) else []:
        with contextlib.suppress(MissError):
            key, md5 = _own_key(address, folder)
            media[key.partition("/")[2]] = md5 or ""
    return media


def _own_key(address: Any, folder: str) -> tuple[str, str | None]:
    """Key and MD5 of an ``s3://`` address.

    Raises:
        MissError: ``unsafe_path``: of another bucket, or of no file right below ``folder``.
    """
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    key = unquote(match["key"]) if match else ""
    name = key.removeprefix(f"{folder}/")
    if (
        not match
        or name == key
        or not name
        or "/" in name
        or "\\" in name
        or name in (".", "..")
        or not name.isprintable()
    ):
        raise MissError("unsafe_path", f"{folder}: its metadata names {str(address)[:200]!r}")
    return key, match["md5"]


def _not_about(body: bytes, article: str, number: int) -> str | None:
    """Why a body is not the metadata of this article; None where it is."""
    try:
        stated = as_metadata(body, "the metadata")
    except DataError as error:
        return error.what
    if stated.get("pmcid", article) != article or str(stated.get("version", number)) != str(number):
        return f"the metadata of {stated.get('pmcid')}.{stated.get('version')}"
    return None


def not_a_list(body: bytes) -> str | None:
    """Why a body is no listing; None where it is."""
    try:
        read_list(body)
    except ValueError as error:
        return str(error)
    return None


def read_list(body: bytes) -> tuple[list[tuple[str, str | None]], str | None]:
    """Keys and folders of one page of a listing (ListObjectsV2), each key with its ETag where that may be an MD5.

    Returns:
        The keys and folders, and the token of the next page.

    Raises:
        ValueError: it is no listing.
    """
    try:
        root = etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    except etree.XMLSyntaxError as error:
        raise ValueError(f"not XML ({error})") from error
    if root.tag.rpartition("}")[2] != "ListBucketResult":
        raise ValueError(f"<{root.tag}> is not a listing")
    found: list[tuple[str, str | None]] = []
    for entry in root.iterfind("{*}Contents"):
        etag = (entry.findtext("{*}ETag") or "").strip('"')
        found.append((entry.findtext("{*}Key") or "", etag.lower() if _MD5.fullmatch(etag) else None))
    found += [(entry.findtext("{*}Prefix") or "", None) for entry in root.iterfind("{*}CommonPrefixes")]
    return found, root.findtext("{*}NextContinuationToken")
