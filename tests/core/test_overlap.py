"""What a benchmark shares with training data: counted on the asked side, by file, by look and by words."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.overlap import overlap
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, PUBLISHED_QUESTIONS, QUESTIONS


def quiet(what, done, total):
    """Progress that nobody hears."""


def image(seed, side=80):
    out = io.BytesIO()
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def asked(id_, split, shown, question, *answers, name=None, benchmark="rad", **more):
    """A row of questions/1 about the image of a seed, or about given bytes."""
    data = image(shown) if isinstance(shown, int) else shown
    return {
        "question_id": id_, "benchmark": benchmark, "split": split, "kind": "open",
        "image": {"bytes": data, "path": None}, "image_id": name or f"{shown}.png", "question": question,
        "choices": [], "answers": list(answers), "category": None, **more,
    }  # fmt: skip


def figure(id_, data):
    known = {
        "figure_id": id_, "source": "test", "image": {"bytes": data, "path": None}, "width": 80, "height": 80,
        "image_sha256": hashlib.sha256(data).digest(), "caption": "", "mentions": [], "modality": "unknown",
        "license": "unknown", "commercial_ok": False, "retracted": False, "third_party": False,
    }  # fmt: skip
    return dict.fromkeys(FIGURES.names) | known


def talk(id_, figure_id, *texts):
    turns = [{"role": ("user", "assistant")[number % 2], "text": text} for number, text in enumerate(texts)]
    known = {
        "conversation_id": id_, "figure_id": figure_id, "kind": "instruct", "turns": turns, "teacher": "template",
        "teacher_planned": "template", "prompt_id": "0" * 12, "license_tags": [], "split": "train",
    }  # fmt: skip
    return dict.fromkeys(CONVERSATIONS.names) | known


def dataset(folder, schema, *rows):
    """The rows as a finished dataset."""
    by_id = {row[schema.names[0]]: row for row in rows}
    make = lambda key: Harvest(1, [by_id[key]], [])  # noqa: E731
    write_all(folder, schema, make, stage="test", config={}, keys=list(by_id), tell=quiet)
    return folder


ROWS = (
    asked("t0", "test", 1, "What is  THIS?", "A lung", "Lung"),
    asked("t1", "test", 1, "Where is it?", "left"),
    asked("t2", "test", 2, "Where is it?", "right"),
    asked("t3", "test", 3, "Who is it?", "nobody"),
    asked("l0", "train", 1, "what is this?", "lung"),
    asked("l1", "train", image(2, 160), "Where is it?", "right", name="two.png"),
    asked("l2", "train", 4, "Where is it?", "Left"),
    asked("v0", "val", 5, "Nothing else?", "no"),
)
"""Of three test images one is in train, one is there in another file, one is not."""


@pytest.fixture
def questions(tmp_path):
    return dataset(tmp_path / "questions" / "rad", QUESTIONS, *ROWS)


def compared(questions, tmp_path, *training, split="test", tell=quiet):
    told = overlap(open_dataset(questions, QUESTIONS), split, list(training), tmp_path / "hashes", tell)
    assert json.loads(json.dumps(told)) == told
    return told, {source["name"]: source for source in told["sources"]}


def numbers(source):
    """Counts of a source, in the order exact, near, questions, pairs, triples."""
    shares = [
        source["images"]["exact"],
        source["images"]["near"],
        *(source[n] for n in ("questions", "pairs", "triples")),
    ]
    return [share and share["count"] for share in shares]


def test_other_splits_of_the_benchmark_are_compared_by_image_question_and_answer(questions, tmp_path):
    told, sources = compared(questions, tmp_path)
    assert list(sources) == ["rad train", "rad val"]
    train = sources["rad train"]
    assert numbers(train) == [1, 1, 3, 3, 2]
    assert {train["images"][name]["of"] for name in ("exact", "near")} == {3}
    assert {train[name]["of"] for name in ("questions", "pairs", "triples")} == {4}
    assert numbers(sources["rad val"]) == [0, 0, 0, 0, 0]
    assert (told["rows"], told["images"], told["split"], told["benchmark"]) == (4, 3, "test", "rad")


def test_examples_name_both_sides(questions, tmp_path):
    _, sources = compared(questions, tmp_path)
    train = sources["rad train"]
    assert train["images"]["exact"]["examples"] == [{"asked": "1.png", "there": "1.png"}]
    assert train["images"]["near"]["examples"] == [{"asked": "2.png", "there": "two.png"}]
    assert {"asked": "t0", "there": "l0"} in train["triples"]["examples"]


def test_the_sentences_say_what_is_shared_and_with_whom_nothing_is(questions, tmp_path):
    told, _ = compared(questions, tmp_path)
    assert told["lines"] == [
        "1 of 3 test images are also in rad train; 1 of 3 more are there as copies; 3 of 4 test questions (75.0 %) are "
        "asked there too, 3 (75.0 %) with the same answer, 2 of them about the same image",
        "no image and no question of test is in rad val",
    ]


def test_the_names_of_images_count_where_their_files_differ(tmp_path):
    rows = asked("t", "test", 1, "What?", "a"), asked("l", "train", 2, "Who?", "b", name="1.png")
    told, sources = compared(dataset(tmp_path / "rad", QUESTIONS, *rows), tmp_path)
    assert sources["rad train"]["images"]["names"]["count"] == 1
    assert numbers(sources["rad train"])[:2] == [0, 0]
    assert told["lines"] == ["1 of 1 test images are also in rad train by their names"]


def test_names_of_another_benchmark_mean_nothing(questions, tmp_path):
    row = asked("x", "test", 7, "What is this?", "bone", name="1.png", benchmark="other")
    other = dataset(tmp_path / "questions" / "other", QUESTIONS, row)
    told, sources = compared(questions, tmp_path, other)
    assert sources["other test"]["images"]["names"] is None
    assert numbers(sources["other test"]) == [0, 0, 1, 0, 0]
    assert told["lines"][1].startswith("0 of 3 test images are in other test; 1 of 4 test questions (25.0 %)")


def test_figures_are_compared_by_file_and_by_look(questions, tmp_path):
    rows = figure("a", image(1)), figure("b", image(2, 120)), figure("c", image(9))
    pool = dataset(tmp_path / "figures" / "pool", FIGURES, *rows)
    _, sources = compared(questions, tmp_path, pool)
    found = sources["figures/pool"]
    assert numbers(found) == [1, 1, None, None, None]
    assert found["images"]["there"] == 3
    assert found["images"]["near"]["examples"] == [{"asked": "2.png", "there": "b"}]


def test_an_image_that_is_there_by_file_is_not_counted_again_for_its_copies(questions, tmp_path):
    pool = dataset(tmp_path / "figures" / "pool", FIGURES, figure("a", image(1)), figure("b", image(1, 120)))
    _, sources = compared(questions, tmp_path, pool)
    assert numbers(sources["figures/pool"])[:2] == [1, 0]


def test_conversations_are_joined_with_the_figures_they_are_about(questions, tmp_path):
    pool = dataset(tmp_path / "figures" / "pool", FIGURES, figure("a", image(1)), figure("b", image(2, 120)))
    talks = dataset(
        tmp_path / "conversations" / "instruct", CONVERSATIONS,
        talk("c0", "a", "<image>\nIs it new?", "No.", "What is this?", "Lung"), talk("c1", "b", "Who is it?", "Nobody"),
        talk("c2", "gone", "Where is it?\n<image>", "below"),
    )  # fmt: skip
    told, sources = compared(questions, tmp_path, talks, pool)
    found = sources["conversations/instruct"]
    assert numbers(found) == [1, 1, 4, 2, 1]
    assert (found["images"]["there"], found["images"]["unknown"]) == (3, 1)
    assert "1 of the 3 figures of conversations/instruct are not here to be compared" in told["lines"]


def test_conversations_without_figures_say_that_no_image_was_compared(questions, tmp_path):
    talks = dataset(tmp_path / "conversations" / "alone", CONVERSATIONS, talk("c0", "a", "Where is it?", "left"))
    told, _ = compared(questions, tmp_path, talks)
    assert told["lines"][1] == (
        "2 of 4 test questions (50.0 %) are asked in conversations/alone too, 1 (25.0 %) with the same answer"
    )
    assert "1 of the 1 figures of conversations/alone are not here to be compared" in told["lines"]


def test_what_was_not_compared_is_not_said_to_share_nothing(questions, tmp_path):
    talks = dataset(tmp_path / "conversations" / "alone", CONVERSATIONS, talk("c0", "a", "Why?", "It is."))
    pool = dataset(tmp_path / "figures" / "pool", FIGURES, figure("b", image(9)))
    told, _ = compared(questions, tmp_path, talks, pool)
    assert told["lines"][1:] == [
        "no image and no question of test is in rad val",
        "no image of test is in figures/pool",
        "no question of test is in conversations/alone",
        "1 of the 1 figures of conversations/alone are not here to be compared",
    ]


def test_splits_that_are_published_and_not_read_are_known_by_their_names(tmp_path):
    rows = (
        asked("t0", "test", 1, "What?", "a", also_in=["zh train", "zh val"]),
        asked("t1", "test", 2, "What?", "b", also_in=["zh train"]),
        asked("t2", "test", 2, "Where?", "b", also_in=["zh train"]),
        asked("t3", "test", 3, "What?", "b", also_in=[]),
        asked("l0", "train", 4, "Who?", "c", also_in=["zh test"]),
    )
    told, sources = compared(dataset(tmp_path / "slake", PUBLISHED_QUESTIONS, *rows), tmp_path)
    assert {name: one["images"]["names"]["count"] for name, one in sources.items() if one["kind"] == "names"} == {
        "slake zh train": 2, "slake zh val": 1,
    }  # fmt: skip
    assert "2 of 3 test images are also in slake zh train by their names" in told["lines"]


def test_images_that_cannot_be_decoded_are_counted_named_and_compared_by_their_bytes(tmp_path):
    broken = image(1)[:70]
    rows = asked("t0", "test", broken, "What?", "a", name="cut.png"), asked("l0", "train", 2, "Who?", "b")
    questions = dataset(tmp_path / "rad", QUESTIONS, *rows)
    pool = dataset(tmp_path / "figures" / "pool", FIGURES, figure("a", broken), figure("b", image(3)))
    told, sources = compared(questions, tmp_path, pool)
    assert numbers(sources["figures/pool"])[:2] == [1, 0]
    assert sources["figures/pool"]["images"]["undecodable"]["count"] == 1
    (line,) = [line for line in told["lines"] if "cannot be decoded" in line]
    assert line == "1 of the 2 images of figures/pool cannot be decoded, and were compared by their bytes alone: a"


def test_a_dataset_that_cannot_be_read_is_named_and_the_others_are_compared(questions, tmp_path):
    damaged = dataset(tmp_path / "figures" / "bad", FIGURES, figure("a", image(1)))
    (part,) = (damaged / "data").glob("*.arrow")
    part.write_bytes(part.read_bytes()[:-10])
    pool = dataset(tmp_path / "figures" / "pool", FIGURES, figure("a", image(1)))
    told, sources = compared(questions, tmp_path, damaged, pool, tmp_path / "nothing")
    assert list(told["skipped"]) == ["figures/bad", f"{tmp_path.name}/nothing"]
    assert "the manifest says" in told["skipped"]["figures/bad"]
    assert any(line.startswith("figures/bad was not compared: ") for line in told["lines"])
    assert numbers(sources["figures/pool"])[0] == 1


def test_the_asked_dataset_among_the_training_ones_is_passed_over(questions, tmp_path):
    told, _ = compared(questions, tmp_path, questions)
    assert [source["name"] for source in told["sources"]] == ["rad train", "rad val"]


def test_a_copy_of_the_benchmark_under_another_name_is_all_found(questions, tmp_path):
    copy = shutil.copytree(questions, tmp_path / "elsewhere" / "mine")
    _, sources = compared(questions, tmp_path, copy)
    assert numbers(sources["mine test"]) == [3, 0, 4, 4, 4]


def test_what_an_image_looks_like_is_read_once(questions, tmp_path):
    first, _ = compared(questions, tmp_path)
    again, _ = compared(questions, tmp_path)
    assert (first["hashed"]["images"], again["hashed"]["images"]) == (6, 0)
    assert again["sources"] == first["sources"]


def test_two_questions_about_two_patients_drawn_blank_share_no_image(tmp_path):
    pages = [io.BytesIO(), io.BytesIO()]
    Image.new("L", (50, 50), 128).save(pages[0], "PNG")
    Image.new("L", (60, 60), 128).save(pages[1], "PNG")
    rows = [asked(str(n), ("test", "train")[n], pages[n].getvalue(), f"{n}?", "a", name=str(n)) for n in (0, 1)]
    told, _ = compared(dataset(tmp_path / "rad", QUESTIONS, *rows), tmp_path)
    assert told["lines"] == ["no image and no question of test is in rad train"]


def test_that_there_was_nothing_to_compare_with_is_said(tmp_path):
    told, _ = compared(dataset(tmp_path / "rad", QUESTIONS, asked("1", "test", b"", "?", "a", name="1")), tmp_path)
    assert told["lines"] == [
        "nothing to compare test with: the questions have no other split, and no training data is known"
    ]


def test_a_split_without_questions_is_refused(questions, tmp_path):
    with pytest.raises(DataError, match="no question has the split 'dev'"):
        compared(questions, tmp_path, split="dev")
