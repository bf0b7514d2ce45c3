"""``medvlm fetch pmc`` from outside, against a bucket and E-utilities on loopback."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.commit import Lock
from medvlm_cli.core.schemas import ARTICLE_FIGURES
from medvlm_cli.sources.pmc import REASONS
from tests.bucket import Bucket, serving
from tests.corpus import Article, objects_of
from tests.plugins.test_inventory import an_inventory, line

KEY = "CANARY0123456789"
OUT = "medvlm-workspace/figures/pmc"


def medvlm(folder, server, *argv):
    """``medvlm fetch pmc`` with the addresses of a server, as somebody with a key of NCBI calls it."""
    address = server if isinstance(server, str) else server.url
    command = [sys.executable, "-m", "medvlm_cli", "fetch", "pmc", "--set", f"bucket={address}"]
    command += ["--set", f"eutils={address}", "--set", "tries=2", *argv]
    environment = os.environ | {"MEDVLM_WORKSPACE": "", "NCBI_API_KEY": KEY, "NCBI_EMAIL": f"{KEY}@example.org"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)


def a_bucket():
    """Six articles of three figures; the sixth is not for commercial use."""
    return objects_of([*map(Article, range(1, 6)), Article(6, license_code="CC BY-NC")])


def ids(folder, *numbers):
    path = folder / "ids.txt"
    path.write_text("\n".join(f"PMC{number}" for number in numbers))
    return str(path)


def bytes_in(folder):
    """Name, hash and time of change of every file."""
    return {
        path.relative_to(folder): (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The bare command, told to say everything, and what it left."""
    folder = tmp_path_factory.mktemp("bare")
    with serving(a_bucket(), ids=range(1, 8)) as server:
        done = medvlm(folder, server, "-vv")
        yield folder, server, done


def test_the_bare_command_fetches_the_papers_modalities_for_commercial_use(fetched):
    folder, server, done = fetched
    assert done.returncode == 3, done.stderr  # the seventh article is not in the bucket
    dataset = open_dataset(folder / OUT, ARTICLE_FIGURES)
    assert len(dataset) == 15
    assert {row["license"] for row in dataset.rows(["license"])} == {"CC-BY-4.0"}
    assert {row["reason"] for row in dataset.rejects()} == {"license_excluded", "unavailable"} <= set(REASONS)
    assert [query["retmax"] for _, query in server.searches] == ["0"] * 5 + ["200"] * 5
    assert {(folder / OUT / name).is_file() for name in ("report.html", "ATTRIBUTION.csv", "README.md")} == {True}


def test_it_says_what_it_will_cost_before_and_what_came_of_it_after(fetched):
    _, _, done = fetched
    cost = [text for text in done.stderr.splitlines() if text.startswith("about ")]
    assert cost == ["about 35 articles, 245 requests, 19.2 megabytes, 0 minutes at 100 Mbit/s"]
    assert "rows: 15" in done.stdout.splitlines()
    assert "Traceback" not in done.stderr


def test_no_secret_is_in_what_it_says_or_leaves(fetched):
    folder, server, done = fetched
    assert all(query["api_key"] == KEY for _, query in server.searches)
    assert KEY not in done.stdout + done.stderr
    assert [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_the_password_of_a_mirror_is_in_nothing_that_is_left(tmp_path):
    with serving(a_bucket()) as server:
        mirror = server.url.replace("://", f"://me:{KEY}@")
        done = medvlm(tmp_path, mirror, "--pmcids", ids(tmp_path, 1, 404), "-vv")
    assert done.returncode == 3, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_a_second_run_makes_no_request_and_changes_no_byte(fetched):
    folder, server, first = fetched
    before, asked = bytes_in(folder), len(server.log)
    done = medvlm(folder, server)
    assert (done.returncode, done.stdout) == (first.returncode, first.stdout)
    assert len(server.log) == asked
    assert bytes_in(folder) == before
    assert "about " not in done.stderr


def test_a_dry_run_counts_and_does_nothing_else(tmp_path):
    with serving(a_bucket(), ids=range(1, 8)) as server:
        done = medvlm(tmp_path, server, "--dry-run", "--json", "--query", "liver", "--set", "limit=5")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (told["articles matching"], told["cost"]["articles"], told["writes"]) == (7, 5, OUT)
    assert [query["retmax"] for _, query in server.searches] == ["0"]
    assert len(server.log) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_with_nobody_listening_says_unknown(tmp_path):
    with serving({}) as server:
        pass
    done = medvlm(tmp_path, server, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "articles matching: unknown (http://127.0.0.1" in done.stdout
    assert "200" in done.stdout and KEY not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_json_is_all_that_stdout_holds(tmp_path):
    with serving(a_bucket()) as server:
        done = medvlm(tmp_path, server, "--json", "--pmcids", ids(tmp_path, 1, 2), "--modality", "ct,mri", "-o", "out")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert (told["rows"], told["out"], told["reasons"]) == (3, "out", {"modality_excluded": 3})
    kinds = {row["modality"] for row in open_dataset(tmp_path / "out", ARTICLE_FIGURES).rows(["modality"])}
    assert kinds == {"ct", "mri"}


def test_a_query_is_what_is_searched_for_and_the_licence_what_is_kept(tmp_path):
    with serving(a_bucket(), ids=[5, 6]) as server:
        done = medvlm(tmp_path, server, "--query", "liver[Title]", "--license", "noncommercial", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 6
    assert {query["term"] for _, query in server.searches} == {
        "(liver[Title]) AND open_access[Filter] NOT pmc_embargo[Filter]"
    }


def test_what_changed_since_a_day_is_selected_from_the_inventory(tmp_path):
    objects = a_bucket()
    late, early = "2026-11-19T10:00:00.000Z", "2026-01-02T03:04:05.000Z"
    lines = [
        line(f"metadata/PMC{number}.1.json", hashlib.md5(objects[f"metadata/PMC{number}.1.json"]).hexdigest(), moment)
        for number, moment in ((1, late), (2, early), (3, late))
    ]
    with serving(objects | an_inventory(lines)) as server:
        done = medvlm(tmp_path, server, "--inventory", "--since", "2026-11-01")
    assert done.returncode == 0, done.stderr
    rows = open_dataset(tmp_path / OUT, ARTICLE_FIGURES).rows(["article_id"])
    assert {row["article_id"] for row in rows} == {"PMC1", "PMC3"}
    assert server.searches == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--modality", "ct,teapot"), "error: no modality 'teapot'\n  fix: there are "),
        (("--license", "free"), "error: license is 'free'"),
        (("--inventory", "--since", "soon"), "error: --since soon: not a day"),
        (("--shard", "3/3"), "error: --shard 3/3: not i/N"),
        (("--engine", "dask"), "error: engine is 'dask'"),
        (("--set", "bucket=pmc-oa-opendata"), "error: bucket is 'pmc-oa-opendata'\n  fix: give an address"),
        (("--set", "eutils=http://localhost:port"), "error: eutils is 'http://localhost:port'\n  fix: give an address"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_is_asked(tmp_path, argv, said):
    with serving({}) as server:
        done = medvlm(tmp_path, server, *argv)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert server.log == [] and list(tmp_path.iterdir()) == []


def test_articles_that_are_not_to_be_had_are_told_and_the_rest_is_kept(tmp_path):
    with serving(a_bucket()) as server:
        done = medvlm(tmp_path, server, "--pmcids", ids(tmp_path, 1, 404))
    assert done.returncode == 3
    assert "unavailable: PMC404: " in done.stdout
    assert "see `rejects`" in done.stderr
    assert len(open_dataset(tmp_path / OUT, ARTICLE_FIGURES)) == 3


def test_not_one_row_is_an_error_that_says_the_first_reason(tmp_path):
    with serving(a_bucket()) as server:
        done = medvlm(tmp_path, server, "--pmcids", ids(tmp_path, 6), "--json")
    assert done.returncode == 4
    assert "pmc: not one of 3 records became a row; the first reason: license_excluded" in done.stderr
    assert json.loads(done.stdout)["error"]["exit"] == 4


class Forbidding(Bucket):
    """Refuses everything."""

    def _find(self, target):
        return 403, b"<Error><Code>AccessDenied</Code></Error>", {}


@pytest.mark.parametrize("articles", [2, 300])
def test_a_bucket_that_refuses_everything_ends_the_run_and_nothing_is_written_down(tmp_path, articles):
    with serving(None, bucket=Forbidding({})) as server:
        done = medvlm(tmp_path, server, "--pmcids", ids(tmp_path, *range(1, articles + 1)))
    assert done.returncode == 5
    assert "refused (status 403)" in done.stderr and "Traceback" not in done.stderr
    assert len(server.log) < 100
    assert not (tmp_path / OUT / "journal.jsonl").exists()


def test_a_bucket_that_does_not_answer_ends_the_run_and_the_same_command_goes_on(tmp_path):
    given = ("--pmcids", ids(tmp_path, 1, 2), "--set", "tries=1")
    with serving(None, bucket=Bucket(a_bucket(), faults=1.0, kinds=("503",))) as server:
        done = medvlm(tmp_path, server, *given)
        assert done.returncode == 5, done.stdout
        assert "did not answer one of" in done.stderr and "status 503" in done.stderr
        server.faults = 0.0
        assert medvlm(tmp_path, server, *given).returncode == 0
    assert len(open_dataset(tmp_path / OUT, ARTICLE_FIGURES)) == 6


def test_eutilities_that_do_not_answer_end_the_run(tmp_path):
    with serving({}) as server:
        pass
    done = medvlm(tmp_path, server, "--query", "liver")
    assert done.returncode == 5
    assert "esearch.fcgi: cannot connect (Connection refused)" in done.stderr
    assert KEY not in done.stdout + done.stderr


def test_a_second_process_is_refused_and_told_who_writes(tmp_path):
    (tmp_path / OUT).mkdir(parents=True)
    lock = Lock(tmp_path / OUT)
    lock.acquire()
    with serving(a_bucket()) as server:
        done = medvlm(tmp_path, server, "--pmcids", ids(tmp_path, 1))
    lock.release()
    assert done.returncode == 7
    assert f"process {os.getpid()}@" in done.stderr
    assert server.log == []
