"""The bucket's daily inventory, served on loopback: which articles it names, and what is believed of it."""

import asyncio
import gzip
import json

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.http import Http
from medvlm_cli.core.pace import Patience
from medvlm_cli.core.schemas import ARTICLE_FIGURES, ARTICLES
from medvlm_cli.sources import inventory, selection
from medvlm_cli.stages.fetch import fetch
from tests.bucket import serving
from tests.corpus import Article, md5, objects_of

DAY = "2026-11-20T01-00Z"
SCHEMA = "Bucket, Key, LastModifiedDate, ETag"
OTHER_ORDER = "Bucket, Key, ETag, LastModifiedDate"
TAG = "0123456789abcdef0123456789abcdef"
LATE, EARLY = "2026-11-19T10:00:00.000Z", "2026-01-02T03:04:05.000Z"


def quiet(what, done, total):
    pass


def line(key, etag=TAG, modified=EARLY, schema=SCHEMA):
    """One line of a file of an inventory."""
    values = {"Bucket": "pmc-oa-opendata", "Key": key, "LastModifiedDate": modified, "ETag": etag}
    return ",".join(f'"{values[name.strip()]}"' for name in schema.split(",")) + "\n"


def an_inventory(*files, day=DAY, schema=SCHEMA, **changes):
    """Objects of the inventory of one day, of these files of lines."""
    objects, listed = {}, []
    for number, lines in enumerate(files):
        key = f"inventory-reports/pmc-oa-opendata/metadata/data/{day}-{number}.csv.gz"
        objects[key] = lines if isinstance(lines, bytes) else gzip.compress("".join(lines).encode())
        listed.append({"key": key, "size": len(objects[key]), "MD5checksum": md5(objects[key])})
    manifest = {"sourceBucket": "pmc-oa-opendata", "fileFormat": "CSV", "fileSchema": schema, "files": listed} | changes
    return objects | {f"{inventory.FOLDER}{day}/manifest.json": json.dumps(manifest).encode()}


def select(objects, since="", **options):
    """What the inventory of a bucket of these objects names, and its day."""

    async def run(url):
        async with Http(4, Patience(tries=2, first_pause=0.01)) as http:
            return await inventory.select(url, http, since, 0, lambda done, total: None)

    with serving(objects, **options) as server:
        return asyncio.run(run(server.url))


def test_every_version_of_every_article_comes_with_the_md5_of_its_metadata():
    lines = [line("metadata/PMC2.1.json"), line("metadata/PMC10.2.json", "f" * 32), line("metadata/PMC10.1.json")]
    assert select(an_inventory(lines)) == ({"PMC10": [(1, TAG), (2, "f" * 32)], "PMC2": [(1, TAG)]}, DAY)


def test_the_newest_day_is_read():
    days = [f"2026-11-{day:02}T01-00Z" for day in (9, 21, 20)]
    objects = {}
    for number, day in enumerate(days):
        objects |= an_inventory([line(f"metadata/PMC{number}.1.json")], day=day)
    objects |= {f"{inventory.FOLDER}hive/x": b"", f"{inventory.FOLDER}zzz/manifest.json": b"{}"}
    assert select(objects) == ({"PMC1": [(1, TAG)]}, "2026-11-21T01-00Z")


@pytest.mark.parametrize("schema", [SCHEMA, OTHER_ORDER, "Key,ETag,Size,LastModifiedDate"])
def test_columns_are_where_the_manifest_says(schema):
    values = {"Bucket": "b", "Key": "metadata/PMC1.1.json", "LastModifiedDate": LATE, "ETag": TAG, "Size": "9"}
    text = ",".join(values[name.strip()] for name in schema.split(",")) + "\n"
    assert select(an_inventory([text], schema=schema), since="2026-11-01")[0] == {"PMC1": [(1, TAG)]}


def test_all_files_are_read_and_an_article_may_be_spread_over_them():
    files = [[line("metadata/PMC1.2.json")], [], [line("metadata/PMC1.1.json"), line("metadata/PMC3.1.json")]]
    assert select(an_inventory(*files))[0] == {"PMC1": [(1, TAG), (2, TAG)], "PMC3": [(1, TAG)]}


def test_a_line_that_comes_twice_counts_once():
    files = [[line("metadata/PMC1.1.json")], [line("metadata/PMC1.1.json", f"{TAG}-2")]]
    assert select(an_inventory(*files))[0] == {"PMC1": [(1, None)]}


@pytest.mark.parametrize("etag", [f"{TAG}-2", "", "abc", TAG + "0"])
def test_an_etag_that_is_no_md5_is_not_taken_for_one(etag):
    assert select(an_inventory([line("metadata/PMC1.1.json", etag)]))[0] == {"PMC1": [(1, None)]}


@pytest.mark.parametrize("etag", [TAG.upper(), f'""{TAG}""'])
def test_an_md5_is_known_in_any_spelling(etag):
    assert select(an_inventory([line("metadata/PMC1.1.json", etag)]))[0] == {"PMC1": [(1, TAG)]}


@pytest.mark.parametrize(
    "key",
    ["metadata/PMC1.1.xml", "PMC1.1/PMC1.1.json", "metadata/PMC1.json", "metadata/PMCx.1.json",
     "metadata/PMC1.99999.json", "metadata/../PMC1.1.json", "x/metadata/PMC1.1.json",
     "metadata/PMC1.1.json.bak", "Key", ""],
)  # fmt: skip
def test_rows_of_other_keys_are_passed_over(key):
    assert select(an_inventory([line(key), line("metadata/PMC7.1.json")]))[0] == {"PMC7": [(1, TAG)]}


@pytest.mark.parametrize(
    ("since", "articles"),
    [
        ("", ["PMC1", "PMC2", "PMC3"]),
        ("2026-11-19", ["PMC1", "PMC3"]),
        ("2026-11-19T10:00:00Z", ["PMC1", "PMC3"]),
        ("2026-11-19T12:00:00+02:00", ["PMC1", "PMC3"]),
        ("2026-11-19T10:00:01", ["PMC3"]),
        ("2026-11-20", ["PMC3"]),
        ("2026-11-21", []),
    ],
)
def test_only_what_changed_since_then_is_selected_with_all_its_versions(since, articles):
    lines = [
        line("metadata/PMC1.1.json", modified=EARLY),
        line("metadata/PMC1.2.json", modified=LATE),
        line("metadata/PMC2.1.json", modified="not a time"),
        line("metadata/PMC3.1.json", modified="2026-11-20T00:00:00.000Z"),
    ]
    found, _ = select(an_inventory(lines), since)
    assert list(found) == articles
    assert all(len(versions) == (2 if article == "PMC1" else 1) for article, versions in found.items())


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "01.11.2026", "2026"])
def test_a_day_that_is_none_is_refused_before_anything_is_asked(since):
    with serving({}) as server, pytest.raises(ConfigError, match=f"--since {since}: not a day"):
        selection.check(FetchConfig(inventory=True, since=since, bucket=server.url))
    assert server.log == []


def test_a_file_that_is_not_what_the_manifest_says_is_refused():
    objects = an_inventory([line("metadata/PMC1.1.json")])
    key = next(key for key in objects if key.endswith(".csv.gz"))
    objects[key] = gzip.compress(line("metadata/PMC666.1.json").encode())
    with pytest.raises(RemoteError, match=rf"{DAY}-0.csv.gz: md5 .* was stated"):
        select(objects)


def test_a_file_that_is_damaged_on_the_way_is_got_again():
    lines = [line(f"metadata/PMC{number}.1.json") for number in range(500)]
    with serving(an_inventory(*[lines] * 4), faults=0.3, seed=3, kinds=("flip", "cut", "503")) as server:

        async def run():
            async with Http(4, Patience(tries=9, first_pause=0.01)) as http:
                return await inventory.select(server.url, http, "", 0, lambda done, total: None)

        assert len(asyncio.run(run())[0]) == 500
    assert [what for _, _, what in server.log if what != "ok"] != []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PMC1", "not a file of an inventory"),
        (gzip.compress(b"a,b\n" * 500)[:-9], "not a file of an inventory"),
        (gzip.compress(b"a,b\n"), "not a file of an inventory"),
        (gzip.compress(b"\xff\xfe,\xff,\xff,\xff\n"), "not a file of an inventory"),
        (gzip.compress(b"x" * 2_000_000), "over the limit of 1,000,000 bytes"),
    ],
    ids=["no gzip", "cut", "other columns", "no text", "bomb"],  # or the time in the gzip header names them
)
def test_a_file_that_is_none_is_refused_by_name(monkeypatch, content, message):
    monkeypatch.setattr(inventory, "MAX_RAW_BYTES", 1_000_000)
    with pytest.raises(RemoteError, match=f"{DAY}-0.csv.gz: {message}"):
        select(an_inventory(content))


def test_a_bucket_without_an_inventory_is_told_what_else_to_do():
    with pytest.raises(RemoteError, match="holds no inventory") as caught:
        select({"metadata/PMC1.1.json": b"{}"})
    assert caught.value.fix == "select with --query or --pmcids"


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"{", b"{}", b"[" * 100_000, json.dumps({"files": [], "fileSchema": "Bucket, Key"}).encode(),
     json.dumps({"files": {}, "fileSchema": SCHEMA}).encode(),
     json.dumps({"files": ["x"], "fileSchema": SCHEMA}).encode(),
     json.dumps({"files": [{"MD5checksum": TAG}], "fileSchema": SCHEMA}).encode()],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused_by_name(manifest):
    with pytest.raises(RemoteError, match=f"{DAY}/manifest.json"):
        select({f"{inventory.FOLDER}{DAY}/manifest.json": manifest})


def test_a_limit_takes_a_sample_of_all_years_that_is_the_same_each_time(tmp_path):
    lines = [line(f"metadata/PMC{number}.1.json") for number in range(1, 2001)]
    with serving(an_inventory(lines)) as server:
        config = FetchConfig(bucket=server.url, inventory=True, limit=100)
        one, two = (open_dataset(selection.select(config, tmp_path / name, quiet), ARTICLES).ids for name in "ab")
    assert one == two
    assert len(one) == 100
    halves = sum(int(article[3:]) <= 1000 for article in one)
    assert 35 <= halves <= 65


def test_of_articles_that_an_inventory_named_no_versions_are_asked_for(tmp_path):
    articles = objects_of([Article(1), Article(2, version=3, figures=1)])
    lines = [line(key, md5(body)) for key, body in articles.items() if key.startswith("metadata/")]
    with serving(articles | an_inventory(lines)) as server:
        fetch("pmc", tmp_path / "out", FetchConfig(bucket=server.url, inventory=True), quiet)
    assert len(open_dataset(tmp_path / "out", ARTICLE_FIGURES)) == 4
    listings = [path for _, path, _ in server.log if "list-type" in path]
    assert listings == [f"/?list-type=2&prefix={inventory.FOLDER}&delimiter=/"]


def test_metadata_that_changed_after_the_inventory_is_believed_once_it_comes_twice_alike(tmp_path):
    articles = objects_of([Article(1, figures=1)])
    with serving(articles | an_inventory([line("metadata/PMC1.1.json", "e" * 32)])) as server:
        config = FetchConfig(bucket=server.url, inventory=True, tries=2)
        fetch("pmc", tmp_path / "out", config, quiet)
    assert open_dataset(tmp_path / "out", ARTICLE_FIGURES).ids == ["PMC1/f1"]
    assert server.asked("metadata/PMC1.1.json") == ["metadata/PMC1.1.json"] * 2


@pytest.mark.parametrize("copies", [True, False])
def test_a_version_with_more_digits_than_any_has_ends_no_run(tmp_path, copies):
    objects = objects_of([Article(1, figures=1, version=99_999_999_999), Article(2, figures=1)])
    objects = {key: body for key, body in objects.items() if copies or not key.startswith("metadata/")}
    (tmp_path / "ids.txt").write_text("PMC1 PMC2")
    with serving(objects) as server:
        config = FetchConfig(bucket=server.url, pmcids=str(tmp_path / "ids.txt"), tries=2)
        summary = fetch("pmc", tmp_path / "out", config, quiet)
    assert (summary["rows"], summary["reasons"]) == (1, {"unavailable": 1})
