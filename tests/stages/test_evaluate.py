"""A benchmark answered with and without sight, scored, resumed, and refused where it cannot be scored."""

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from medvlm_cli.core import score
from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.config import EvalConfig
from medvlm_cli.core.errors import BusyError, DataError
from medvlm_cli.core.features import Cache
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.three_scale import S2ClipVisionModel
from medvlm_cli.core.samples import Figures, Split
from medvlm_cli.core.schemas import ANSWERS, QUESTIONS
from medvlm_cli.stages.evaluate import evaluate
from tests.training_cases import ROWS, picture

CONFIG = EvalConfig(batch=2, max_new_tokens=6)
WORDS = ("What is shown?", "Is there a nodule in the left lung?", "Where?", "A CT?")


def png(seed):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def question(number, **changes):
    """One row of questions/1: open and closed by turns, two questions an image."""
    kind = ("open", "closed")[number % 2]
    row = {
        "question_id": f"q{number:02d}",
        "benchmark": "small-vqa",
        "split": "test",
        "kind": kind,
        "image": {"bytes": png(number // 2), "path": None},
        "image_id": f"image{number // 2}",
        "question": WORDS[number % 4],
        "choices": [],
        "answers": ["yes" if kind == "closed" else "left lung"],
        "category": f"{kind} things",
    }
    return row | changes


def write(folder, rows):
    by_id = {row["question_id"]: row for row in rows}
    made = {"stage": "fetch", "config": {}, "keys": list(by_id), "tell": silent}
    write_all(folder, QUESTIONS, lambda key: Harvest(1, [by_id[key]], []), **made)
    return folder


def silent(what, done, total):
    """Progress that nobody watches."""


def answers(folder):
    """The rows of an answers dataset in order of their ids, without their times."""
    rows = sorted(open_dataset(folder, ANSWERS).rows(), key=lambda row: row["question_id"])
    return [row | {"seconds": None} for row in rows]


@pytest.fixture
def asked(tmp_path):
    """Twelve questions about six images, in an order that is not that of their ids."""
    return write(tmp_path / "questions", [question(number) for number in reversed(range(12))])


@pytest.fixture
def evaluated(asked, tiny_checkpoint, tmp_path):
    """Summary, report and folder of a finished run over ``asked``."""
    out = tmp_path / "answers" / "small-vqa"
    summary = evaluate(asked, tiny_checkpoint, out, CONFIG, silent)
    return summary, json.loads((out / "report.json").read_text()), out


def test_every_question_is_answered_once_with_its_prompt_and_its_score(evaluated):
    rows = answers(evaluated[2])
    assert [row["question_id"] for row in rows] == [f"q{number:02d}" for number in range(12)]
    assert [WORDS[number % 4] in row["prompt"] for number, row in enumerate(rows)] == [True] * 12
    assert [row["prompt"].count("<image>") for row in rows] == [1] * 12
    opened = rows[::2]
    assert [row["recall"] for row in opened] == [score.open_recall(row["answer"], ["left lung"]) for row in opened]
    assert {row["accuracy"] for row in rows[1::2]} <= {0.0, 1.0}
    assert {row["accuracy"] for row in rows[::2]} == {row["recall"] for row in rows[1::2]} == {None}


def test_rows_lie_in_order_of_their_ids_within_a_shard(evaluated):
    ids = [row["question_id"] for row in open_dataset(evaluated[2], ANSWERS).rows()]
    shards = json.loads((evaluated[2] / "manifest.json").read_text())["files"]
    ends = np.cumsum([facts["rows"] for facts in shards.values()])
    parts = [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert len(parts) > 1
    assert parts == [sorted(part) for part in parts]


def test_the_blank_image_hides_the_image_and_nothing_else(evaluated):
    seen, blank = answers(evaluated[2]), answers(evaluated[2].with_name("small-vqa-blank"))
    assert [row["prompt"] for row in blank] == [row["prompt"] for row in seen]
    assert len({row["answer"] for row in blank}) <= len(WORDS)  # the same words, the same answer
    assert len({row["answer"] for row in seen}) > len(WORDS)


def test_the_report_names_what_was_measured(evaluated, asked, tiny_checkpoint):
    summary, report, out = evaluated
    assert report["schema"] == "report/1"
    assert report["questions"] == {
        "rows": 12, "images": 6, "open": 6, "closed": 6, "dataset": "questions",
        "manifest_sha256": hashlib.sha256((asked / "manifest.json").read_bytes()).hexdigest(),
    }  # fmt: skip
    run_sha256 = hashlib.sha256((tiny_checkpoint / "run.json").read_bytes()).hexdigest()
    assert report["checkpoint"] == {"name": f"finetune@{run_sha256[:12]}", "run_sha256": run_sha256}
    assert report["prompt"] == answers(out)[0]["prompt"]
    assert report["protocol"] == score.PROTOCOL
    assert set(report["versions"]) == {"medvlm", "python", "torch", "transformers", "pyarrow", "numpy"}
    assert (summary["questions"], summary["images"], summary["report"]) == (12, 6, str(out / "report.json"))


def test_the_report_holds_the_scores_of_the_written_answers(evaluated):
    _, report, out = evaluated
    rows = answers(out)
    images = [f"image{number // 2}" for number in range(12)]
    recall = score.mean_with_interval([row["recall"] for row in rows[::2]], images[::2])
    assert report["scores"]["model"]["open_recall"] == vars(recall)
    assert report["scores"]["model"]["categories"]["open things"] == vars(recall)
    closed = [score.closed_choice(row["answer"], ["yes"]) for row in rows[1::2]]
    assert report["scores"]["model"]["closed_unparsed"] == sum(named is None for named in closed) / 6


def test_the_table_has_the_model_and_what_needs_no_eyes(evaluated):
    summary = evaluated[0]
    assert list(summary["table"]) == ["model", "blank image", "always"]
    columns = ["open recall", "closed accuracy", "closed things", "open things", "closed unparsed"]
    assert [list(row) for row in summary["table"].values()] == [columns] * 3
    assert summary["table"]["always"] == dict(zip(columns, [100.0, 100.0, 100.0, 100.0, 0.0], strict=True))
    assert summary["interval_95"]["model"]["open recall"].count(" to ") == 1


def test_gold_answers_score_full_marks(evaluated, tiny_checkpoint, tmp_path):
    golds = {row["question_id"]: row["answer"] for row in answers(evaluated[2])}
    rows = [question(number, answers=[golds[f"q{number:02d}"] or "none"]) for number in range(12)]
    summary = evaluate(write(tmp_path / "gold", rows), tiny_checkpoint, tmp_path / "again", CONFIG, silent)
    wordless = sum(not score.words(gold) for gold in golds.values())
    assert summary["table"]["model"]["open recall"] > 100 * (6 - wordless) / 6 - 0.01
    assert summary["table"]["model"]["closed accuracy"] > 100 * (6 - wordless) / 6 - 0.01
    assert wordless < 3


@pytest.mark.parametrize(
    ("others", "recall", "said"),
    [
        ([], 100.0, "split test itself"),
        ([("train", "right"), ("train", "right lung"), ("train", "right lung"), ("val", "left lung")], 50.0, "train"),
        ([("val", "left")], 50.0, "split val"),
        ([("train", "b right"), ("train", "a lung"), ("val", "left lung")], 50.0, "split train"),
    ],
)
def test_the_constant_answer_comes_from_another_split_where_there_is_one(
    tiny_checkpoint, tmp_path, others, recall, said
):
    known = [question(2 * i + 20, split=split, answers=[gold]) for i, (split, gold) in enumerate(others)]
    folder = write(tmp_path / "questions", [question(0), *known])
    summary = evaluate(folder, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert summary["table"]["always"]["open recall"] == recall
    assert said in summary["always"]


def test_a_category_without_a_training_question_gets_the_commonest_of_its_kind(tiny_checkpoint, tmp_path):
    known = [question(20, split="train", category="other things"), question(21, split="train", answers=["no"])]
    folder = write(tmp_path / "questions", [question(0), *known])
    summary = evaluate(folder, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert summary["table"]["always"]["open recall"] == 100.0


def test_without_closed_questions_there_is_no_closed_score(tiny_checkpoint, tmp_path):
    folder = write(tmp_path / "questions", [question(0, category=None)])
    summary = evaluate(folder, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert summary["table"]["model"]["closed accuracy"] is None
    assert "other" in summary["table"]["model"]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(("phase", "at"), [("answer", 7), ("answer, blank image", 5)])
def test_a_killed_run_resumes_and_ends_like_one_that_was_not(asked, tiny_checkpoint, tmp_path, evaluated, phase, at):
    config = EvalConfig(batch=1, max_new_tokens=6)  # four questions a shard

    def kill(what, done, total):
        if (what, done) == (phase, at):
            raise Killed

    out, told = tmp_path / "killed", []
    with pytest.raises(Killed):
        evaluate(asked, tiny_checkpoint, out, config, kill)
    evaluate(asked, tiny_checkpoint, out, config, lambda what, done, total: told.append((what, done)))
    assert answers(out) == answers(evaluated[2])
    assert answers(tmp_path / "killed-blank") == answers(evaluated[2].with_name("small-vqa-blank"))
    assert 0 < sum(what == phase for what, _ in told) < 12
    assert told[-1] == ("answer, blank image", 12)


def test_a_finished_run_loads_no_model_and_gives_the_same_scores(evaluated, asked, tiny_checkpoint):
    summary, report, out = evaluated
    told = []
    again = evaluate(asked, tiny_checkpoint, out, CONFIG, lambda what, done, total: told.append(what))
    assert (again, told) == (summary, [])
    assert json.loads((out / "report.json").read_text()) == report


def test_answers_of_another_model_are_not_mixed_in(evaluated, asked, tiny_checkpoint, tmp_path):
    other = tmp_path / "finetune"
    shutil.copytree(tiny_checkpoint, other)
    (other / "run.json").write_text('{"trained": "again"}')
    with pytest.raises(BusyError, match="checkpoint"):
        evaluate(asked, other, evaluated[2], CONFIG, silent)


def test_a_corrupt_image_is_named_before_the_model_is_loaded(tiny_checkpoint, tmp_path):
    broken = question(3, image={"bytes": png(0)[:-30], "path": None})
    folder, told = write(tmp_path / "questions", [question(0), broken]), []
    with pytest.raises(DataError, match=f"{folder}, question q03"):
        evaluate(folder, tiny_checkpoint, tmp_path / "out", CONFIG, lambda what, done, total: told.append(what))
    assert set(told) == {"check images"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "train"}, "no question of split 'test'; splits: train"),
        ({"answers": []}, "question q00: kind 'open' and 0 gold answers"),
        ({"kind": "essay"}, "question q00: kind 'essay'"),
    ],
)
def test_questions_that_cannot_be_scored_are_refused(tiny_checkpoint, tmp_path, changes, message):
    folder = write(tmp_path / "questions", [question(0, **changes)])
    with pytest.raises(DataError, match=message):
        evaluate(folder, tiny_checkpoint, tmp_path / "out", CONFIG, silent)


@pytest.fixture
def encoded(monkeypatch):
    """How many images each call of any tower had."""
    calls, encode = [], S2ClipVisionModel.encode

    def counted(tower, pixels):
        calls.append(len(pixels))
        return encode(tower, pixels)

    monkeypatch.setattr(S2ClipVisionModel, "encode", counted)
    return calls


CACHED = dataclasses.replace(CONFIG, cache_features=True)


def test_answers_from_the_cache_are_the_same_and_each_image_is_encoded_once(
    evaluated, asked, tiny_checkpoint, tmp_path, encoded
):
    out, again = tmp_path / "cached" / "answers", tmp_path / "cached" / "again"
    evaluate(asked, tiny_checkpoint, out, CACHED, silent)
    assert encoded == [6, 1]  # the images, before the first answer, and the blank one
    evaluate(asked, tiny_checkpoint, again, CACHED, silent)
    assert encoded[2:] == [1]
    assert answers(out) == answers(again) == answers(evaluated[2])
    assert len(list((tmp_path / "cached" / "features").glob("*/*"))) == 1


def test_an_image_of_the_training_figures_is_not_encoded_again(training_data, tiny_checkpoint, tmp_path, encoded):
    model, processor = load(str(tiny_checkpoint), torch.device("cpu"), torch.float32)
    split = Split(training_data / "captions", Figures([training_data / "figures"]), "caption")
    Cache(tmp_path / "features", model, processor).make(split.originals(), silent)
    images = [png(0), picture(3), picture(4)]
    rows = [question(number, image={"bytes": data, "path": None}) for number, data in enumerate(images)]
    folder = write(tmp_path / "questions", rows)
    evaluate(folder, tiny_checkpoint, tmp_path / "out", CACHED, silent, tmp_path / "features")
    assert encoded == [ROWS, 1, 1]  # the figures, the one image that is new, the blank one


def test_a_corrupt_image_is_named_before_anything_is_answered_and_not_tried_twice(tiny_checkpoint, tmp_path, encoded):
    broken = [question(number, image={"bytes": png(0)[:-30], "path": None}) for number in (2, 3)]
    folder, told = write(tmp_path / "questions", [question(0), *broken]), []
    expected = f"{folder}, question q02: its image could not be decoded, see "
    with pytest.raises(DataError, match=expected):
        evaluate(folder, tiny_checkpoint, tmp_path / "out", CACHED, silent)
    with pytest.raises(DataError, match=expected):
        evaluate(folder, tiny_checkpoint, tmp_path / "out", CACHED, lambda what, *_: told.append(what))
    assert encoded == [1]
    assert set(told) == {"load model", "look up images"}


def test_int8_features_are_used_and_their_error_is_told(asked, tiny_checkpoint, tmp_path):
    told, config = [], dataclasses.replace(CACHED, cache_precision="int8")
    evaluate(asked, tiny_checkpoint, tmp_path / "out", config, lambda what, *_: told.append(what))
    assert [what for what in told if what.startswith("features in int8: relative error ")] != []


def test_the_flag_sets_the_setting(asked, tiny_checkpoint, tmp_path):
    command = [sys.executable, "-m", "medvlm_cli", "eval", "--bench", str(asked), "--checkpoint", str(tiny_checkpoint)]
    told = subprocess.check_output([*command, "--cache-features", "--dry-run", "--json"], cwd=tmp_path, text=True)
    assert json.loads(told)["settings"]["cache_features"] is True


def test_a_missing_checkpoint_is_an_error_that_says_how_to_make_one(asked, tmp_path):
    with pytest.raises(DataError, match=r"medvlm finetune.*make demo"):
        evaluate(asked, tmp_path / "nowhere", tmp_path / "out", CONFIG, silent)
    assert not (tmp_path / "out").exists()
