"""``fetch --engine ray``: the parts of a dataset as tasks of a Ray that runs on this machine alone."""

import contextlib
import logging
import os
from pathlib import Path

import pytest

from medvlm_cli.core import cluster
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import BusyError, ConfigError, DataError
from medvlm_cli.core.schemas import ARTICLE_FIGURES
from medvlm_cli.stages.fetch import fetch
from tests.bucket import serving
from tests.corpus import Article, objects_of

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'medvlm[cluster]'")


def quiet(what, done, total):
    pass


@pytest.fixture(scope="module", autouse=True)
def a_home_of_its_own(tmp_path_factory):
    """Ray leaves a token in the home folder, and what it does is in the environment afterwards."""
    before = dict(os.environ)
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ.pop("RAY_ADDRESS", None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """A dataset in two parts that Ray made, the settings, and the server that it came from."""
    folder = tmp_path_factory.mktemp("ray")
    articles = [Article(number, figures=2) for number in range(1, 9)]
    with contextlib.chdir(folder), serving(objects_of(articles), ids=range(1, 9)) as server:
        address = {"bucket": server.url, "eutils": server.url, "query": "ct", "tries": 2}
        config = FetchConfig(**address, engine="ray", shards=2)
        told = []
        summary = fetch("pmc", Path("out"), config, lambda *parts: told.append(parts))
        yield folder / "out", config, summary, told, server


def test_tasks_make_the_rows_that_one_process_makes(fetched, tmp_path):
    out, config, summary, told, _ = fetched
    fetch("pmc", tmp_path / "whole", FetchConfig(**vars(config) | {"engine": "local"}), quiet)
    joined, whole = open_dataset(out, ARTICLE_FIGURES), open_dataset(tmp_path / "whole", ARTICLE_FIGURES)
    one, two = (sorted(dataset.rows(), key=lambda row: row["figure_id"]) for dataset in (joined, whole))
    assert len(joined.parts) == 2
    assert one == two and len(one) == summary["rows"] == 16
    assert told[-1] == ("parts", 2, 2)


def test_the_articles_are_selected_once_and_not_by_every_task(fetched):
    *_, server = fetched
    assert {query["term"] for _, query in server.searches[:1]} == {query["term"] for _, query in server.searches}
    asked = [path for _, path, _ in server.log if path.endswith("metadata/PMC1.1.json")]
    assert len(server.searches) <= 2 and len(asked) <= 2  # Ray's, and that of the one process


def test_a_dataset_that_is_there_needs_no_cluster(fetched, monkeypatch):
    out, config, summary, _, server = fetched
    monkeypatch.setattr(cluster, "connected", lambda: pytest.fail("a cluster was asked for"))
    asked = len(server.log)
    with contextlib.chdir(out.parent):
        assert fetch("pmc", Path("out"), config, quiet) == summary
        with pytest.raises(BusyError, match="config modality"):
            fetch("pmc", Path("out"), FetchConfig(**vars(config) | {"modality": ("ct",)}), quiet)
    assert len(server.log) == asked


def test_a_whole_dataset_in_the_way_is_refused_before_a_cluster_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "connected", lambda: pytest.fail("a cluster was asked for"))
    fetch("phantom", tmp_path / "out", FetchConfig(n=40), quiet)
    with pytest.raises(BusyError, match="holds a dataset in one piece"):
        fetch("phantom", tmp_path / "out", FetchConfig(n=40, engine="ray"), quiet)


def test_a_task_that_fails_says_why_and_the_others_are_finished(tmp_path, monkeypatch):
    def work(number):
        if number == 1:
            raise DataError("a.jsonl is not there", "give it")
        if number == 3:
            os._exit(9)
        (tmp_path / f"{number} in {Path.cwd().name}").touch()

    told = []
    with cluster.connected() as processors:
        monkeypatch.chdir(tmp_path)  # not where Ray was started
        node = ray._private.worker.global_worker.node
        assert processors >= 1
        assert not node.webui_url  # no dashboard
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"  # no telemetry
        with pytest.raises(DataError) as caught:
            cluster.run(work, [(0,), (1,), (2,)], lambda *parts: told.append(parts))
        with pytest.raises(cluster.ResourceError, match="the cluster lost a task"):
            cluster.run(work, [(3,)], quiet)
    assert (caught.value.what, caught.value.fix) == ("a.jsonl is not there", "give it")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number} in {tmp_path.name}" for number in (0, 2)]
    assert told == [("parts", done, 3) for done in range(4)]
    assert not ray.is_initialized()


def test_without_ray_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError) as caught, cluster.connected():
        pass
    assert caught.value.fix == "pip install 'medvlm[cluster]'"


def test_a_cluster_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    monkeypatch.setattr(logging.getLogger("ray"), "disabled", True)
    with pytest.raises(ConfigError, match="no Ray cluster to connect to"), cluster.connected():
        pass
    assert not ray.is_initialized()
