"""Lists of figures whose addresses died, fetched from a bucket on loopback; the dead hosts are never asked."""

import json

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.crew import WorkerDiedError
from medvlm_cli.core.errors import ConfigError, DataError, LaterError
from medvlm_cli.core.schemas import ARTICLE_FIGURES, CONVERSATIONS
from medvlm_cli.sources import relink, retrieval
from medvlm_cli.stages.fetch import fetch
from tests.bucket import Bucket, serving
from tests.corpus import Article, objects_of

DEAD = "ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/83/41"


def quiet(what, done, total):
    pass


@pytest.fixture(autouse=True, scope="module")
def no_other_host():
    """Whatever is asked of a host but loopback fails."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ftp_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1")
        yield


def line(id_, number, file, **others):
    """A line of ``llava_med_image_urls.jsonl``."""
    row = {
        "pair_id": id_,
        "pmc_tar_url": f"https://{DEAD}/PMC{number}.tar.gz",
        "image_file_path": f"PMC{number}/{file}",
    }
    return json.dumps(row | others)


def a_list(folder, *lines, name="llava_med_image_urls.jsonl"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def relinked(server, out, *files, source="llava-med", **settings):
    """Summary and dataset of the figures of a list."""
    config = FetchConfig(bucket=server.url, files=tuple(map(str, files)), tries=2, **settings)
    return patient(source, out, config), open_dataset(out, ARTICLE_FIGURES)


def patient(source, out, config):
    """What fetching gives to one who tries a second time."""
    try:
        return fetch(source, out, config, quiet)
    except LaterError:
        return fetch(source, out, config, quiet)


def a_corpus():
    """A bucket in which everything happened that happens to articles."""
    renamed = Article(2, figures=1)
    renamed.images = {"a2-g1.webp": renamed.images["a2-g1.jpg"]}
    twin = Article(3, figures=1)
    twin.images |= {"A3-G1.JPG": twin.images["a3-g1.jpg"], "A3-g1.jpg": twin.images["a3-g1.jpg"]}
    del twin.images["a3-g1.jpg"]
    manuscript = Article(4, media_urls=[], is_manuscript=True, license_code="TDM")
    closed = Article(5, figures=1, license_code=None)
    return objects_of([Article(1), renamed, twin, manuscript, closed, Article(6, figures=1)])


LINES = [
    line("p1", 1, "a1-g1.jpg"),
    line("p2", 1, "a1-g2"),
    line("p2b", 1, "a1-g2.gif"),
    line("p3", 2, "a2-g1.jpg"),
    line("p4", 3, "a3-g1.jpg"),
    line("p5", 4, "a4-g1.jpg"),
    line("p6", 5, "a5-g1.jpg"),
    line("p7", 6, "gone.jpg"),
    line("p8", 77, "a77-g1.jpg"),
    line("p9", 6, "../../etc/passwd"),
    line("p10", 6, "a6-g1.jpg", pmc_tar_url="https://evil.example/PMC6.tar.gz"),
    line("p1", 6, "a6-g1.jpg"),
    "{",
    "",
]


class Down(Bucket):
    """Fails for one article."""

    def _find(self, target):
        return (503, b"", {}) if "PMC6" in target else super()._find(target)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """What all lines gave: summary, dataset, server and settings."""
    folder = tmp_path_factory.mktemp("list")
    path = a_list(folder, *LINES)
    with serving(None, bucket=Down(a_corpus())) as server:
        yield *relinked(server, folder / "out", path), server, path


def test_every_line_is_accounted_for_and_the_counts_add_up(fetched):
    summary, figures, *_ = fetched
    assert summary["mapping"] == {
        "lines": 13, "resolved": 5, "gone": 1, "manuscript_only": 1, "ambiguous": 1, "unavailable": 1, "unusable": 4,
    }  # fmt: skip
    assert sorted(figures.ids) == ["p1", "p2", "p2b", "p3"]
    assert {reject["id"]: reject["reason"] for reject in figures.rejects()} == {
        "p4": "ambiguous", "p5": "manuscript_only", "p6": "license_excluded", "p7": "unavailable", "p8": "gone",
        "p9": "unsafe_path", "p10": "bad_address", "p1": "duplicate_id", "llava_med_image_urls.jsonl:13": "bad_row",
    }  # fmt: skip
    assert summary["retry"] == 1
    assert {reject["reason"] for reject in figures.rejects()} <= set(relink.REASONS)


def test_a_file_that_is_not_in_its_article_is_gone(tmp_path):
    with serving(a_corpus()) as server:
        summary, _ = relinked(server, tmp_path / "out", a_list(tmp_path, LINES[0], LINES[7]))
    assert summary["mapping"] | {"lines": 2, "resolved": 1, "gone": 1} == summary["mapping"]


def test_only_the_bucket_is_asked_and_of_images_only_those_that_are_named(fetched):
    *_, server, _ = fetched
    images = sorted(path for _, path, _ in server.log if path.endswith((".jpg", ".webp", ".gif", ".JPG")))
    assert images == ["/PMC1.1/a1-g1.jpg", "/PMC1.1/a1-g2.jpg", "/PMC2.1/a2-g1.webp"]
    assert not [path for _, path, _ in server.log if "oa_package" in path or "tar.gz" in path]


def test_two_lines_that_name_one_file_are_two_rows_of_one_image(fetched):
    _, figures, server, _ = fetched
    one, two = (figures.row(id_) for id_ in ("p2", "p2b"))
    assert one["image"] == two["image"] and one["caption"] == two["caption"]
    assert len(server.asked("a1-g2.jpg")) == 1


def test_rows_say_where_they_come_from(fetched):
    row = fetched[1].row("p3")
    assert (row["source"], row["article_id"], row["source_key"]) == ("llava-med", "PMC2", "PMC2.1/a2-g1.webp")


def test_the_figures_join_the_conversations_about_them(fetched, tmp_path):
    figures = fetched[1]
    rows = [
        {"id": f"c{number}", "image": f"{pair}.jpg", "conversatons": [
            {"from": "human", "value": "What is shown?\n<image>"}, {"from": "gpt", "value": "A scan."},
        ]}
        for number, pair in enumerate(("p1", "p2", "p3"))
    ]  # fmt: skip
    alignment = tmp_path / "llava_med_alignment_500k.json"
    alignment.write_text(json.dumps(rows))
    fetch("llava-med", tmp_path / "conversations", FetchConfig(files=(str(alignment),)), quiet)
    conversations = list(open_dataset(tmp_path / "conversations", CONVERSATIONS).rows(["figure_id"]))
    assert len(conversations) == 3
    assert {one["figure_id"] for one in conversations} <= set(figures.ids)


def test_the_same_id_in_two_files_is_fetched_once_and_told(tmp_path):
    lists = [a_list(tmp_path, LINES[0], LINES[3], name=f"llava_med_image_urls{number}.jsonl") for number in range(2)]
    with serving(a_corpus()) as server:
        summary, figures = relinked(server, tmp_path / "out", *lists)
    assert sorted(figures.ids) == ["p1", "p3"]
    assert summary["mapping"] | {"lines": 4, "resolved": 2, "unusable": 2} == summary["mapping"]
    assert summary["reasons"] == {"duplicate_id": 2}


def test_parts_of_a_list_account_for_its_lines_once(tmp_path):
    path = a_list(tmp_path, *LINES)
    with serving(None, bucket=Down(a_corpus())) as server:
        parts = [relinked_part(server, tmp_path / "out", path, f"{number}/3") for number in range(3)]
    together = {name: sum(part[name] for part in parts) for name in parts[0]}
    assert together == {
        "lines": 13, "resolved": 5, "gone": 1, "manuscript_only": 1, "ambiguous": 1, "unavailable": 1, "unusable": 4,
    }  # fmt: skip
    assert min(min(part.values()) for part in parts) == 0
    assert sorted(open_dataset(tmp_path / "out", ARTICLE_FIGURES).ids) == ["p1", "p2", "p2b", "p3"]


def relinked_part(server, out, path, shard):
    config = FetchConfig(bucket=server.url, files=(str(path),), tries=2, shard=shard)
    return patient("llava-med", out, config)["mapping"]


def test_an_article_that_kills_its_reader_costs_its_own_lines_only(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval.Crew, "submit", killing(retrieval.Crew.submit, "PMC1"))
    with serving(a_corpus()) as server:
        summary, figures = relinked(server, tmp_path / "out", a_list(tmp_path, *LINES[:4]))
    assert figures.ids == ["p3"]
    assert {reject["id"]: reject["reason"] for reject in figures.rejects()} == dict.fromkeys(
        ("p1", "p2", "p2b"), "unreadable_article"
    )
    assert summary["mapping"]["lines"] == 4


def killing(submit, key):
    """``Crew.submit``, in which a worker dies of one article."""

    def instead(crew, function, *arguments):
        promise = submit(crew, function, *arguments)
        if arguments[0] == key:
            promise = type(promise)()
            promise.set_exception(WorkerDiedError())
        return promise

    return instead


def test_a_list_of_roco_is_fetched_too(tmp_path):
    rows = [
        f"ROCO_{number}\twget -r ftp://{DEAD}/PMC{number}.tar.gz -P /path/to/Dir\ta{number}-g1.jpg"
        for number in (1, 2, 77)
    ]
    with serving(a_corpus()) as server:
        summary, figures = relinked(
            server, tmp_path / "out", a_list(tmp_path, *rows, name="dlinks.txt"), source="roco", license="all"
        )
    assert sorted(figures.ids) == ["ROCO_1", "ROCO_2"]
    assert figures.row("ROCO_1")["source"] == "roco"
    assert summary["mapping"] | {"lines": 3, "resolved": 2, "gone": 1} == summary["mapping"]


def test_a_second_complete_run_asks_for_nothing(fetched):
    summary, figures, server, path = fetched
    asked = len(server.log)
    assert relinked(server, figures.folder, path)[0] == summary
    assert len(server.log) == asked


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ((), ConfigError, "no list of figures is given"),
        (("llava_med_image_urls.jsonl",), DataError, "llava_med_image_urls.jsonl is not there"),
    ],
)
def test_a_list_that_is_not_given_or_not_there_is_refused(tmp_path, monkeypatch, files, error, message):
    monkeypatch.chdir(tmp_path)
    with serving({}) as server, pytest.raises(error, match=message):
        relinked(server, tmp_path / "out", *files, source="roco")
    assert server.log == []
