"""``fetch pmc`` from a bucket of which one answer in five is wrong: nothing bad is kept, nothing good is lost."""

import dataclasses
import functools
import http.server
import re
import threading

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import LaterError, RemoteError
from medvlm_cli.core.pace import Patience
from medvlm_cli.core.schemas import ARTICLE_FIGURES
from medvlm_cli.sources import retrieval
from medvlm_cli.stages.fetch import fetch
from tests.bucket import FAULTS, serving
from tests.corpus import Article, objects_of, write

ARTICLES = [Article(number) for number in range(1, 61)]


def quick(**more):
    """Pauses and windows of a tenth: the faults are the same, the test is shorter."""
    settings = {"first_pause": 0.02, "longest_pause": 0.2, "window": 0.4, "window_bytes": 512} | more
    return lambda **stated: dataclasses.replace(Patience(**stated), **settings)


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(retrieval, "Patience", quick())


def rows(tmp_path, name, server, articles=ARTICLES):
    (tmp_path / "ids.txt").write_text("\n".join(article.id for article in articles))
    config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=10)
    fetch("pmc", tmp_path / name, config, lambda *_: None)
    found = open_dataset(tmp_path / name, ARTICLE_FIGURES)
    assert list(found.rejects()) == []
    return sorted(found.rows(), key=lambda row: row["figure_id"])


def happened(server):
    """What the bucket did; without the objects that never were, to which a listing with a flipped version leads."""
    return {what for _, _, what in server.log} - {"404"}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_object_is_stored_whole_whatever_goes_wrong_on_the_way(tmp_path, hasty, seed):
    with serving(objects_of(ARTICLES)) as server:
        clean = rows(tmp_path, "clean", server)
    with serving(objects_of(ARTICLES), faults=0.2, seed=seed) as server:
        faulty = rows(tmp_path, "faulty", server)
        assert happened(server) == {"ok", *FAULTS}
    assert faulty == clean
    assert len(clean) == 180
    images = {key.rpartition("/")[2]: body for key, body in objects_of(ARTICLES).items() if key.endswith(".jpg")}
    assert {row["image"]["path"].rpartition("/")[2]: row["image"]["bytes"] for row in faulty} == images


@pytest.mark.slow
def test_of_five_thousand_objects_and_faults_in_three_of_ten_requests_all_are_stored_by_half_as_many_requests_again(
    tmp_path, hasty
):
    articles = [Article(number, size=(16, 16)) for number in range(1, 841)]
    objects = objects_of(articles)
    with serving(objects) as server:
        clean = rows(tmp_path, "clean", server, articles)
        needed = len(server.log)
        assert len({key for key in server.asked() if key in objects}) >= 4200
    with serving(objects, faults=0.3, seed=5) as server:
        assert rows(tmp_path, "faulty", server, articles) == clean
        assert happened(server) == {"ok", *FAULTS}
        assert len(server.log) <= 1.5 * needed
    assert len(objects) >= 5000 and len(clean) == 3 * 840


def test_an_object_that_is_always_wrong_is_a_reject_and_the_run_goes_on(tmp_path, hasty):
    objects = objects_of(ARTICLES)
    objects["PMC7.1/a7-g2.jpg"] = b"<html>Sorry</html>"
    objects["PMC8.1/PMC8.1.xml"] = objects["PMC8.1/PMC8.1.xml"].replace(b"Article", b"article")
    objects["PMC9.1/a9-g1.jpg"] = b""
    del objects["PMC10.1/a10-g3.jpg"]
    (tmp_path / "ids.txt").write_text("\n".join(article.id for article in ARTICLES) + "\nPMC999\n")
    with serving(objects) as server:
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=3)
        summary = fetch("pmc", tmp_path / "out", config, lambda *_: None)
    rejects = {reject["id"]: reject["reason"] for reject in open_dataset(tmp_path / "out", ARTICLE_FIGURES).rejects()}
    assert rejects == {
        "PMC7/f2": "corrupt_image", "PMC8": "unreadable_article", "PMC9/f1": "corrupt_image",
        "PMC10/f3": "missing_image", "PMC999": "unavailable",
    }  # fmt: skip
    assert summary["rows"] == 180 - 3 - 3
    assert summary["retry"] == 1


def test_metadata_whose_md5_is_wrong_is_asked_for_again(tmp_path, hasty):
    objects = Article(1).objects()
    described = objects["metadata/PMC1.1.json"]
    served = iter([re.sub(rb"md5=..", b"md5=00", described)])  # as after an update in the midst of a fetch
    (tmp_path / "ids.txt").write_text("PMC1.1")  # with its version there is no listing, which would tell an ETag
    with serving(objects) as server:
        find = server._find
        server._find = lambda target: (
            (200, next(served, described), {}) if target == "/metadata/PMC1.1.json" else find(target)
        )
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=2)
        summary = fetch("pmc", tmp_path / "out", config, lambda *_: None)
        asked = [path for _, path, _ in server.log]
    assert (summary["rows"], summary["rejected"]) == (3, 0)
    assert asked.count("/metadata/PMC1.1.json") == 2


def test_a_bucket_that_refuses_ends_the_run_resumable_and_leaves_no_dataset(tmp_path, hasty):
    (tmp_path / "ids.txt").write_text("\n".join(article.id for article in ARTICLES))
    with serving({}) as server:
        server._find = lambda target: (403, b"", {})
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=2)
        with pytest.raises(RemoteError, match="403"):
            fetch("pmc", tmp_path / "out", config, lambda *_: None)
        assert not (tmp_path / "out/manifest.json").exists()
        del server._find
        server.objects = objects_of(ARTICLES)
        assert fetch("pmc", tmp_path / "out", config, lambda *_: None)["rows"] == 180


def without(server, *parts):
    """Fail whatever request has one of these in its path."""
    find = server._find
    server._find = lambda target: (503, b"", {}) if any(part in target for part in parts) else find(target)


@pytest.mark.parametrize("part", ["a7-g2.jpg", "PMC7.1.xml", "metadata/PMC7.1.json", "prefix=metadata/PMC7."])
def test_what_fails_just_now_is_asked_for_again_by_the_next_run_and_nothing_else_is(tmp_path, hasty, part):
    (tmp_path / "ids.txt").write_text("\n".join(article.id for article in ARTICLES))
    with serving(objects_of(ARTICLES)) as server:
        without(server, part)
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=2)
        with pytest.raises(LaterError, match="of 1 articles something could not be had just now") as caught:
            fetch("pmc", tmp_path / "out", config, lambda *_: None)
        assert caught.value.exit_code == 3
        assert not (tmp_path / "out/manifest.json").exists()
        had = set(server.asked())
        del server._find
        server.log.clear()
        assert fetch("pmc", tmp_path / "out", config, lambda *_: None)["rows"] == 180
    assert had.isdisjoint(server.asked())


def test_what_fails_in_a_second_run_too_is_given_up(tmp_path, hasty):
    (tmp_path / "ids.txt").write_text("\n".join(article.id for article in ARTICLES))
    with serving(objects_of(ARTICLES)) as server:
        without(server, "a7-g2.jpg")
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=2)
        with pytest.raises(LaterError):
            fetch("pmc", tmp_path / "out", config, lambda *_: None)
        summary = fetch("pmc", tmp_path / "out", config, lambda *_: None)
    assert (summary["rows"], summary["reasons"], summary["retry"]) == (179, {"unavailable": 1}, 1)
    assert not list((tmp_path / ".out.state/ledger").rglob("*.log"))


def test_a_bucket_that_lists_is_there_though_all_that_is_left_to_ask_for_fails(tmp_path, monkeypatch):
    """More failures in a row, and for longer, than of a bucket that is gone: and yet they are given up."""
    monkeypatch.setattr(retrieval, "Patience", quick(silence=1.0))
    monkeypatch.setattr(retrieval, "PULSE_SECONDS", 0.2)
    (tmp_path / "ids.txt").write_text("\n".join(article.id for article in ARTICLES))
    with serving(objects_of(ARTICLES)) as server:
        without(server, *(f"a{number}-g2.jpg" for number in range(20, 40)))
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=12)
        with pytest.raises(LaterError, match="of 20 articles something could not be had just now"):
            fetch("pmc", tmp_path / "out", config, lambda *_: None)
        summary = fetch("pmc", tmp_path / "out", config, lambda *_: None)
    assert (summary["rows"], summary["reasons"]) == (160, {"unavailable": 20})


def test_a_listing_with_a_flipped_version_is_asked_for_again(tmp_path, hasty):
    (tmp_path / "ids.txt").write_text("PMC1")
    with serving(Article(1).objects()) as server:
        listing = server._list
        wrong = iter([True])
        server._list = lambda query: listing(query).replace(
            b"PMC1.1.", b"PMC1.3." if next(wrong, False) else b"PMC1.1."
        )
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=2)
        summary = fetch("pmc", tmp_path / "out", config, lambda *_: None)
    assert (summary["rows"], summary["rejected"]) == (3, 0)


def test_metadata_is_proved_by_a_listing_also_where_the_first_listing_was_faulty(tmp_path, hasty):
    objects = Article(1).objects()
    stated = objects["metadata/PMC1.1.json"]
    (tmp_path / "ids.txt").write_text("PMC1")
    with serving(objects) as server:
        listing, find = server._list, server._find
        flipped, wrong = iter([True]), iter([stated.replace(b"license_code", b"license_bode")])
        server._list = lambda query: (
            listing(query).replace(b"metadata/", b"metadatc/")
            if query["prefix"] == "metadata/PMC1." and next(flipped, False)
            else listing(query)
        )
        server._find = lambda target: (
            (200, next(wrong, stated), {}) if target == "/metadata/PMC1.1.json" else find(target)
        )
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=server.url, tries=2)
        summary = fetch("pmc", tmp_path / "out", config, lambda *_: None)
    assert stated != stated.replace(b"license_code", b"license_bode")
    assert (summary["rows"], summary["rejected"]) == (3, 0)


def test_a_mirror_that_is_a_plain_web_server_serves_too(tmp_path, hasty):
    versions = [Article(1), Article(2), Article(2, version=2, figures=2), Article(3, version=2)]
    write(tmp_path / "mirror", objects_of(versions))
    (tmp_path / "ids.txt").write_text("PMC1 PMC2 PMC3 PMC4")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        config = FetchConfig(pmcids=str(tmp_path / "ids.txt"), bucket=url, tries=2, connections=4)
        summary = fetch("pmc", tmp_path / "out", config, lambda *_: None)
        server.shutdown()
    figures = open_dataset(tmp_path / "out", ARTICLE_FIGURES)
    versions = {row["article_id"]: row["article_version"] for row in figures.rows(["article_id", "article_version"])}
    assert versions == {"PMC1": 1, "PMC2": 2, "PMC3": 2}
    assert (summary["rows"], summary["reasons"]) == (8, {"unavailable": 1})
