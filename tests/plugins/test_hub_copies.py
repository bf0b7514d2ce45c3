"""Hugging Face copies: rows under the copy's own name, and other counts refused."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medvlm_cli.benchmarks import BENCHMARKS
from medvlm_cli.benchmarks.hub_copies import PATHVQA, VQA_RAD
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import DataError, RemoteError
from medvlm_cli.core.plugins import resolve
from tests.plugins.benchmark_cases import hub, picture, take

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COPY = dataclasses.replace(VQA_RAD, counts=(("train", 3), ("test", 2)))
TRAIN = "train-00000-of-00001-eb88.parquet"
TEST = "test-00000-of-00001-e5bc.parquet"


def table(*rows):
    """Rows of (bytes, question, answer)."""
    cells = [{"image": {"bytes": data, "path": None}, "question": q, "answer": a} for data, q, a in rows]
    return pa.Table.from_pylist(
        cells, pa.schema([("image", IMAGE), ("question", pa.string()), ("answer", pa.string())])
    )


def write(root, rows_of_test, rows_a_group=2):
    (root / "data").mkdir(parents=True)
    train = table(*[(picture(colour), "what is it?", "eye") for colour in ("red", "red", "blue")])
    pq.write_table(train, root / "data" / TRAIN, row_group_size=rows_a_group)
    pq.write_table(table(*rows_of_test), root / "data" / TEST)
    return FetchConfig(mirror=(str(root),))


GOOD = [(picture(), "is it?", "Yes"), (picture(), "mri or ct?", "mri")]


def test_rows_carry_the_copys_name_and_are_closed_by_their_answer(tmp_path):
    rows, rejects = take(COPY, write(tmp_path, GOOD))
    row = rows["test-0"]
    assert (row["benchmark"], row["split"], row["kind"], row["choices"]) == (
        "vqa-rad-hf",
        "test",
        "closed",
        ["yes", "no"],
    )
    assert (row["answers"], row["category"], row["image"]["bytes"]) == (["Yes"], None, picture())
    assert {id_: row["kind"] for id_, row in rows.items()} == dict.fromkeys(
        ("train-0", "train-1", "train-2", "test-1"), "open"
    ) | {"test-0": "closed"}
    assert rejects == {}


def test_the_same_image_has_the_same_name(tmp_path):
    rows, _ = take(COPY, write(tmp_path, GOOD))
    assert rows["train-0"]["image_id"] == rows["train-1"]["image_id"] != rows["train-2"]["image_id"]


def test_open_questions_of_the_copy_of_pathvqa_are_told_apart_by_their_first_word(tmp_path):
    copy = dataclasses.replace(PATHVQA, counts=COPY.counts)
    rows, _ = take(copy, write(tmp_path, GOOD))
    assert [rows[id_]["category"] for id_ in ("train-0", "test-0", "test-1")] == ["what", "yes/no", "other"]


def test_parts_of_a_split_are_numbered_through_and_validation_is_val(tmp_path):
    config = write(tmp_path, GOOD)
    pq.write_table(table(*GOOD), tmp_path / "data" / "validation-00000-of-00002-1.parquet")
    pq.write_table(table(*GOOD), tmp_path / "data" / "validation-00001-of-00002-2.parquet")
    copy = dataclasses.replace(COPY, counts=(("train", 3), ("val", 4), ("test", 2)))
    rows, _ = take(copy, config)
    assert {id_ for id_ in rows if id_.startswith("val")} == {"val-0", "val-1", "val-2", "val-3"}


def test_the_converted_branch_names_the_split_by_the_folder(tmp_path):
    config = write(tmp_path, GOOD)
    for name, split in ((TRAIN, "train"), (TEST, "test")):
        (tmp_path / "default" / split).mkdir(parents=True)
        (tmp_path / "data" / name).rename(tmp_path / "default" / split / "0000.parquet")
    rows, _ = take(COPY, config)
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((picture()[:50], "is it?", "yes"), "corrupt_image"),
        ((None, "is it?", "yes"), "missing_image"),
        ((b"", "is it?", "yes"), "missing_image"),
        ((picture(), None, "yes"), "empty_question"),
        ((picture(), "is it?", " "), "empty_answer"),
    ],
)
def test_a_bad_row_is_rejected_by_its_number(tmp_path, row, reason):
    rows, rejects = take(COPY, write(tmp_path, [GOOD[0], row]))
    assert set(rows) == {"train-0", "train-1", "train-2", "test-0"}
    assert rejects["test-1"].reason == reason


def test_another_number_of_rows_is_refused_with_both_numbers(tmp_path):
    message = r"flaviagiammarino/vqa-rad: found train 3, test 1 questions, expected train 3, test 2 questions\n  fix: "
    with pytest.raises(DataError, match=message):
        COPY.keys(write(tmp_path, GOOD[:1]))


def test_the_published_counts_are_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"expected train 1,793, test 451 questions"):
        resolve("vqa-rad-hf", BENCHMARKS, "benchmark").keys(write(tmp_path / "a", GOOD))
    with pytest.raises(DataError, match=r"expected train 19,654, val 6,259, test 6,719 questions"):
        resolve("pathvqa-hf", BENCHMARKS, "benchmark").keys(write(tmp_path / "b", GOOD))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (pa.table({"image": [b"1"], "question": ["q"], "answer": ["a"]}), "column 'image' is binary"),
        (table(*GOOD).drop_columns(["answer"]), "has no column 'answer'; it has image, question"),
    ],
)
def test_a_file_of_other_columns_is_refused(tmp_path, wrong, message):
    config = write(tmp_path, GOOD)
    pq.write_table(wrong, tmp_path / "data" / TEST)
    with pytest.raises(DataError, match=message):
        COPY.keys(config)


def test_a_cut_file_is_refused(tmp_path):
    config = write(tmp_path, GOOD)
    path = tmp_path / "data" / TEST
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is not a whole parquet file"):
        COPY.keys(config)


def test_rows_of_a_damaged_row_group_are_rejected_each(tmp_path):
    config = write(tmp_path, GOOD)
    path = tmp_path / "data" / TRAIN
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    rows, rejects = take(COPY, config)
    assert {id_: reject.reason for id_, reject in rejects.items()} == dict.fromkeys(
        ("train-0", "train-1"), "corrupt_file"
    )
    assert set(rows) == {"train-2", "test-0", "test-1"}


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    config = write(tmp_path / "given", GOOD)
    path = tmp_path / "given" / "data" / TEST
    path.rename(tmp_path / TEST)
    path.symlink_to(tmp_path / TEST)
    with pytest.raises(DataError, match="leads out of"):
        COPY.keys(config)


def test_without_a_folder_the_pinned_revision_is_downloaded(tmp_path, monkeypatch):
    write(tmp_path / "there", GOOD)
    files = {f"data/{name}": (tmp_path / "there" / "data" / name).read_bytes() for name in (TRAIN, TEST)}
    with hub(monkeypatch, COPY.repository, COPY.revision, files):
        rows, _ = take(COPY, FetchConfig(cache=str(tmp_path / "cache")))
    assert len(rows) == 5


def test_offline_the_page_and_the_command_are_named(tmp_path):
    message = r"vqa-rad-hf: .*\n.*huggingface\.co/datasets/flaviagiammarino/vqa-rad.*medvlm fetch vqa-rad-hf --from DIR"
    with pytest.raises(RemoteError, match=message):
        COPY.keys(FetchConfig(cache=str(tmp_path)))
