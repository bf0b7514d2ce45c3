"""PathVQA: the questions of the repository, with the images of the Drive folder."""

import pickle

import pytest

from medvlm_cli.benchmarks import pathvqa
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError, RemoteError
from tests.plugins.benchmark_cases import picture, pin, serving, take, zipped


def entry(image, *pairs):
    return {
        "img_id": image,
        "labelf": {"pvqa": [{answer: 1} for _, answer in pairs]},
        "sentf": {"pvqa": [question for question, _ in pairs]},
    }


TRAIN = [
    entry("train_0000"),
    entry("train_0001", ("Where are cells?", "in the wall"), ("Is it eye?", " Yes ")),
    entry("train_0002", ("Acute or chronic?", "acute")),
]
CONTENTS = [TRAIN, [entry("val_0000", ("Is it?", "no"))], [entry("test_0000", ("What is shown?", "Eye"))]]
COUNTS = (("train", 3, 2, 1, 2), ("val", 1, 0, 1, 1), ("test", 1, 1, 0, 1))
NAMES = ("pvqa_train.json", "pvqa_val.json", "pvqa_test.json")
IMAGES = ("train/train_0001.jpg", "train/train_0002.jpg", "val/val_0000.jpg", "test/test_0000.jpg")
IDS = {"train-0", "train-1", "train-2", "val-0", "test-0"}


@pytest.fixture
def contents(monkeypatch):
    """The three files, pinned."""
    return pin(monkeypatch, pathvqa, CONTENTS, *COUNTS)


def write(root, contents=(), below="", images="images"):
    for name, data in zip(NAMES, contents, strict=False):
        (root / below).mkdir(parents=True, exist_ok=True)
        (root / below / name).write_bytes(data)
    for name in IMAGES:
        (root / images / name).parent.mkdir(parents=True, exist_ok=True)
        (root / images / name).write_bytes(picture())
    return FetchConfig(mirror=(str(root),), cache=str(root.parent / "cache"))


def test_a_question_is_named_by_its_place_in_the_file_and_closed_by_its_answer(tmp_path, contents):
    rows, rejects = take(pathvqa, write(tmp_path / "pvqa", contents))
    assert rejects == {}
    assert rows["train-1"] == {
        "question_id": "train-1", "benchmark": "pathvqa", "split": "train", "kind": "closed",
        "image": {"bytes": picture(), "path": "train_0001.jpg"}, "image_id": "train_0001", "question": "Is it eye?",
        "choices": ["yes", "no"], "answers": ["Yes"], "category": "yes/no",
    }  # fmt: skip
    assert {id_: (row["split"], row["kind"], row["category"]) for id_, row in rows.items()} == {
        "train-0": ("train", "open", "where"), "train-1": ("train", "closed", "yes/no"),
        "train-2": ("train", "open", "other"), "val-0": ("val", "closed", "yes/no"), "test-0": ("test", "open", "what"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("below", "images"), [("baselines/method1/saved/lxmert", "data/pvqa/images"), ("", "split_images"), ("", ".")]
)
def test_questions_and_images_are_found_where_people_put_them(tmp_path, contents, below, images):
    rows, _ = take(pathvqa, write(tmp_path / "pvqa", contents, below, images))
    assert set(rows) == IDS


def test_images_are_found_by_stem_and_in_an_archive(tmp_path, contents):
    config = write(tmp_path / "pvqa", contents)
    for name in IMAGES:
        (tmp_path / "pvqa" / "images" / name).unlink()
    members = {f"pvqa/images/{name}".replace(".jpg", ".png"): picture("red", "PNG") for name in IMAGES}
    (tmp_path / "pvqa" / "pvqa.zip").write_bytes(zipped(members))
    rows, _ = take(pathvqa, config)
    assert {row["image"]["path"] for row in rows.values()} == {
        "train_0001.png", "train_0002.png", "val_0000.png", "test_0000.png"
    }  # fmt: skip


def test_the_drives_copy_gets_its_questions_from_the_repository_and_no_pickle_is_opened(tmp_path, contents):
    config = write(tmp_path / "pvqa")
    trap = tmp_path / "pvqa" / "qas" / "test" / "test_qa.pkl"
    trap.parent.mkdir(parents=True)
    trap.write_bytes(pickle.dumps(_Trap(str(tmp_path / "sprung"))))
    with serving({f"/{name}": data for name, data in zip(NAMES, contents, strict=True)}) as (address, asked):
        rows, _ = take(pathvqa, FetchConfig(mirror=config.mirror, cache=config.cache, pathvqa_files=address))
    assert set(rows) == IDS
    assert len(asked) == 3
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_without_a_folder_the_drive_and_the_command_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Google Drive.*\n.*drive\.google\.com.*medvlm fetch pathvqa --from DIR"):
        pathvqa.keys(FetchConfig(cache=str(tmp_path)))


def test_what_is_given_must_be_a_folder_before_anything_is_downloaded(tmp_path):
    with serving({}) as (address, asked), pytest.raises(ConfigError, match="nowhere is not a folder"):
        pathvqa.keys(FetchConfig(mirror=(str(tmp_path / "nowhere"),), cache=str(tmp_path), pathvqa_files=address))
    assert asked == []


def test_where_the_repository_cannot_be_reached_the_page_and_the_command_are_named(tmp_path, contents):
    config = write(tmp_path / "pvqa")
    with (
        serving({}) as (address, _),
        pytest.raises(RemoteError, match=r"pathvqa: .*\n.*UCSD-AI4H/PathVQA.*medvlm fetch pathvqa --from DIR"),
    ):
        pathvqa.keys(FetchConfig(mirror=config.mirror, cache=config.cache, pathvqa_files=address))


def test_another_file_in_the_folder_is_refused_and_nothing_downloaded_in_its_place(tmp_path, contents):
    config = write(tmp_path / "pvqa", [*contents[:2], b"[]"])
    with (
        serving({f"/{name}": data for name, data in zip(NAMES, contents, strict=True)}) as (address, asked),
        pytest.raises(DataError, match=r"pvqa_test\.json is not the published pvqa_test\.json"),
    ):
        pathvqa.keys(FetchConfig(mirror=config.mirror, cache=config.cache, pathvqa_files=address))
    assert asked == []
