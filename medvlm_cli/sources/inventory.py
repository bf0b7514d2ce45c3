"""The bucket's daily inventory: every article version with the time of its last change and the MD5 of its metadata.

One listing, one manifest and a few gzipped CSV files (245 MB in September 2026) instead of a listing an article.
Source: Amazon S3 Inventory; README.txt of the bucket.
"""

import datetime
import gzip
import hashlib
import heapq
import io
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.hosts import shown
from medvlm_cli.core.http import Http, md5_is
from medvlm_cli.sources.bucket import MAX_LIST_BYTES, not_a_list, read_list
from medvlm_cli.sources.ledger import Versions

FOLDER = "inventory-reports/pmc-oa-opendata/metadata/"
MAX_FILE_BYTES = 2 << 30
MAX_RAW_BYTES = 4 << 30
"""What one gzipped file may become; the real ones, five in September 2026, become some 250 MB each."""
_DAY = re.compile(rf"{FOLDER}(\d{{4}}-\d\d-\d\dT\d\d-\d\dZ)/")
_KEY = r"^metadata/(?P<article>PMC[0-9]{1,10})\.(?P<version>[0-9]{1,4})\.json$"
_AT_ONCE = 65536
"""Lines that are Python's objects at a time."""
_NEEDED = ("Key", "LastModifiedDate", "ETag")


async def select(
    base: str, http: Http, since: str, limit: int, tell: Callable[[int, int], None]
) -> tuple[dict[str, Versions], str]:
    """Articles of the newest inventory, each with its versions.

    Eight million lines stay in Arrow, at some 60 bytes each; only the articles that are chosen become objects.

    Args:
        base: address of the bucket.
        http: the client.
        since: a day; only articles of which something changed then or later, with all of their versions.  Empty: all.
        limit: most articles, those with the smallest hash: a fair sample, and always the same.  0: all.
        tell: told how many files are read, and of how many.

    Returns:
        Versions by article, and the day of the inventory.

    Raises:
        ConfigError: ``since`` is no day.
        RemoteError: there is no inventory, or it is not what its manifest says.
    """
    start = moment(since)
    day = await _newest(base, http)
    where = f"{base}/{FOLDER}{day}/manifest.json"
    body, _ = await http.get(where, limit=MAX_LIST_BYTES, check=_not_json)
    columns, files = _described(json.loads(body), shown(where))
    tables = []
    for number, (key, md5) in enumerate(files):
        tell(number, len(files))
        raw, _ = await http.get(f"{base}/{quote(key)}", limit=MAX_FILE_BYTES, check=md5_is(md5) if md5 else None)
        tables.append(_rows(raw, columns, key, start))
    return _chosen(pa.concat_tables(tables), limit), day


def _chosen(table: pa.Table, limit: int) -> dict[str, Versions]:
    """The versions of at most ``limit`` articles of which a line says that they changed."""
    articles = table.filter(table["changed"])["article"].unique()
    if limit and len(articles) > limit:
        pieces = (articles.slice(start, _AT_ONCE).to_pylist() for start in range(0, len(articles), _AT_ONCE))
        each = (article for piece in pieces for article in piece)
        chosen = heapq.nsmallest(limit, each, key=lambda article: hashlib.sha256(article.encode()).digest())
        articles = pa.array(chosen, pa.string())
    found: dict[str, dict[int, str | None]] = defaultdict(dict)
    for batch in table.filter(pc.is_in(table["article"], articles)).to_batches(_AT_ONCE):
        names, numbers, digests = (batch.column(name).to_pylist() for name in ("article", "version", "md5"))
        for article, version, md5 in zip(names, numbers, digests, strict=True):
            found[article][version] = md5
    return {article: sorted(found[article].items()) for article in sorted(found)}


def _described(manifest: dict[str, Any], where: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Columns of an inventory's files, and key and MD5 of each file.

    Raises:
        RemoteError: the manifest does not say.
    """
    columns = [name.strip() for name in str(manifest.get("fileSchema", "")).split(",")]
    files = manifest.get("files")
    told = isinstance(files, list) and all(isinstance(one, dict) and one.get("key") for one in files)
    if not isinstance(files, list) or not told or not set(_NEEDED) <= set(columns):
        raise RemoteError(f"{where}: no manifest of an inventory with {', '.join(_NEEDED)}")
    return columns, [(str(one["key"]), str(one.get("MD5checksum") or "")) for one in files]


def moment(since: str) -> datetime.datetime | None:
    """The moment at which a day or a time begins, in UTC unless it says otherwise; None for an empty text.

    Raises:
        ConfigError: it is neither.
    """
    if not since:
        return None
    found = _time(since)
    if found is None:
        raise ConfigError(f"--since {since}: not a day", "give it as 2026-11-01")
    return found


async def _newest(base: str, http: Http) -> str:
    params = {"list-type": "2", "prefix": FOLDER, "delimiter": "/"}
    body, _ = await http.get(f"{base}/", limit=MAX_LIST_BYTES, params=params, check=not_a_list)
    days = [match[1] for key, _ in read_list(body)[0] if (match := _DAY.fullmatch(key))]
    if not days:
        raise RemoteError(f"{shown(base)}/{FOLDER} holds no inventory", "select with --query or --pmcids")
    return max(days)


def _not_json(body: bytes) -> str | None:
    try:
        return None if isinstance(json.loads(body), dict) else "not a JSON object"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"


def _rows(raw: bytes, columns: list[str], key: str, start: datetime.datetime | None) -> pa.Table:
    """Article, version, MD5 of the metadata, and whether it changed since ``start``, of every line about an article."""
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            text = file.read(MAX_RAW_BYTES + 1)
        if len(text) > MAX_RAW_BYTES:
            raise RemoteError(f"{key}: over the limit of {MAX_RAW_BYTES:,} bytes once it is decompressed")
        options = pyarrow.csv.ReadOptions(column_names=columns)
        types = pyarrow.csv.ConvertOptions(
            include_columns=list(_NEEDED), column_types=dict.fromkeys(_NEEDED, pa.string())
        )
        empty = pa.schema([(name, pa.string()) for name in _NEEDED]).empty_table()
        source = pa.BufferReader(text)
        table = pyarrow.csv.read_csv(source, read_options=options, convert_options=types) if text else empty
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise RemoteError(f"{key}: not a file of an inventory ({error})") from error
    parts = pc.extract_regex(table["Key"], _KEY)
    table = table.append_column("parts", parts).filter(pc.is_valid(parts))
    etag = pc.utf8_lower(pc.utf8_trim(table["ETag"], characters='"'))
    return pa.table(
        {
            "article": pc.struct_field(table["parts"], "article"),
            "version": pc.cast(pc.struct_field(table["parts"], "version"), pa.int32()),
            "md5": pc.if_else(pc.match_substring_regex(etag, "^[0-9a-f]{32}$"), etag, pa.scalar(None, pa.string())),
            "changed": _changed(table["LastModifiedDate"], start),
        }
    )


def _changed(modified: pa.ChunkedArray, start: datetime.datetime | None) -> pa.Array:
    """Whether each time is ``start`` or later; of what is no time, False."""
    if start is None:
        return pa.repeat(True, len(modified))
    times = (_time(text) for chunk in modified.chunks for text in chunk.to_pylist())
    return pa.array([time is not None and time >= start for time in times], pa.bool_())


def _time(text: str | None) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
