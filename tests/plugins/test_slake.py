"""SLAKE: which rows are read, what they become, and where the files may come from."""

import pytest

from medvlm_cli.benchmarks import slake
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import DataError, RemoteError
from tests.plugins.benchmark_cases import hub, picture, pin, take, zipped


def entry(qid, **changes):
    return {
        "qid": qid, "img_name": "xmlab1/source.jpg", "question": "What modality is this?", "answer": "MRI",
        "q_lang": "en", "answer_type": "OPEN", "content_type": "Modality",
    } | changes  # fmt: skip


CLOSED = {"answer_type": "CLOSED", "question": "Which is bigger in this image,lung or heart?", "answer": "Lung"}
TRAIN = [entry(0), entry(1, q_lang="zh", question="什么?"), entry(2, answer="", img_name="xmlab2/source.jpg")]
COUNTS = (("train", 2, 2, 0, 2), ("val", 1, 1, 0, 1), ("test", 1, 0, 1, 1))
NAMES = ("train.json", "validation.json", "test.json")


@pytest.fixture
def contents(monkeypatch):
    """The three files, pinned: two English questions of train, one of them without an answer; one each of the rest."""
    return pin(monkeypatch, slake, [TRAIN, [entry(3)], [entry(4, **CLOSED)]], *COUNTS)


def write(root, contents, names=NAMES, images=("xmlab1", "xmlab2")):
    for name, data in zip(names, contents, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for image in images:
        (root / "imgs" / image).mkdir(parents=True)
        (root / "imgs" / image / "source.jpg").write_bytes(picture())
    return FetchConfig(mirror=(str(root),))


def test_english_questions_become_rows_with_the_authors_label(tmp_path, contents):
    rows, _ = take(slake, write(tmp_path, contents))
    assert rows["4"] == {
        "question_id": "4", "benchmark": "slake", "split": "test", "kind": "closed",
        "image": {"bytes": picture(), "path": "xmlab1/source.jpg"}, "image_id": "xmlab1/source.jpg",
        "question": "Which is bigger in this image,lung or heart?", "choices": ["Lung", "heart"], "answers": ["Lung"],
        "category": "Modality", "also_in": ["zh train"],
    }  # fmt: skip
    assert {id_: (row["split"], row["kind"]) for id_, row in rows.items()} == {
        "0": ("train", "open"), "3": ("val", "open"), "4": ("test", "closed")
    }  # fmt: skip


def test_every_row_knows_the_splits_in_another_language_that_show_its_image(tmp_path, monkeypatch):
    chinese = {"q_lang": "zh", "question": "什么?"}
    train = [entry(0, img_name="xmlab2/source.jpg"), entry(1, **chinese)]
    test = [entry(4), entry(5, **chinese), entry(6, img_name="xmlab2/source.jpg")]
    counts = (("train", 1, 1, 0, 1), ("val", 1, 1, 0, 1), ("test", 2, 2, 0, 2))
    written = pin(monkeypatch, slake, [train, [entry(3)], test], *counts)
    rows, _ = take(slake, write(tmp_path, written))
    assert {id_: row["also_in"] for id_, row in rows.items()} == {
        "0": [], "3": ["zh train", "zh test"], "4": ["zh train", "zh test"], "6": [],
    }  # fmt: skip
    assert set(slake.schema(FetchConfig()).names) == set(rows["0"])


def test_an_empty_answer_is_rejected_and_counted(tmp_path, contents):
    _, rejects = take(slake, write(tmp_path, contents))
    assert {id_: reject.reason for id_, reject in rejects.items()} == {"2": "empty_answer"}


@pytest.mark.parametrize("names", [("train.json", "validate.json", "test.json"), [f"Slake1.0/{n}" for n in NAMES]])
def test_older_names_and_a_folder_below_are_found(tmp_path, contents, names):
    rows, _ = take(slake, write(tmp_path, contents, names))
    assert set(rows) == {"0", "3", "4"}


def test_images_are_read_out_of_the_archive_without_extracting_it(tmp_path, contents):
    config = write(tmp_path, contents, images=())
    members = {f"imgs/{name}/source.jpg": picture("red") for name in ("xmlab1", "xmlab2")}
    (tmp_path / "imgs.zip").write_bytes(zipped(members))
    rows, _ = take(slake, config)
    assert {row["image"]["bytes"] for row in rows.values()} == {picture("red")}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*NAMES, "imgs.zip"))


def test_a_right_file_is_known_by_its_content_among_others_of_its_name(tmp_path, contents):
    config = write(tmp_path, contents, [f"slake/{name}" for name in NAMES])
    (tmp_path / "test.json").write_text("[]")
    rows, _ = take(slake, config)
    assert set(rows) == {"0", "3", "4"}


def test_a_missing_file_is_refused_with_the_page_and_the_command(tmp_path, contents):
    config = write(tmp_path, contents)
    (tmp_path / "test.json").unlink()
    with pytest.raises(DataError, match=r"holds no test\.json\n.*BoKelvin/SLAKE.*medvlm fetch slake --from DIR"):
        slake.keys(config)


def test_without_a_folder_the_pinned_revision_is_downloaded_once(tmp_path, contents, monkeypatch):
    images = zipped({f"imgs/{name}/source.jpg": picture() for name in ("xmlab1", "xmlab2")})
    files = dict(zip((*NAMES, "imgs.zip", "KG.zip"), (*contents, images, b"graph"), strict=True))
    config = FetchConfig(cache=str(tmp_path))
    with hub(monkeypatch, "BoKelvin/SLAKE", slake.REVISION, files) as asked:
        rows, _ = take(slake, config)
        before = list(asked)
        again, _ = take(slake, config)
    assert set(rows) == set(again) == {"0", "3", "4"}
    assert asked == before
    assert not any("KG.zip" in path for path in asked)
    assert slake.REVISION in (tmp_path / "benchmarks" / "slake" / "source.txt").read_text()


def test_offline_the_page_and_the_command_are_named(tmp_path):
    with pytest.raises(RemoteError, match=r"slake: BoKelvin/SLAKE cannot be .*\n.*medvlm fetch slake --from DIR"):
        slake.keys(FetchConfig(cache=str(tmp_path)))
