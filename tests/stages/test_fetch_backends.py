"""The same articles out of the bucket, a folder and packages become the same rows; nothing else is asked for."""

import asyncio
import re
from collections import Counter

import pytest
from lxml import etree

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.http import CircuitOpenError
from medvlm_cli.core.schemas import ARTICLE_FIGURES
from medvlm_cli.stages.fetch import fetch
from tests.bucket import Bucket, serving
from tests.corpus import BUCKET, LICENSE, Article, objects_of, write
from tests.plugins.articles import article, figure

NC, BY = LICENSE.format("by-nc/4.0"), LICENSE.format("by/4.0")
UNKNOWN_TO_PACKAGES = {"PMC14", "PMC15", "PMC16"}
"""Articles that only the bucket's metadata excludes: it is not in a package."""
NOT_IN_PACKAGES = {"article_version", "license_code", "source_key", "image"}
"""Columns that come from the metadata or from names of the bucket; of ``image`` the bytes are compared."""


def written(number, body, images=1, kind="", rights=BY, **options):
    """An article with a text of its own, and images ``a{number}-g1.jpg`` and so on."""
    one = Article(number, figures=images, **options)
    meta = f'<article-id pub-id-type="pmcid">{one.id}</article-id>{rights}'
    one.xml = article(body, meta, attributes=kind and f'article-type="{kind}"')
    return one


def image(number, n=1):
    return f"a{number}-g{n}.jpg"


def shown(number, n=1):
    """A figure with an image of the article."""
    return figure(n, "<p>Axial CT of the chest.</p>", image=image(number, n))


def astray(number):
    """An article whose metadata lists media elsewhere, which its figures name."""
    own = f"s3://{BUCKET}/PMC{number}.1"
    names = [f"s3://other-bucket/PMC{number}.1/x1.jpg", f"{own}/../x2.jpg", f"{own}/.", "/etc/passwd", 7, None]
    figures = "".join(figure(n, image=href) for n, href in enumerate(["x1.jpg", "x2.jpg", "."], 2))
    one = written(number, shown(number) + figures)
    one.metadata["media_urls"] = [*names, f"s3://{BUCKET}/{one.name}/{image(number)}"]
    return one


def lossy(number):
    """An article of which one image is listed and not there."""
    one = written(number, shown(number) + shown(number, 2), images=2)
    listed = [f"s3://{BUCKET}/{one.name}/{name}" for name in one.images]
    del one.images[image(number, 2)]
    one.metadata["media_urls"] = listed
    return one


def versions(number, newer):
    """Two versions of an article; ``newer``: of the second, its number of images, and what its metadata says."""
    first = written(number, shown(number).replace("Axial", "Earlier axial"))
    return [first, written(number, shown(number), version=2, **newer)]


def whole_corpus():
    """Every article with its versions, in the order in which the bucket counts them."""
    hrefs = ["../a13-g1.jpg", "/etc/passwd.jpg", "a\\b.jpg", "http://[/g.jpg"]
    unsafe = "".join(figure(n, image=href) for n, href in enumerate(hrefs, 2))
    return [
        *(Article(number, figures=number % 5) for number in range(1, 10)),
        *versions(10, {"images": 1}),
        *versions(11, {"images": 0, "is_manuscript": True, "license_code": "TDM"}),
        *versions(12, {"images": 1, "is_manuscript": True}),
        written(13, shown(13) + unsafe),
        written(14, shown(14), license_code="CC BY-NC"),
        written(15, shown(15), is_retracted=True),
        *versions(16, {"images": 0, "is_manuscript": True, "is_retracted": True}),
        written(17, shown(17), rights=NC, license_code="CC BY-NC"),
        written(18, shown(18), kind="retracted-article"),
        written(19, shown(19), kind="correction"),
        written(20, shown(20), images=0, rights="", license_code="TDM", is_manuscript=True),
        lossy(21),
        astray(22),
    ]


CHOSEN = {"PMC10": 2, "PMC11": 1, "PMC12": 1, "PMC16": 1}
"""The version that counts, where there are two."""


def chosen(corpus):
    return [one for one in corpus if CHOSEN.get(one.id, one.version) == one.version]


class Result:
    """Rows by figure and reasons of rejects by figure."""

    def __init__(self, out):
        dataset = open_dataset(out, ARTICLE_FIGURES)
        self.rows = {row["figure_id"]: row for row in dataset.rows()}
        self.rejects = {reject["id"]: reject["reason"] for reject in dataset.rejects()}
        self.count = len(dataset) + len(list(dataset.rejects()))

    def without(self, articles):
        """Rows and rejects of the other articles."""
        return tuple(
            {one: value for one, value in found.items() if one.partition("/")[0] not in articles}
            for found in (self.rows, self.rejects)
        )


def run(out, **settings):
    fetch("pmc", out, FetchConfig(**settings), lambda *_: None)
    return Result(out)


@pytest.fixture(scope="module")
def corpus():
    return whole_corpus()


@pytest.fixture(scope="module")
def bucket(corpus, tmp_path_factory):
    """What came out of the bucket, the server, and every address that was connected to."""
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "ids.txt").write_text("\n".join(sorted({one.id for one in corpus})))
    addresses = []
    connect = asyncio.selector_events.BaseSelectorEventLoop.sock_connect

    async def watched(loop, sock, address):
        addresses.append(tuple(address[:2]))
        return await connect(loop, sock, address)

    with serving(objects_of(corpus)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", watched)
        result = run(folder / "out", bucket=server.url, pmcids=str(folder / "ids.txt"))
    return result, server, addresses


@pytest.fixture(scope="module")
def local(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    return run(folder / "out", mirror=(str(write(folder / "mirror", objects_of(corpus))),))


@pytest.fixture(scope="module")
def packages(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    files = {f"oa/{one.id}.tar.gz": one.package() for one in chosen(corpus)}
    return run(folder / "out", mirror=(str(write(folder / "mirror", files)),))


def test_the_bucket_and_a_folder_of_its_layout_give_the_same_rows_and_rejects(bucket, local):
    assert len(local.rows) > 20
    assert bucket[0].rows == local.rows
    assert bucket[0].rejects == local.rejects


def test_packages_give_the_same_rows_but_for_what_only_the_metadata_knows(local, packages):
    expected, rejected = local.without(UNKNOWN_TO_PACKAGES)
    found, reasons = packages.without(UNKNOWN_TO_PACKAGES)

    def compared(row):
        assert row["article_version"] is row["license_code"] is None or row["source_key"].startswith(row["article_id"])
        kept = {name: value for name, value in row.items() if name not in NOT_IN_PACKAGES}
        return kept | {"bytes": row["image"]["bytes"], "name": row["source_key"].rpartition("/")[2]}

    assert {one: compared(row) for one, row in found.items()} == {one: compared(row) for one, row in expected.items()}
    assert reasons == rejected


def test_what_a_package_cannot_know_is_a_row_there_and_none_elsewhere(local, packages):
    assert {row["article_id"] for row in packages.rows.values()} >= UNKNOWN_TO_PACKAGES
    assert UNKNOWN_TO_PACKAGES.isdisjoint(row["article_id"] for row in local.rows.values())


def test_every_fig_element_is_a_row_or_a_reject(corpus, bucket, local, packages):
    expected = sum(len(list(etree.fromstring(one.xml).iter("fig"))) for one in chosen(corpus))
    assert expected > 30
    assert [bucket[0].count, local.count, packages.count] == [expected] * 3


def test_each_reject_has_its_reason(local):
    assert local.rejects == {
        "PMC13/f2": "unsafe_path", "PMC13/f3": "unsafe_path", "PMC13/f4": "unsafe_path",
        "PMC13/f5": "unsafe_path",
        "PMC14/f1": "license_excluded", "PMC15/f1": "superseded", "PMC16/f1": "superseded",
        "PMC17/f1": "license_excluded", "PMC18/f1": "superseded", "PMC19/f1": "superseded",
        "PMC20/f1": "license_excluded", "PMC21/f2": "missing_image", "PMC22/f2": "missing_image",
        "PMC22/f3": "missing_image", "PMC22/f4": "missing_image",
    }  # fmt: skip


def test_the_version_that_counts_is_the_newest_with_media_that_is_no_author_manuscript(local):
    taken = {row["article_id"]: row["article_version"] for row in local.rows.values()}
    assert {article: taken[article] for article in ("PMC10", "PMC11", "PMC12")} == {"PMC10": 2, "PMC11": 1, "PMC12": 1}
    assert local.rows["PMC10/f1"]["caption"].startswith("Axial")


def test_only_the_server_that_was_named_is_connected_to(bucket):
    _, server, addresses = bucket
    assert set(addresses) == {("127.0.0.1", server.port)}


def test_only_lists_metadata_articles_and_the_images_of_rows_are_asked_for(bucket):
    result, server, _ = bucket
    asked = Counter(path[1:] for _, path, _ in server.log)
    kinds = {
        "list": re.compile(r"\?list-type=2&prefix=.*"),
        "metadata": re.compile(r"metadata/PMC\d+\.\d+\.json"),
        "article": re.compile(r"(PMC\d+\.\d+)/\1\.xml"),
    }
    images = [path for path in asked if not any(kind.fullmatch(path) for kind in kinds.values())]
    lost = "PMC21.1/" + image(21, 2)
    assert sorted(images) == sorted({row["source_key"] for row in result.rows.values()} | {lost})
    assert sum(kinds["article"].fullmatch(path) is not None for path in asked) == 22
    assert set(asked.values()) == {1}


@pytest.mark.timeout(120)
def test_a_bucket_that_refuses_ends_the_run_and_says_that_it_resumes(tmp_path):
    class Refusing(Bucket):
        def _find(self, target):
            return 403, b"", {}

    (tmp_path / "ids.txt").write_text("\n".join(f"PMC{number}" for number in range(1, 40)))
    with serving(None, bucket=Refusing({})) as server, pytest.raises(CircuitOpenError, match="it resumes"):
        run(tmp_path / "out", bucket=server.url, pmcids=str(tmp_path / "ids.txt"), tries=2)
