"""Which articles are fetched: files of ids, searches, and a selection that is made once and kept."""

import json
import multiprocessing
import re
import time

import pytest

from medvlm_cli.core.arrow import Harvest, open_dataset
from medvlm_cli.core.commit import Lock
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError, LockedError, RemoteError
from medvlm_cli.core.pace import Rate
from medvlm_cli.core.schemas import ARTICLES
from medvlm_cli.sources import eutils, pmc, selection
from medvlm_cli.sources.selection import read_ids
from tests.bucket import serving

WORDS = {
    "chest_xray": "radiograph",
    "ct": "computed tomography",
    "mri": "magnetic resonance",
    "histology": "histopathology",
    "gross": "gross pathology",
}


def quiet(what, done, total):
    pass


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Searches as often as one likes."""
    monkeypatch.delenv("NCBI_API_KEY", raising=False)
    monkeypatch.setattr(eutils, "_rate", lambda per_second: Rate(10_000))


def ids_of(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_ids(path)


def select(server, folder, **settings):
    """The ids of a selection."""
    config = FetchConfig(eutils=server.url, bucket=server.url, tries=2, **settings)
    return open_dataset(pmc.select(config, folder, quiet), ARTICLES).ids


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("PMC1\nPMC22\n", {"PMC1": [], "PMC22": []}),
        ("1\n22", {"PMC1": [], "PMC22": []}),
        ("pmc1 Pmc0022", {"PMC1": [], "PMC22": []}),
        ("PMC1.2", {"PMC1": [(2, None)]}),
        ("PMC1.3 PMC1.2, PMC1.3\nPMC1", {"PMC1": [(2, None), (3, None)]}),
        ("PMC2\nPMC1\n2\npmc2", {"PMC2": [], "PMC1": []}),
        ("PMC1,PMC2;PMC3\t'PMC4'", {"PMC1": [], "PMC2": [], "PMC3": [], "PMC4": []}),
        ('pmcid\n"PMC1"\n"PMC2"\n', {"PMC1": [], "PMC2": []}),
        ("PMC ID,version\nPMC1,\n", {"PMC1": []}),
        ("# what I read in 2026\n\nAccession ID\nPMC1 # the first\n  # and the last\nPMC2", {"PMC1": [], "PMC2": []}),
        (b"\xef\xbb\xbfPMC1\r\nPMC2\r\n", {"PMC1": [], "PMC2": []}),
        (b"\xef\xbb\xbfpmcid\r\nPMC1\r\n", {"PMC1": []}),
    ],
)
def test_ids_are_read_in_every_form(tmp_path, text, found):
    assert ids_of(tmp_path / "ids.txt", text) == found


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("PMC1\n10.1371/journal.pone.0167493\n", 2, "10.1371/journal.pone.0167493"),
        ("10.1371/x", 1, "10.1371/x"),
        ("pmcid\nPMC1\nPMID\n", 3, "PMID"),
        ("PMC1\nPMC\n", 2, "PMC"),
        ("PMC12345678901", 1, "PMC12345678901"),
        ("PMC1.2.3", 1, "PMC1.2.3"),
        ("PMC1 PMC-2", 1, "PMC-2"),
        ("pmcid,title\nPMC1,Livers", 2, "Livers"),
        ("PMC1\nPMC2/../x", 2, "PMC2/../x"),
        ("PMC1\x1b[2J", 1, "PMC1\x1b[2J"),
    ],
)
def test_what_is_no_id_is_refused_with_its_line(tmp_path, text, line, word):
    with pytest.raises(DataError, match=re.escape(f"ids.txt, line {line}: {word!r} is no PMC id")) as caught:
        ids_of(tmp_path / "ids.txt", text)
    assert "DOIs" in caught.value.fix


@pytest.mark.parametrize("text", ["", "\n# PMC1\n", "pmcid\n"])
def test_a_file_without_an_id_is_refused(tmp_path, text):
    with pytest.raises(DataError, match=r"ids.txt holds no PMC id"):
        ids_of(tmp_path / "ids.txt", text)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"ids.txt cannot be read .No such file"):
        read_ids(tmp_path / "ids.txt")
    with pytest.raises(DataError, match="not UTF-8 text"):
        ids_of(tmp_path / "ids.txt", b"\x1f\x8b\xff")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query": "x", "pmcids": "f"}, "--query and --pmcids select at once"),
        ({"query": "x", "inventory": True}, "--query and --inventory select at once"),
        ({"pmcids": "f", "inventory": True}, "--pmcids and --inventory select at once"),
        ({"mirror": ("d",), "query": "x"}, "--from and --query select at once"),
        ({"since": "2026-11-01"}, "--since without --inventory"),
        ({"since": "2026-11-01", "query": "x"}, "--since without --inventory"),
        ({"modality": ("ct", "teapot")}, "no modality 'teapot'"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused_before_anybody_is_asked(tmp_path, settings, message):
    with serving({}) as server:
        config = FetchConfig(bucket=server.url, eutils=server.url, **settings)
        with pytest.raises(ConfigError, match=message):
            pmc.select(config, tmp_path, quiet)
        with pytest.raises(ConfigError, match=message):
            pmc.estimate(config)
    assert server.log == []


def test_without_arguments_the_five_modalities_come_in_equal_parts(tmp_path):
    found = {words: range(1000 * number, 1000 * number + 300) for number, words in enumerate(WORDS.values(), 1)}
    with serving({}, found=found) as server:
        ids = select(server, tmp_path)
    assert len(ids) == 200
    assert [sum(article.startswith(f"PMC{number}") for article in ids) for number in range(1, 6)] == [40] * 5
    assert len(server.searches) == 5


def test_modalities_that_overlap_are_topped_up(tmp_path):
    same = range(1, 251)
    found = dict.fromkeys(WORDS.values(), same) | {"gross pathology": (1, 2, 9999)}
    with serving({}, found=found) as server:
        ids = select(server, tmp_path)
    assert len(set(ids)) == len(ids) == 200
    assert "PMC9999" in ids


def test_an_article_of_two_modalities_is_the_turn_of_one(tmp_path):
    found = dict.fromkeys(WORDS.values(), ()) | {"radiograph": (1, 2, 3), "computed tomography": (1, 4, 5)}
    with serving({}, found=found) as server:
        assert select(server, tmp_path, limit=4) == ["PMC1", "PMC2", "PMC4", "PMC5"]


def test_a_modality_of_which_there_is_little_is_made_up_for_by_the_others(tmp_path):
    found = {words: range(1000 * number, 1000 * number + 300) for number, words in enumerate(WORDS.values(), 1)}
    with serving({}, found=found | {"gross pathology": (7,), "computed tomography": ()}) as server:
        ids = select(server, tmp_path)
    assert len(ids) == 200 and "PMC7" in ids


def test_where_there_are_not_enough_all_are_taken(tmp_path):
    with serving({}, found=dict.fromkeys(WORDS.values(), range(1, 31))) as server:
        assert len(select(server, tmp_path, limit=50)) == 30
        assert len(select(server, tmp_path, limit=0)) == 30


@pytest.mark.parametrize(("limit", "taken"), [(3, 3), (0, 7), (50, 7)])
def test_of_a_query_the_first_articles_are_taken(tmp_path, limit, taken):
    with serving({}, ids=range(1, 8)) as server:
        ids = select(server, tmp_path, query="liver", limit=limit)
    assert ids == [f"PMC{number}" for number in range(1, taken + 1)]


def test_a_file_of_ids_is_taken_whole_and_nobody_is_asked(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("PMC2.1\nPMC1\n")
    with serving({}) as server:
        config = FetchConfig(eutils=server.url, bucket=server.url, pmcids=str(path), limit=1)
        rows = list(open_dataset(pmc.select(config, tmp_path, quiet), ARTICLES).rows())
        assert pmc.estimate(config)["cost"]["articles"] == 2
    assert [(row["article_id"], row["versions"]) for row in rows] == [
        ("PMC1", []),
        ("PMC2", [{"version": 1, "md5": None}]),
    ]
    assert server.log == []


def test_a_selection_is_made_once_and_the_same_one_read_ever_after(tmp_path):
    with serving({}, ids=range(1, 8)) as server:
        first = select(server, tmp_path, query="liver")
        asked = len(server.log)
        server.ids = [99]
        assert select(server, tmp_path, query="liver") == first
        assert select(server, tmp_path, query="liver", connections=3, decode_seconds=9, shard="0/3") == first
        config = FetchConfig(query="liver", eutils=server.url, bucket=server.url, cache=str(tmp_path))
        assert pmc.estimate(config)["articles matching"] == len(first)
        assert len(server.log) == asked
        assert select(server, tmp_path / "elsewhere", query="liver") == ["PMC99"]


@pytest.mark.parametrize(
    "other", [{"query": "lung"}, {"query": "liver", "limit": 2}, {"query": "liver", "license": "all"}]
)
def test_another_setting_is_another_selection(tmp_path, other):
    with serving({}, ids=range(1, 8)) as server:
        select(server, tmp_path, query="liver")
        server.ids = [98, 99, 100]
        assert "PMC99" in select(server, tmp_path, **other)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_of_ids_that_changed_is_another_selection_and_one_that_moved_is_not(tmp_path):
    for name, text in (("a.txt", "PMC1"), ("b.txt", "PMC1"), ("c.txt", "PMC2")):
        (tmp_path / name).write_text(text)
    one, moved, changed = (
        pmc.select(FetchConfig(pmcids=str(tmp_path / name)), tmp_path / "s", quiet)
        for name in ("a.txt", "b.txt", "c.txt")
    )
    assert one == moved != changed


def test_a_search_that_finds_nothing_is_refused_and_leaves_no_selection(tmp_path):
    with serving({}) as server:
        with pytest.raises(DataError, match="no article was found"):
            select(server, tmp_path, query="asdf")
        server.ids = [5]
        assert select(server, tmp_path, query="asdf") == ["PMC5"]


def test_a_search_that_fails_is_made_again_by_the_next_call(tmp_path):
    with serving({}, ids=[5], faults=1.0, kinds=("503",)) as server:
        with pytest.raises(RemoteError):
            select(server, tmp_path, query="liver")
        server.faults = 0.0
        assert select(server, tmp_path, query="liver") == ["PMC5"]


def slowly(folder, name):
    """Make a selection that takes a second, and note who made it."""

    def make(_):
        time.sleep(1)
        with (folder / "made").open("a") as file:
            file.write(name)
        return Harvest(1, [{"article_id": "PMC1", "versions": [], "wanted": None}], [])

    return selection.make_once(folder, {"a": 1}, make, quiet)


def in_another_process(folder, name, answers):
    answers.put(str(slowly(folder, name)))


def test_two_processes_that_select_at_once_end_with_one_selection(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    both = [context.Process(target=in_another_process, args=(tmp_path, name, answers)) for name in "ab"]
    for process in both:
        process.start()
    paths = {answers.get(timeout=60) for _ in both}
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(paths) == 1
    assert len((tmp_path / "made").read_text()) == 1
    assert open_dataset(next(tmp_path.glob("selection-*")), ARTICLES).ids == ["PMC1"]


def test_a_process_that_never_ends_its_selection_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "WAIT_SECONDS", 0.6)
    monkeypatch.setattr(selection, "_POLL_SECONDS", 0.1)
    told = []
    folder = selection._place(tmp_path, {"a": 1})
    folder.mkdir()
    lock = Lock(folder)
    lock.acquire()
    with pytest.raises(
        LockedError, match=r"waited 0 minutes for a selection: .* is being written by process"
    ) as caught:
        selection.make_once(tmp_path, {"a": 1}, lambda _: Harvest(0, [], []), lambda *parts: told.append(parts))
    lock.release()
    assert caught.value.exit_code == 7
    assert told[0] == ("wait for the selection that another process makes", 0, None)


def test_no_secret_is_in_what_a_selection_leaves(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBI_API_KEY", "CANARY")
    with serving({}, ids=[5]) as server:
        select(server, tmp_path, query="liver")
    left = "".join(path.read_text("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    assert json.loads(next(tmp_path.rglob("run.json")).read_text())["config"]["query"] == "liver"
    assert "CANARY" not in left
