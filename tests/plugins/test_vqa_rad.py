"""VQA-RAD: which rows are test, what they become, and what is refused."""

import dataclasses
import re

import pytest

from medvlm_cli.benchmarks import vqa_rad
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError, RemoteError
from tests.plugins.benchmark_cases import picture, pin, serving, take, zipped

NAME = "VQA_RAD Dataset Public.json"


def entry(qid, **changes):
    return {
        "qid": qid, "phrase_type": "freeform", "image_name": "synpic1.jpg", "question": "Is it normal?",
        "answer": "Yes", "answer_type": "CLOSED", "question_type": "PRES",
    } | changes  # fmt: skip


ROWS = [
    entry("0", answer_type="CLOSED ", question_type="POS, PRES"),
    entry(1, answer=4, answer_type="OPEN", question_type="ATRIB", question=" How many? "),
    entry(2, phrase_type="para", image_name="synpic2.jpg", question_type="PRSE"),
    entry(3, phrase_type="test_freeform", question="Is this an MRI or a CT scan?", answer="MRI", question_type="Other"),
    entry(4, phrase_type="test_para", answer="No ", question_type="ABN"),
]
COUNTS = (("train", 3, 1, 2, 2), ("test", 2, 0, 2, 1))


@pytest.fixture
def content(monkeypatch):
    """The published file, pinned: three questions of train and two of test."""
    return pin(monkeypatch, vqa_rad, [ROWS], *COUNTS)[0]


def write(root, content, folder="VQA_RAD Image Folder"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / NAME).write_bytes(content)
    (root / folder / "synpic1.jpg").write_bytes(picture("red"))
    (root / folder / "synpic2.jpg").write_bytes(picture("blue"))
    return FetchConfig(mirror=(str(root),))


def test_the_phrase_type_tells_the_split_and_the_label_the_kind(tmp_path, content):
    rows, rejects = take(vqa_rad, write(tmp_path, content))
    assert {id_: (row["split"], row["kind"]) for id_, row in rows.items()} == {
        "0": ("train", "closed"), "1": ("train", "open"), "2": ("train", "closed"), "3": ("test", "closed"),
        "4": ("test", "closed"),
    }  # fmt: skip
    assert rejects == {}


def test_a_number_for_an_answer_becomes_text(tmp_path, content):
    rows, _ = take(vqa_rad, write(tmp_path, content))
    assert rows["1"] == {
        "question_id": "1", "benchmark": "vqa-rad", "split": "train", "kind": "open",
        "image": {"bytes": picture("red"), "path": "synpic1.jpg"}, "image_id": "synpic1.jpg", "question": "How many?",
        "choices": [], "answers": ["4"], "category": "ATTRIB",
    }  # fmt: skip


def test_misspelt_types_and_pairs_of_types_are_folded(tmp_path, content):
    rows, _ = take(vqa_rad, write(tmp_path, content))
    assert [rows[str(number)]["category"] for number in range(5)] == ["POS", "ATTRIB", "PRES", "OTHER", "ABN"]


def test_closed_questions_list_what_they_let_choose(tmp_path, content):
    rows, _ = take(vqa_rad, write(tmp_path, content))
    assert [rows[id_]["choices"] for id_ in ("3", "4")] == [["MRI", "ct"], ["yes", "no"]]


@pytest.mark.parametrize("folder", ["images", "osfstorage/vqa_rad image folder", "."])
def test_images_are_found_wherever_they_lie(tmp_path, content, folder):
    rows, _ = take(vqa_rad, write(tmp_path, content, folder))
    assert len(rows) == 5


@pytest.mark.parametrize(("data", "reason"), [(None, "missing_image"), (picture()[:60], "corrupt_image")])
def test_every_question_about_a_missing_or_broken_image_is_rejected(tmp_path, content, data, reason):
    config = write(tmp_path, content, "images")
    path = tmp_path / "images" / "synpic1.jpg"
    path.write_bytes(data) if data else path.unlink()
    rows, rejects = take(vqa_rad, config)
    assert set(rows) == {"2"}
    assert {id_: reject.reason for id_, reject in rejects.items()} == dict.fromkeys(("0", "1", "3", "4"), reason)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, content):
    config = write(tmp_path / "given", content, "images")
    image = tmp_path / "given" / "images" / "synpic2.jpg"
    image.rename(tmp_path / "secret.jpg")
    image.symlink_to(tmp_path / "secret.jpg")
    _, rejects = take(vqa_rad, config)
    assert "leads out of" in rejects["2"].message


def test_another_file_is_refused_with_both_counts_and_both_hashes(tmp_path, content, monkeypatch):
    config = write(tmp_path, content)
    pin(monkeypatch, vqa_rad, [ROWS[:-1]], ("train", 3, 1, 2, 2), ("test", 1, 0, 1, 1))
    message = (
        f"{NAME} is not the published {NAME}: found train 3 questions (1 open, 2 closed) on 2 images; "
        "test 2 questions (0 open, 2 closed) on 1 images, expected train 3 questions (1 open, 2 closed) on 2 images; "
        "test 1 questions (0 open, 1 closed) on 1 images; sha256 "
    )
    with pytest.raises(DataError, match=re.escape(message) + r"[0-9a-f]{64}, expected [0-9a-f]{64}\n  fix: download"):
        vqa_rad.keys(config)


def test_the_right_file_of_another_count_is_refused(tmp_path, monkeypatch):
    (content,) = pin(monkeypatch, vqa_rad, [ROWS], ("train", 3, 1, 2, 2), ("test", 451, 179, 272, 203))
    with pytest.raises(DataError, match=r"test 2 questions .* expected .* test 451 questions \(179 open, 272 closed\)"):
        vqa_rad.keys(write(tmp_path, content))


@pytest.mark.parametrize("data", [b"", b"<html>", b"[1]", b'{"a": 1}', b'[{"qid": 1}]', b"[" * 100_000])
def test_a_file_of_something_else_is_refused(tmp_path, content, data):
    config = write(tmp_path, content)
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(DataError, match=r"nothing that can be read as questions|is empty"):
        vqa_rad.keys(config)


def test_what_is_given_must_be_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        vqa_rad.keys(FetchConfig(mirror=(str(tmp_path / "nowhere"),)))


def test_without_a_folder_the_archive_is_downloaded_once(tmp_path, content):
    images = {f"VQA_RAD Image Folder/synpic{number}.jpg": picture() for number in (1, 2)}
    archive = zipped({NAME: content} | images)
    with serving({"/v1/resources/89kps/providers/osfstorage/": archive}) as (address, asked):
        config = FetchConfig(osf=address, cache=str(tmp_path))
        rows, rejects = take(vqa_rad, config)
        take(vqa_rad, config)
    assert (len(rows), rejects) == (5, {})
    assert len(asked) == 1


def test_a_page_instead_of_the_archive_is_not_kept(tmp_path, content):
    with (
        serving({"/v1/resources/89kps/providers/osfstorage/": b"<html>maintenance</html>"}) as (address, _),
        pytest.raises(RemoteError, match="not a whole zip archive"),
    ):
        vqa_rad.keys(FetchConfig(osf=address, cache=str(tmp_path)))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_where_nothing_can_be_downloaded_the_page_and_the_command_are_named(tmp_path):
    with (
        serving({}) as (address, _),
        pytest.raises(RemoteError, match=r"vqa-rad: .*\n.*osf\.io/89kps/.* medvlm fetch vqa-rad --from DIR"),
    ):
        vqa_rad.keys(FetchConfig(osf=address, cache=str(tmp_path)))


def test_the_cache_does_not_stand_in_for_a_folder_that_lacks_the_file(tmp_path, content):
    write(tmp_path / "cache" / "benchmarks" / "vqa-rad", content)
    (tmp_path / "given").mkdir()
    with pytest.raises(DataError, match=f"given holds no {NAME}"):
        vqa_rad.keys(FetchConfig(mirror=(str(tmp_path / "given"),), cache=str(tmp_path / "cache")))


def test_without_a_cache_folder_downloads_go_to_the_users(tmp_path, content, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write(tmp_path / "medvlm" / "benchmarks" / "vqa-rad", content)
    monkeypatch.setattr(vqa_rad, "BENCHMARK", dataclasses.replace(vqa_rad.BENCHMARK, download=lambda *_: None))
    rows, _ = take(vqa_rad, FetchConfig())
    assert len(rows) == 5
