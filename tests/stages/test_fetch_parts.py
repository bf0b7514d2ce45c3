"""``fetch --shard i/N``: parts that are disjoint, and together the dataset that one process would have made."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from medvlm_cli.core import parts
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig, SynthesizeConfig
from medvlm_cli.core.errors import BusyError, ConfigError, DataError
from medvlm_cli.core.schemas import ARTICLE_FIGURES, CONVERSATIONS, FIGURES
from medvlm_cli.core.workspace import Workspace
from medvlm_cli.stages.fetch import estimate, fetch
from medvlm_cli.stages.synthesize import synthesize
from tests.bucket import serving
from tests.corpus import Article, objects_of, write
from tests.stages.test_fetch import wait_until

PHANTOM = FetchConfig(n=60)


def quiet(what, done, total):
    pass


def in_parts(source, out, config, count):
    """Every part, in this process; the summaries."""
    return [fetch(source, out, part(config, number, count), quiet) for number in range(count)]


def part(config, number, count):
    return FetchConfig(**vars(config) | {"shard": f"{number}/{count}"})


def by_id(dataset):
    return sorted(dataset.rows(), key=lambda row: row["figure_id"])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A workspace with a dataset in three parts; shared, so a test that changes it copies it first."""
    root = tmp_path_factory.mktemp("parts")
    in_parts("phantom", root / "figures" / "phantom", PHANTOM, 3)
    return root


def test_parts_are_disjoint_and_together_the_whole_dataset(phantoms, tmp_path):
    fetch("phantom", tmp_path / "whole", PHANTOM, quiet)
    joined = open_dataset(phantoms / "figures" / "phantom", FIGURES)
    assert all(len(one) > 5 for one in joined.parts)
    assert len(set(joined.ids)) == len(joined) == 60
    assert by_id(joined) == by_id(open_dataset(tmp_path / "whole", FIGURES))


def test_parts_of_articles_from_the_bucket_are_together_the_whole_dataset(tmp_path):
    articles = [Article(number, figures=2) for number in range(1, 9)] + [Article(9, license_code="CC BY-NC")]
    with serving(objects_of(articles), ids=range(1, 11)) as server:
        config = FetchConfig(bucket=server.url, eutils=server.url, query="ct", tries=2)
        in_parts("pmc", tmp_path / "parts", config, 3)
        searches = len(server.searches)
        fetch("pmc", tmp_path / "whole", config, quiet)
        asked = [path for _, path, _ in server.log if path.endswith(".xml")]
    joined, whole = (open_dataset(tmp_path / name, ARTICLE_FIGURES) for name in ("parts", "whole"))
    assert by_id(joined) == by_id(whole)
    assert len(joined) == 16
    assert sorted(map(str, joined.rejects())) == sorted(map(str, whole.rejects()))
    assert searches == 1
    assert sorted(asked) == sorted(2 * [f"/PMC{number}.1/PMC{number}.1.xml" for number in range(1, 10)])


def test_more_parts_than_articles_leave_some_empty_and_read_as_one(tmp_path):
    write(tmp_path / "articles", objects_of([Article(1), Article(2)]))
    config = FetchConfig(mirror=(str(tmp_path / "articles"),))
    summaries = in_parts("pmc", tmp_path / "out", config, 5)
    assert sorted(summary["rows"] for summary in summaries)[:3] == [0, 0, 0]
    assert len(open_dataset(tmp_path / "out", FIGURES)) == 6


def test_conversations_are_made_of_a_dataset_in_parts(phantoms, tmp_path):
    figures = Workspace(phantoms).figures()
    counts = synthesize(figures, tmp_path / "out", SynthesizeConfig(teacher="template"), quiet)
    assert counts["captions"]["conversations"] == 60
    assert len(open_dataset(tmp_path / "out" / "captions", CONVERSATIONS)) == 60
    again = synthesize(figures, tmp_path / "out", SynthesizeConfig(teacher="template"), quiet)
    assert again == counts


@pytest.mark.parametrize("shard", ["3/3", "0", "x/y", "-1/3"])
def test_a_part_that_is_none_is_refused_before_anybody_is_asked(tmp_path, shard):
    with serving({}, ids=[1]) as server:
        config = FetchConfig(bucket=server.url, eutils=server.url, query="ct", shard=shard)
        with pytest.raises(ConfigError, match="not i/N"):
            fetch("pmc", tmp_path / "out", config, quiet)
        with pytest.raises(ConfigError, match="not i/N"):
            estimate("pmc", tmp_path / "out", config)
    assert server.log == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("finished", [True, False])
def test_a_part_does_not_go_where_a_whole_dataset_is(tmp_path, finished):
    fetch("phantom", tmp_path / "out", PHANTOM, quiet)
    if not finished:
        (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(BusyError, match="out holds a dataset in one piece"):
        fetch("phantom", tmp_path / "out", part(PHANTOM, 0, 3), quiet)


def test_a_whole_dataset_does_not_go_where_a_part_is(tmp_path):
    fetch("phantom", tmp_path / "out", part(PHANTOM, 0, 3), quiet)
    with pytest.raises(BusyError, match="out holds a dataset in parts") as caught:
        fetch("phantom", tmp_path / "out", PHANTOM, quiet)
    assert caught.value.exit_code == 7


def test_a_part_of_another_run_is_refused(tmp_path):
    fetch("phantom", tmp_path / "out", part(PHANTOM, 0, 3), quiet)
    with pytest.raises(BusyError, match="config seed: 0 -> 1"):
        fetch("phantom", tmp_path / "out", part(FetchConfig(n=60, seed=1), 0, 3), quiet)


def test_parts_made_with_other_settings_are_no_dataset(tmp_path):
    fetch("phantom", tmp_path / "out", part(PHANTOM, 0, 2), quiet)
    fetch("phantom", tmp_path / "out", part(FetchConfig(n=60, seed=1), 1, 2), quiet)
    with pytest.raises(DataError, match="are not parts of one run"):
        open_dataset(tmp_path / "out", FIGURES)


def test_a_part_that_is_there_costs_nothing(tmp_path):
    with serving(objects_of([Article(1), Article(2)]), ids=[1, 2]) as server:
        config = FetchConfig(bucket=server.url, eutils=server.url, query="ct", tries=2)
        for number in range(2):
            fetch("pmc", tmp_path / "out", part(config, number, 2), quiet)
        asked = len(server.log)
        assert estimate("pmc", tmp_path / "out", part(config, 1, 2)) == {}
        assert estimate("pmc", tmp_path / "out", FetchConfig(**vars(config) | {"engine": "ray"})) == {}
        fetch("pmc", tmp_path / "out", part(config, 1, 2), quiet)
        assert len(server.log) == asked


def test_a_part_that_was_killed_goes_on_and_the_others_are_left_as_they_are(phantoms, tmp_path):
    out = tmp_path / "phantom"
    shutil.copytree(phantoms / "figures" / "phantom", out)
    expected = open_dataset(out, FIGURES).sha256
    shutil.rmtree(out / parts.name(1, 3))
    command = [
        sys.executable,
        "-m",
        "medvlm_cli",
        "fetch",
        "phantom",
        "--set",
        "n=60",
        "--shard",
        "1/3",
        "-o",
        str(out),
    ]
    run = subprocess.Popen([*command, "-q"])
    assert wait_until((out / parts.name(1, 3) / "run.json").exists)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    with pytest.raises(DataError, match="part 1 of 3 is not finished"):
        open_dataset(out, FIGURES)
    assert subprocess.run([*command, "-q"], capture_output=True).returncode == 0
    assert open_dataset(out, FIGURES).sha256 == expected
