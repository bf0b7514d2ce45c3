"""A benchmark answered with and without sight, scored by both protocols, and refused where it cannot be scored."""

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch

from medvlm_cli.core import questioning
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import EvalConfig
from medvlm_cli.core.errors import BusyError, ConfigError, DataError
from medvlm_cli.core.features import Cache
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.three_scale import S2ClipVisionModel
from medvlm_cli.core.samples import Figures, Split
from medvlm_cli.core.schemas import QUESTIONS
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.files import asked as items_of
from medvlm_cli.core.scoring.intervals import mean_with_interval
from medvlm_cli.stages.evaluate import Beside, evaluate
from tests.inside import medvlm
from tests.stages.eval_cases import CONFIG, WORDS, answers, png, question, silent, write
from tests.training_cases import ROWS, picture


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Twelve questions about six images, in an order that is not that of their ids."""
    folder = tmp_path_factory.mktemp("asked") / "questions"
    return write(folder, [question(number) for number in reversed(range(12))])


@pytest.fixture(scope="module")
def evaluated(asked, tiny_checkpoint, tmp_path_factory):
    """Summary, scores and folder of a finished run over ``asked``."""
    out = tmp_path_factory.mktemp("evaluated") / "answers" / "small-vqa"
    summary = evaluate(asked, tiny_checkpoint, out, CONFIG, silent)
    return summary, json.loads((out / "scores.json").read_text()), out


def test_every_question_is_answered_once_with_its_prompt(evaluated):
    rows = answers(evaluated[2])
    assert [row["question_id"] for row in rows] == [f"q{number:02d}" for number in range(12)]
    assert [WORDS[number % 4] in row["prompt"] for number, row in enumerate(rows)] == [True] * 12
    assert [row["prompt"].count("<image>") for row in rows] == [1] * 12


def test_a_row_holds_what_both_protocols_give_its_answer(evaluated, asked):
    rows, items = answers(evaluated[2]), items_of(open_dataset(asked, QUESTIONS), "test")
    said = {row["question_id"]: row["answer"] for row in rows}
    published, honest = llama3med.published(items, said).rows, strict.strict(items, said).rows
    float32 = pytest.approx
    assert [row["llama3med_recall"] for row in rows[::2]] == [
        float32(published[row["question_id"]]["recall"]) for row in rows[::2]
    ]
    assert [row["strict_f1"] for row in rows[::2]] == [float32(honest[row["question_id"]]["f1"]) for row in rows[::2]]
    assert [row["strict_unparsed"] for row in rows[1::2]] == [honest[f"q{n:02d}"]["unparsed"] for n in range(1, 12, 2)]
    assert {row["strict_accuracy"] for row in rows[::2]} == {row["strict_recall"] for row in rows[1::2]} == {None}


def test_the_blank_image_hides_the_image_and_nothing_else(evaluated):
    seen, blank = answers(evaluated[2]), answers(evaluated[2].with_name("small-vqa-blank"))
    assert [row["prompt"] for row in blank] == [row["prompt"] for row in seen]
    assert len({row["answer"] for row in blank}) <= len(WORDS)  # the same words, the same answer
    assert len({row["answer"] for row in seen}) > len(WORDS)


def test_the_scores_name_what_was_measured(evaluated, asked, tiny_checkpoint):
    summary, scores, out = evaluated
    assert scores["schema"] == "scores/1"
    assert scores["questions"] == {
        "rows": 12, "images": 6, "open": 6, "closed": 6, "dataset": "questions",
        "manifest_sha256": hashlib.sha256((asked / "manifest.json").read_bytes()).hexdigest(),
    }  # fmt: skip
    run_sha256 = hashlib.sha256((tiny_checkpoint / "run.json").read_bytes()).hexdigest()
    assert scores["checkpoint"] == {"name": f"finetune@{run_sha256[:12]}", "run_sha256": run_sha256}
    assert scores["prompt"] == questioning.told("llama3med", "") | {"example": answers(out)[0]["prompt"]}
    assert list(scores["protocols"].values()) == ["llama3med/1", "llavamed-batch/1", "strict/1"]
    assert set(scores["versions"]) == {"medvlm", "python", "torch", "transformers", "pyarrow", "numpy"}
    manifests = [out / "manifest.json", out.with_name("small-vqa-blank") / "manifest.json"]
    assert list(scores["answers"].values()) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in manifests]
    assert (summary["questions"], summary["images"], summary["scores"]) == (12, 6, str(out / "scores.json"))


def test_the_scores_are_those_of_the_written_answers(evaluated):
    _, scores, out = evaluated
    rows, images = answers(out)[::2], [f"image{number // 2}" for number in range(0, 12, 2)]
    recall = mean_with_interval([row["strict_recall"] for row in rows], images, 200, 0)
    told = scores["sheets"]["model"]["strict"]["recall"]
    assert told == pytest.approx(vars(recall))
    assert scores["sheets"]["model"]["categories"]["open things"]["strict"]["recall"] == told
    assert scores["interval"] == {
        "level": 0.95, "method": "percentile bootstrap over images", "draws": 200, "seed": 0,
    }  # fmt: skip


def test_the_headline_has_both_protocols_for_the_model_and_for_what_needs_no_eyes(evaluated):
    summary = evaluated[0]
    assert list(summary["headline"]) == ["model", "always no", "best constant", "blank image"]
    columns = ["llama3med open", "llama3med closed", "strict open", "strict closed"]
    assert [list(row)[:4] for row in summary["headline"].values()] == [columns] * 4
    assert [summary["headline"]["best constant"][name] for name in columns] == [100.0] * 4  # every gold is the same
    assert summary["headline"]["always no"]["strict closed"] == 0.0
    assert summary["interval_95"]["model"]["strict open"].count(" to ") == 1


def test_gold_answers_score_full_marks_by_the_strict_protocol(evaluated, tiny_checkpoint, tmp_path):
    golds = {row["question_id"]: row["answer"] for row in answers(evaluated[2])}
    rows = [question(number, answers=[golds[f"q{number:02d}"] or "none"]) for number in range(12)]
    summary = evaluate(write(tmp_path / "gold", rows), tiny_checkpoint, tmp_path / "again", CONFIG, silent)
    wordless = sum(not strict.words(gold) for gold in golds.values())
    assert summary["headline"]["model"]["strict open"] > 100 * (6 - wordless) / 6 - 0.01
    assert summary["headline"]["model"]["strict closed"] > 100 * (6 - wordless) / 6 - 0.01
    assert wordless < 3


def test_the_train_prior_knows_the_other_splits_of_the_questions(tiny_checkpoint, tmp_path):
    known = [question(2 * i + 20, split="train", answers=[gold]) for i, gold in enumerate(["right", "lung", "lung"])]
    folder = write(tmp_path / "questions", [question(0, question="Seen?"), *known])
    summary = evaluate(folder, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert summary["headline"]["train prior"]["strict open"] == 50.0
    assert "split train" in summary["train prior"]


def test_without_closed_questions_there_is_no_closed_score(tiny_checkpoint, tmp_path):
    folder = write(tmp_path / "questions", [question(0, category=None)])
    summary = evaluate(folder, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert summary["headline"]["model"]["strict closed"] is None
    assert "other, open" in summary["categories"]


def test_the_page_shows_every_answer(evaluated):
    page = (evaluated[2] / "report.html").read_text()
    assert [f"q{number:02d}" for number in range(12) if f"q{number:02d}" not in page] == []
    assert page.count("data:image/") == 6


@pytest.mark.parametrize(
    ("prompt", "kinds"), [("short", {"open", "closed"}), ("llavamed-options", {"closed"}), ("llama3med", set())]
)
def test_a_preset_puts_its_words_behind_the_questions_of_its_kinds(
    evaluated, asked, tiny_checkpoint, tmp_path, prompt, kinds
):
    config = dataclasses.replace(CONFIG, prompt=prompt)
    evaluate(asked, tiny_checkpoint, tmp_path / "out", config, silent)
    plain = {row["question_id"]: row["prompt"] for row in answers(evaluated[2])}
    rows = {row["question_id"]: row["prompt"] for row in answers(tmp_path / "out")}
    changed = {("open", "closed")[int(id_[1:]) % 2] for id_ in plain if rows[id_] != plain[id_]}
    assert changed == kinds
    added = questioning.PROMPTS[prompt].closed.removeprefix("{question}").strip()
    assert added in rows["q01"]


def test_a_system_text_stands_before_every_question(asked, tiny_checkpoint, tmp_path):
    evaluate(asked, tiny_checkpoint, tmp_path / "out", dataclasses.replace(CONFIG, system="Be brief."), silent)
    places = [(row["prompt"].find("Be brief."), row["prompt"].find("<image>")) for row in answers(tmp_path / "out")]
    assert {0 < system < image for system, image in places} == {True}


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="llama3med, llavamed-options, short"):
        EvalConfig(prompt="llava")


def test_vllm_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="no three-scale tower") as raised:
        EvalConfig(engine="vllm")
    assert raised.value.exit_code == 2


def test_a_finished_run_loads_no_model_and_gives_the_same_scores(evaluated, asked, tiny_checkpoint):
    summary, scores, out = evaluated
    told = []
    again = evaluate(asked, tiny_checkpoint, out, CONFIG, lambda what, done, total: told.append(what))
    assert (again, set(told)) == (summary, {"score", "report"})
    assert json.loads((out / "scores.json").read_text()) | {"made": scores["made"]} == scores


@pytest.mark.parametrize(
    "changes", [{"prompt": "short"}, {"system": "Be brief."}, {"max_new_tokens": 7}, {"precision": "fp32"}]
)
def test_answers_to_another_prompt_or_otherwise_decoded_are_not_mixed_in(evaluated, asked, tiny_checkpoint, changes):
    with pytest.raises(BusyError, match=next(iter(changes))):
        evaluate(asked, tiny_checkpoint, evaluated[2], dataclasses.replace(CONFIG, **changes), silent)


def test_other_draws_score_the_same_answers_again(evaluated, asked, tiny_checkpoint, tmp_path):
    out = tmp_path / "small-vqa"
    shutil.copytree(evaluated[2], out)
    shutil.copytree(evaluated[2].with_name("small-vqa-blank"), tmp_path / "small-vqa-blank")
    config = dataclasses.replace(CONFIG, draws=300, seed=1)
    evaluate(asked, tiny_checkpoint, out, config, silent)
    assert json.loads((out / "scores.json").read_text())["interval"]["draws"] == 300


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


def test_each_image_is_encoded_once_without_a_cache_too(asked, tiny_checkpoint, tmp_path, encoded):
    evaluate(asked, tiny_checkpoint, tmp_path / "out", CONFIG, silent)
    assert sum(encoded) == 7  # six, and the blank one


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
    evaluate(folder, tiny_checkpoint, tmp_path / "out", CACHED, silent, Beside(features=tmp_path / "features"))
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


def test_the_flags_set_the_settings(asked, tiny_checkpoint):
    ask = ["eval", "--bench", asked, "--checkpoint", tiny_checkpoint, "--dry-run", "--json"]
    done = medvlm(*ask, "--cache-features", "--shard", "1/3")
    settings = json.loads(done.stdout)["settings"]
    assert (settings["cache_features"], settings["shard"]) == (True, "1/3")


def test_a_missing_checkpoint_is_an_error_that_says_how_to_make_one(asked, tmp_path):
    with pytest.raises(DataError, match=r"medvlm finetune.*make demo"):
        evaluate(asked, tmp_path / "nowhere", tmp_path / "out", CONFIG, silent)
    assert not (tmp_path / "out").exists()
