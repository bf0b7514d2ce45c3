"""Rows are checked when written, datasets when opened, and memory stays bounded while they are read."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from medvlm_cli.core import reader, shard
from medvlm_cli.core.arrow import Counts, Harvest, Reject, Writer, open_dataset, write_all
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, STEPS, features_schema
from tests.core.arrow_cases import KEYS, figure, write

IDS = {f"{key}/{name}" for key in KEYS for name in ("fig1", "fig2")}


def give(*rows):
    """A source whose one key gives these rows."""
    return lambda key: Harvest(len(rows), list(rows), [])


@pytest.fixture
def figures(tmp_path):
    write(tmp_path / "figures")
    return tmp_path / "figures"


def test_what_was_written_is_read_back(figures):
    dataset = open_dataset(figures, FIGURES)
    rows = {row["figure_id"]: row for row in dataset.rows()}
    assert len(dataset) == 120
    assert rows == {id_: figure(id_) for id_ in IDS}
    assert list(rows) == dataset.ids
    assert [dataset.row(id_) for id_ in IDS] == [rows[id_] for id_ in IDS]
    assert [dataset.row_at(dataset.position(id_), ["caption"]) for id_ in IDS] == [
        {"caption": rows[id_]["caption"]} for id_ in IDS
    ]


def test_the_folder_holds_what_the_formats_page_says(figures):
    manifest = json.loads((figures / "manifest.json").read_text())
    run = json.loads((figures / "run.json").read_text())
    names = {str(path.relative_to(figures)) for path in figures.rglob("*") if path.is_file()}
    assert names == {"journal.jsonl", "run.json", "README.md", "manifest.json", *manifest["files"]}
    assert {facts["sha256"] for facts in manifest["files"].values()} == {
        hashlib.sha256((figures / name).read_bytes()).hexdigest() for name in manifest["files"]
    }
    assert [sorted(facts) for facts in manifest["files"].values()] == [["bytes", "rows", "sha256"]] * 12
    assert (manifest["schema"], manifest["rows"], manifest["rejected"]) == ("figures/1", 120, 60)
    assert run["counts"] == {"in": 180, "out": 120, "rejected": 60, "reasons": {"no_image": 60}}
    assert run["keys"]["count"] == 60 and run["config"] == {"n": 60} and run["finished"] >= run["started"]


def test_rejects_are_kept_with_their_reason(figures):
    rejects = list(open_dataset(figures, FIGURES).rejects())
    expected = {"stage": "fetch", "reason": "no_image", "message": "lost", "raw": None}
    assert len(rejects) == 60
    assert rejects[0] == {"id": rejects[0]["id"]} | expected and rejects[0]["id"].endswith("/fig3")


def test_the_order_in_which_keys_arrive_changes_no_shards_members(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", keys=KEYS[::-1])
    names = sorted(path.name for path in (tmp_path / "a/data").iterdir())
    members = [
        [sorted(open_dataset(tmp_path / run / "data" / name, FIGURES).ids) for name in names] for run in ("a", "b")
    ]
    assert len(names) == 6
    assert members[0] == members[1]


def test_secrets_do_not_reach_the_record(tmp_path, monkeypatch):
    secrets = ("sk-ant-api03-canary", "hf_canarycanarycanary", "canary1", "canary2")
    argv = ["medvlm", secrets[0], f"x={secrets[1]}", f"api_key={secrets[2]}", "--ncbi-key", secrets[3], "--n", "5"]
    monkeypatch.setattr(sys, "argv", argv)
    write(tmp_path / "x", config={"token": secrets[0]})
    text = (tmp_path / "x/run.json").read_text()
    assert [secret for secret in secrets if secret in text] == []
    assert json.loads(text)["argv"] == ["medvlm", "***", "x=***", "api_key=***", "--ncbi-key", "***", "--n", "5"]


BAD_ROWS = {
    "null": (figure("PMC1/fig3", caption=None), "'caption' is null, figures/1 requires it"),
    "null in a struct": (figure("PMC1/fig3", image={"bytes": None, "path": None}), "'image.bytes' is null"),
    "null in a list": (figure("PMC1/fig3", mentions=[{"text": None, "panel": "a"}]), "'mentions[].text' is null"),
    "no image": (figure("PMC1/fig3", image=None), "'image' is null"),
    "unknown key": (figure("PMC1/fig3", captoin="x"), "unknown key 'captoin'"),
    "missing key": ({k: v for k, v in figure("PMC1/fig3").items() if k != "label"}, "key 'label' is missing"),
    "unknown key below": (figure("PMC1/fig3", image={"bytes": b"x", "path": None, "w": 1}), "unknown key 'image.w'"),
    "missing key below": (figure("PMC1/fig3", mentions=[{"text": "x"}]), "key 'mentions[0].panel' is missing"),
    "other type": (figure("PMC1/fig3", width="wide"), "'width' must be int32"),
    "fraction": (figure("PMC1/fig3", width=1.5), "'width' must be int32"),
    "too large": (figure("PMC1/fig3", width=2**40), "'width' must be int32"),
    "hash too short": (figure("PMC1/fig3", image_sha256=b"x"), "'image_sha256' must be fixed_size_binary[32]"),
    "lone surrogate": (figure("PMC1/fig3", caption="\ud800"), "'caption' holds a lone surrogate"),
    "text for a list": (figure("PMC1/fig3", mentions="see"), "'mentions' is a str, not a list"),
    "pair for a struct": (figure("PMC1/fig3", image=(b"x", None)), "'image' is a tuple, not a dict"),
    "id twice": (figure("PMC1/fig1"), "'figure_id' is there already"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_wrong_row_is_refused_with_its_number_and_id(tmp_path, case):
    row, problem = BAD_ROWS[case]
    message = f"{tmp_path}/x/data/part-00000.arrow, row 2 ({row['figure_id']}): {problem}"
    with pytest.raises(DataError, match=re.escape(message)):
        write(tmp_path / "x", give(figure("PMC1/fig1"), figure("PMC1/fig2"), row), keys=["PMC1"])
    assert list(tmp_path.rglob("*.tmp")) == []


def test_what_may_be_null_may_be_null(tmp_path):
    row = figure("PMC1/fig1", mentions=[], image={"bytes": b"x", "path": None}, n_panels=None)
    write(tmp_path / "x", give(row), keys=["PMC1"])
    assert open_dataset(tmp_path / "x", FIGURES).row_at(0) == row


def test_a_lone_surrogate_in_a_reject_is_written_out(tmp_path):
    write(tmp_path / "x", lambda key: Harvest(1, [], [Reject(key, "bad", "caption \ud800")]), keys=["PMC\udcff"])
    assert next(open_dataset(tmp_path / "x", FIGURES).rejects())["message"] == "caption \\ud800"


def test_a_key_given_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="key 'PMC1' is there twice"):
        write(tmp_path / "x", keys=["PMC1", "PMC2", "PMC1"])


def test_a_candidate_that_vanished_is_a_bug(tmp_path):
    with pytest.raises(AssertionError, match=r"2 found, not rows \+ rejects: 1 \+ 0"):
        write(tmp_path / "x", lambda key: Harvest(2, [figure(key)], []))
    assert not (tmp_path / "x/manifest.json").exists()


def test_a_writer_left_before_its_last_shard_is_a_bug(tmp_path):
    with (
        pytest.raises(AssertionError, match=r"shards \[0\] not committed"),
        Writer(tmp_path / "x", FIGURES, stage="fetch", config={}, keys=["a"]),
    ):
        pass
    assert not (tmp_path / "x/manifest.json").exists()


def test_no_keys_make_an_empty_dataset(tmp_path):
    assert write(tmp_path / "x", keys=[]) == Counts(0, 0, 0, {})
    dataset = open_dataset(tmp_path / "x", FIGURES)
    assert (len(dataset), dataset.ids, list(dataset.rows()), list(dataset.rows(["caption"]))) == (0, [], [], [])


def test_batches_are_closed_by_rows_and_by_bytes(tmp_path, monkeypatch):
    rows = [figure(f"PMC1/fig{i:03d}") for i in range(230)]
    write(tmp_path / "by_rows", give(*rows), keys=["PMC1"])
    monkeypatch.setattr(shard, "BATCH_BYTES", 10_000)
    write(tmp_path / "by_bytes", give(*rows, figure("PMC2/big", caption="x" * 20_000)), keys=["PMC1"])
    assert batches_of(tmp_path / "by_rows/data/part-00000.arrow") == [100, 100, 30]
    assert set(batches_of(tmp_path / "by_bytes/data/part-00000.arrow")[:-2]) == {4}
    assert batches_of(tmp_path / "by_bytes/data/part-00000.arrow")[-1] == 1


def batches_of(path: Path) -> list[int]:
    opened = pa.ipc.open_file(str(path))
    return [opened.get_batch(i).num_rows for i in range(opened.num_record_batches)]


def test_a_full_file_goes_on_in_another_and_the_order_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(shard, "BATCH_ROWS", 1)
    monkeypatch.setattr(shard, "SHARD_BYTES", 20_000)
    ids = [f"PMC1/fig{i:03d}" for i in range(60)]
    write(tmp_path / "x", give(*map(figure, ids)), keys=["PMC1"])
    files = list((tmp_path / "x/data").iterdir())
    assert len(files) > 10
    assert max(path.stat().st_size for path in files) < 40_000  # the limit, and a footer that grows with the batches
    assert open_dataset(tmp_path / "x", FIGURES).ids == ids
    assert len((tmp_path / "x/journal.jsonl").read_text().splitlines()) == 1


def test_ids_may_be_numbers_and_lists_long(tmp_path):
    known = {"step": 7, "loss": 0.5, "lr": 1e-3, "grad_norm": 1.0, "tokens": 9, "seconds": 0.1}
    step = dict.fromkeys(STEPS.names) | known
    settings = {"stage": "pretrain", "config": {}, "keys": ["all"], "tell": lambda *_: None}
    write_all(tmp_path / "steps", STEPS, give(step), **settings)
    features = np.arange(12, dtype=np.float16)
    row = {"figure_id": "a", "image_sha256": b"\0" * 32, "tower": "t", "scales": [32], "features": features}
    write_all(tmp_path / "features", features_schema(4, 3), give(row), **settings)
    assert open_dataset(tmp_path / "steps", STEPS).row("7")["step"] == 7
    read = open_dataset(tmp_path / "features", features_schema(4, 3))
    assert np.array_equal(read.values_at(read.position("a"), "features"), features)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_last_batch(path):
    table = pa.ipc.open_file(str(path)).read_all()
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table.slice(0, 5))


def add_shard(path):
    path.with_name("part-00099.arrow").write_bytes(path.read_bytes())


def edit_manifest(path):
    manifest = path.parents[1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 120', '"rows": 121'))


def break_manifest(path):
    (path.parents[1] / "manifest.json").write_text("{")


def remove_manifest(path):
    (path.parents[1] / "manifest.json").unlink()


HARMS = [
    (flip, "part-00003.arrow: damaged or changed, its sha256 is not the manifest's"),
    (cut, "part-00003.arrow: 34,318 bytes, the manifest says 34,418"),
    (Path.unlink, "part-00003.arrow: missing, the manifest lists it"),
    (drop_last_batch, "part-00003.arrow: "),
    (add_shard, "part-00099.arrow: not in the manifest"),
    (edit_manifest, "figures: 120 rows, the manifest says 121"),
    (break_manifest, "manifest.json: not JSON"),
    (remove_manifest, "figures: not a finished dataset, its run was interrupted"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS, ids=[harm.__name__ for harm, _ in HARMS])
def test_a_dataset_that_is_not_what_its_manifest_says_is_refused(figures, harm, message):
    harm(figures / "data/part-00003.arrow")
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        list(open_dataset(figures, FIGURES).rows())
    assert caught.value.exit_code == 4 and caught.value.fix


def test_a_flipped_bit_is_found_by_any_first_use_of_the_image(figures):
    flip(figures / "data/part-00003.arrow")
    lost = pa.ipc.open_file(str(figures / "data/part-00003.arrow")).get_batch(0).column(0)[0].as_py()
    dataset = open_dataset(figures, FIGURES)
    with pytest.raises(DataError, match="part-00003"):
        dataset.row(lost)
    with pytest.raises(DataError, match="part-00003"):
        open_dataset(figures, FIGURES).verify()


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere", "no dataset at"), (".", "not a finished dataset, it has no manifest.json")],
)
def test_what_is_no_dataset_is_refused_with_the_command_that_makes_one(tmp_path, path, message):
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(tmp_path / path, FIGURES)
    assert "`medvlm fetch`" in caught.value.fix


def test_a_dataset_of_another_schema_is_refused(figures):
    with pytest.raises(DataError, match=r"figures holds figures/1, not conversations/1") as caught:
        open_dataset(figures, CONVERSATIONS)
    assert "`medvlm synthesize`" in caught.value.fix


def test_a_dataset_goes_on_reading_in_another_process(figures):
    dataset = open_dataset(figures, FIGURES)
    first = dataset.row_at(0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.row_at(0) == first == dataset.row_at(0)
    assert copy.ids == dataset.ids


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_more_shards_than_may_be_open_are_read_all_the_same(figures, monkeypatch):
    monkeypatch.setattr(reader, "_MAPPED", 2)
    dataset = open_dataset(figures, FIGURES)
    assert {id_: dataset.row(id_) for id_ in sorted(IDS)} == {id_: figure(id_) for id_ in IDS}
    assert 1 <= Path("/proc/self/maps").read_text().count(f"{figures}/data/part-") <= 2


def test_an_id_or_a_position_that_is_not_there_is_refused(figures):
    dataset = open_dataset(figures, FIGURES)
    with pytest.raises(DataError, match="no row with id 'PMC999/fig1'"):
        dataset.row("PMC999/fig1")
    with pytest.raises(IndexError):
        dataset.row_at(120)
    with pytest.raises(DataError, match="no column 'captoin'"):
        list(dataset.rows(["captoin"]))


READ = """
import random, re, sys
from pathlib import Path
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import FIGURES
dataset = open_dataset(Path(sys.argv[1]), FIGURES)
before = int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])
assert sum(len(row["caption"]) for row in dataset.rows(["figure_id", "caption"])) > 0
text = int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0]) - before
order = random.Random(0).sample(range(len(dataset)), len(dataset))
total = sum(len(dataset.row_at(i)["image"]["bytes"]) for i in order)
print(total, int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024, text)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_at_random_keeps_little_in_memory_and_text_only_reads_no_images(tmp_path):
    noise = np.random.default_rng(0).bytes(2_000_000)
    images = {f"k{i}": {"bytes": noise[i:], "path": None} for i in range(200)}
    write(tmp_path / "x", lambda key: give(figure(key, image=images[key]))(key), keys=list(images), keys_per_shard=60)
    done = subprocess.run([sys.executable, "-c", READ, tmp_path / "x"], capture_output=True, text=True, check=True)
    total, peak_mb, text_bytes = map(int, done.stdout.split())
    assert total > 399_000_000
    assert peak_mb < 300
    assert text_bytes < 1_000_000


def test_an_array_of_whole_numbers_is_written_as_it_is_and_a_fraction_in_a_list_of_them_is_refused(tmp_path):
    settings = {"stage": "pretrain", "config": {}, "keys": ["all"], "tell": lambda *_: None}
    schema = features_schema(1, 2, "bfloat16")
    row = {"figure_id": "a", "image_sha256": b"\0" * 32, "tower": "t", "scales": [32]}
    write_all(tmp_path / "features", schema, give(row | {"features": np.array([1, 65535], np.uint16)}), **settings)
    assert open_dataset(tmp_path / "features", schema).row("a")["features"] == [1, 65535]
    with pytest.raises(DataError, match=r"'features\[1\]' must be uint16, not 0.5"):
        write_all(tmp_path / "wrong", schema, give(row | {"features": [1, 0.5]}), **settings)
