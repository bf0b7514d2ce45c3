"""A dataset in parts reads as one, and gaps and mixtures are refused with the command that mends them."""

import hashlib
import pickle
import shutil

import pytest

from medvlm_cli.core import parts
from medvlm_cli.core.arrow import Harvest, Reject, open_dataset, write_all
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.record import MANIFEST, hash_input
from medvlm_cli.core.schemas import ARTICLES, FIGURES
from medvlm_cli.core.workspace import Workspace


def make(out, number, count, ids, **config):
    """A part with a row and a reject for each id."""

    def harvest(id_):
        row = {"article_id": id_, "versions": [], "wanted": [{"id": f"figure {id_}", "file": "a.jpg"}]}
        return Harvest(2, [row], [Reject(f"bad {id_}", "odd", "of no use")])

    write_all(
        out / parts.name(number, count), ARTICLES, harvest, stage="fetch", config=config, keys=list(ids),
        tell=lambda *_: None,
    )  # fmt: skip


@pytest.fixture
def whole(tmp_path):
    """Three parts, of three rows, none and one."""
    out = tmp_path / "figures" / "x"
    for number, ids in enumerate(("abc", "", "d")):
        make(out, number, 3, ids)
    return out


@pytest.mark.parametrize(
    ("shard", "expected"), [("0/1", (0, 1)), ("2/3", (2, 3)), ("00/4", (0, 4)), ("0/99999", (0, 99999))]
)
def test_a_part_is_named_by_number_and_count(shard, expected):
    assert parts.parse(shard) == expected


@pytest.mark.parametrize(
    "shard",
    ["", "0", "0/0", "1/1", "3/3", "-1/3", "1/-3", "0/3 ", " 0/3", "0/3\n", "1/2/3", "a/b", "0,3", "0/100000", "1.0/3"],
)
def test_what_names_no_part_is_refused_with_an_example(shard):
    with pytest.raises(ConfigError, match="not i/N") as caught:
        parts.parse(shard)
    assert "0/4, 1/4, 2/4 and 3/4" in caught.value.fix


def test_folders_of_parts_sort_as_their_numbers(tmp_path):
    names = [parts.name(number, 12000) for number in (0, 2, 10, 11999)]
    assert sorted(names) == names


def test_rows_and_rejects_of_all_parts_come_in_their_order(whole):
    dataset = open_dataset(whole, ARTICLES)
    assert dataset.ids == ["a", "b", "c", "d"]
    assert len(dataset) == 4
    assert [row["article_id"] for row in dataset.rows()] == ["a", "b", "c", "d"]
    assert [row["id"] for row in dataset.rejects()] == ["bad a", "bad b", "bad c", "bad d"]
    assert [len(part) for part in dataset.parts] == [3, 0, 1]


def test_every_way_to_read_a_row_works_across_parts(whole):
    dataset = open_dataset(whole, ARTICLES)
    assert dataset.columns == ["article_id", "versions", "wanted"]
    assert list(dataset.rows(["article_id"])) == [{"article_id": id_} for id_ in "abcd"]
    assert dataset.row_at(3)["wanted"] == [{"id": "figure d", "file": "a.jpg"}]
    assert dataset.row("d", ["article_id"]) == {"article_id": "d"}
    assert dataset.position("d") == 3
    with pytest.raises(IndexError):
        dataset.row_at(4)
    with pytest.raises(DataError, match="no row with id 'e'"):
        dataset.row("e")


def test_it_may_be_pickled(whole):
    copy = pickle.loads(pickle.dumps(open_dataset(whole, ARTICLES)))
    assert copy.row_at(3)["article_id"] == "d"
    assert len(list(copy.rejects())) == 4


def test_a_file_of_a_part_that_was_changed_is_found_and_named(whole):
    (path,) = (whole / parts.name(2, 3) / "data").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-00002-of-00003/data/part-00000.arrow: damaged or changed"):
        open_dataset(whole, ARTICLES).verify()


def test_its_hash_is_that_of_all_manifests_as_an_input_and_as_a_dataset(whole):
    manifests = [(whole / parts.name(number, 3) / MANIFEST).read_bytes() for number in range(3)]
    hashes = "".join(hashlib.sha256(manifest).hexdigest() for manifest in manifests)
    assert hash_input(whole) == hashlib.sha256(hashes.encode()).hexdigest() == open_dataset(whole, ARTICLES).sha256


def test_a_page_beside_the_parts_is_no_part_of_the_hash(whole):
    before = hash_input(whole)
    (whole / "report.html").write_text("x")
    (whole / "shard-of-mine").mkdir()
    assert hash_input(whole) == before
    assert len(open_dataset(whole, ARTICLES)) == 4


def test_a_missing_part_is_named_with_its_command(whole):
    shutil.rmtree(whole / parts.name(1, 3))
    with pytest.raises(DataError, match="part 1 of 3 is missing") as caught:
        open_dataset(whole, ARTICLES)
    assert caught.value.fix == "run its command with --shard 1/3"
    with pytest.raises(DataError, match="part 1 of 3 is missing"):
        hash_input(whole)


def test_a_part_that_is_not_finished_is_named_with_its_command(whole):
    (whole / parts.name(2, 3) / MANIFEST).unlink()
    with pytest.raises(DataError, match="part 2 of 3 is not finished") as caught:
        open_dataset(whole, ARTICLES)
    assert caught.value.fix == "run its command with --shard 2/3"
    assert not parts.are_finished(whole, MANIFEST)


def test_parts_of_two_divisions_are_refused(whole):
    make(whole, 0, 2, "e")
    with pytest.raises(DataError, match="holds parts of 2 and of 3") as caught:
        open_dataset(whole, ARTICLES)
    assert "remove the others" in caught.value.fix
    assert not parts.are_finished(whole, MANIFEST)


def test_parts_of_other_settings_are_refused(tmp_path):
    make(tmp_path, 0, 2, "a", seed=0)
    make(tmp_path, 1, 2, "b", seed=1)
    with pytest.raises(DataError, match=r"shard-00001-of-00002 and .*shard-00000-of-00002 are not parts of one run"):
        open_dataset(tmp_path, ARTICLES)


def test_parts_of_other_inputs_are_refused(tmp_path):
    for number, id_ in enumerate("ab"):
        (tmp_path / id_).write_text(id_)
        write_all(
            tmp_path / "x" / parts.name(number, 2), ARTICLES, lambda key: Harvest(0, [], []), stage="fetch", config={},
            keys=[id_], inputs={"selection": tmp_path / id_}, tell=lambda *_: None,
        )  # fmt: skip
    with pytest.raises(DataError, match="are not parts of one run"):
        open_dataset(tmp_path / "x", ARTICLES)


def test_a_row_that_two_parts_hold_is_refused(tmp_path):
    make(tmp_path, 0, 2, "ab")
    make(tmp_path, 1, 2, "bc")
    with pytest.raises(DataError, match="two parts hold the same row"):
        open_dataset(tmp_path, ARTICLES)


def test_parts_of_another_schema_are_refused(whole):
    with pytest.raises(DataError, match="holds articles/1, not figures/1"):
        open_dataset(whole, FIGURES)


def test_all_parts_finished_is_known(whole, tmp_path):
    assert parts.are_finished(whole, MANIFEST)
    assert not parts.are_finished(tmp_path / "nowhere", MANIFEST)
    shutil.rmtree(whole / parts.name(0, 3))
    assert not parts.are_finished(whole, MANIFEST)


def test_a_workspace_finds_a_dataset_in_parts(whole, tmp_path):
    (tmp_path / "figures" / ".x.state").mkdir()
    assert Workspace(tmp_path).figures() == [whole]
