"""The third step: a benchmark's train split is learnt, and what it shares with the test split is not, unless told."""

import hashlib
import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from medvlm_cli.benchmarks.train_split import train_split
from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.config import FinetuneConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, QUESTIONS
from medvlm_cli.core.workspace import Workspace
from medvlm_cli.stages.finetune import finetune_on_benchmark
from tests.training_cases import SETTINGS, picture, quiet

SHORT = {**SETTINGS, "batch": 4, "micro_batch": 4, "epochs": 1.0, "lr": 1e-3}


def question(key):
    """One question: ``split/number/image``, where the image is a number of ``picture``, or names a copy of it."""
    split, number, image = key.split("/")
    shown = int(image.removesuffix("jpeg").removesuffix("grey"))
    return {
        "question_id": f"{split}{number}", "benchmark": "vqa-rad", "split": split, "kind": "closed",
        "image": {"bytes": shot(image, shown), "path": None}, "image_id": f"{split}-{image}.png",
        "question": f"Is it bright on the left, {number}?", "choices": [],
        "answers": [("no", "yes")[shown % 2], "maybe"], "category": None,
    }  # fmt: skip


def shot(image, shown):
    """The picture of a number, or a copy of it in another file."""
    data, out = picture(shown), io.BytesIO()
    opened = Image.open(io.BytesIO(data))
    if image.endswith("grey"):
        opened.convert("L").save(out, "PNG")
    elif image.endswith("jpeg"):
        opened.save(out, "JPEG", quality=90)
    return out.getvalue() or data


def benchmark(folder, *keys):
    """A questions dataset."""
    write_all(
        folder, QUESTIONS, lambda key: Harvest(1, [question(key)], []), stage="fetch", config={}, keys=keys, tell=quiet
    )
    return folder


CLEAN = ("train/0/1", "train/1/1", "train/2/2", "train/3/3", "val/0/4", "test/0/5", "test/1/6")
LEAKING = (*CLEAN, "train/4/5", "train/5/5", "train/6/7", "test/2/5")
"""Two rows of train show the image of two rows of test: one of two test images, two of seven train rows."""
SHARED = {"images": 1, "near_images": 0, "test_images": 2, "rows": 2, "near_rows": 0, "train_rows": 7}
COPIED = (*LEAKING, "train/7/6jpeg", "train/8/6grey")
"""And two more rows of train show copies, in other files, of the other test image."""


@pytest.fixture
def clean(tmp_path):
    return benchmark(tmp_path / "questions" / "vqa-rad", *CLEAN)


@pytest.fixture
def leaking(tmp_path):
    return benchmark(tmp_path / "questions" / "vqa-rad", *LEAKING)


def rows(folder, schema=CONVERSATIONS):
    found = list(open_dataset(folder, schema).rows())
    return {row[schema.names[0]]: row for row in found}


def test_every_question_of_train_and_val_is_a_conversation_as_eval_asks_it(clean, tmp_path):
    split = train_split(clean, tmp_path, "refuse", quiet)
    made = rows(split.conversations)
    assert {name: row["split"] for name, row in made.items()} == {
        "train0": "train", "train1": "train", "train2": "train", "train3": "train", "val0": "val",
    }  # fmt: skip
    assert [(turn["role"], turn["text"]) for turn in made["train2"]["turns"]] == [
        ("user", "<image>\nIs it bright on the left, 2?"),
        ("assistant", "no"),
    ]
    assert {row["kind"] for row in made.values()} == {"instruct"}
    assert {row["teacher"] for row in made.values()} == {"imported:vqa-rad"}


def test_each_image_is_one_figure_and_none_of_test_is_there(clean, tmp_path):
    split = train_split(clean, tmp_path, "refuse", quiet)
    figures, made = rows(split.figures, FIGURES), rows(split.conversations)
    assert {row["image_sha256"] for row in figures.values()} == {
        hashlib.sha256(picture(number)).digest() for number in (1, 2, 3, 4)
    }
    assert made["train0"]["figure_id"] == made["train1"]["figure_id"]
    assert {row["figure_id"] for row in made.values()} == set(figures)
    assert {(row["width"], row["height"]) for row in figures.values()} == {(50, 40)}


def test_a_split_that_shows_test_images_is_refused_with_the_counts_and_the_ways_out(leaking, tmp_path):
    with pytest.raises(DataError) as error:
        train_split(leaking, tmp_path, "refuse", quiet)
    assert "1 of 2 images of its test split are in its train split too, under 2 of 7 questions" in str(error.value)
    assert "--set leaks=drop" in str(error.value) and "--set leaks=keep" in str(error.value)
    assert not (tmp_path / "conversations").exists()


def test_copies_in_other_files_are_told_apart_from_the_very_files(tmp_path):
    copied = benchmark(tmp_path / "questions" / "vqa-rad", *COPIED)
    with pytest.raises(DataError) as error:
        train_split(copied, tmp_path, "refuse", quiet)
    assert "1 of 2 images of its test split are in its train split too, and 1 more as copies in other files" in str(
        error.value
    )
    assert "under 4 of 9 questions" in str(error.value)


def test_rows_that_show_copies_are_dropped_under_a_reason_of_their_own(tmp_path):
    copied = benchmark(tmp_path / "questions" / "vqa-rad", *COPIED)
    split = train_split(copied, tmp_path, "drop", quiet)
    assert {(row["id"], row["reason"]) for row in open_dataset(split.conversations, CONVERSATIONS).rejects()} == {
        ("train4", "image_in_test"),
        ("train5", "image_in_test"),
        ("train7", "image_near_test"),
        ("train8", "image_near_test"),
    }
    assert split.record["overlap"] == SHARED | {"near_images": 1, "near_rows": 2, "train_rows": 9}
    assert split.record["dropped"] == 4


def test_dropped_rows_are_counted_and_named(leaking, tmp_path):
    split = train_split(leaking, tmp_path, "drop", quiet)
    dataset = open_dataset(split.conversations, CONVERSATIONS)
    assert {row["conversation_id"] for row in dataset.rows()} == {
        "train0",
        "train1",
        "train2",
        "train3",
        "train6",
        "val0",
    }
    assert {(row["id"], row["reason"]) for row in dataset.rejects()} == {
        ("train4", "image_in_test"),
        ("train5", "image_in_test"),
    }
    assert split.record["dropped"] == 2
    stated = {row["image_sha256"] for row in rows(split.figures, FIGURES).values()}
    assert hashlib.sha256(picture(5)).digest() not in stated


def test_kept_rows_are_learnt_and_counted(leaking, tmp_path):
    split = train_split(leaking, tmp_path, "keep", quiet)
    assert {"train4", "train5"} <= set(rows(split.conversations))
    assert split.record["overlap"] == SHARED
    assert split.record["dropped"] == 0


def test_the_two_ways_have_a_place_each_and_are_made_once(leaking, tmp_path):
    kept, dropped = (train_split(leaking, tmp_path, leaks, quiet) for leaks in ("keep", "drop"))
    assert kept.conversations.name == "vqa-rad-train" and dropped.conversations.name == "vqa-rad-train-clean"
    before = (kept.conversations / "manifest.json").stat().st_mtime_ns
    assert train_split(leaking, tmp_path, "keep", quiet) == kept
    assert (kept.conversations / "manifest.json").stat().st_mtime_ns == before


def test_a_clean_split_is_the_same_whatever_is_told(clean, tmp_path):
    made = {train_split(clean, tmp_path, leaks, quiet).conversations for leaks in ("refuse", "drop", "keep")}
    assert made == {tmp_path / "conversations" / "vqa-rad-train"}


def test_a_split_of_nothing_but_test_images_is_refused_when_they_are_dropped(tmp_path):
    questions = benchmark(tmp_path / "questions" / "all", "train/0/1", "test/0/1")
    with pytest.raises(DataError, match="so none is left"):
        train_split(questions, tmp_path, "drop", quiet)


def test_a_benchmark_without_a_train_split_is_refused(tmp_path):
    questions = benchmark(tmp_path / "questions" / "only", "test/0/1")
    with pytest.raises(DataError, match="no question has the split 'train'"):
        train_split(questions, tmp_path, "keep", quiet)


def test_the_figures_are_not_among_those_that_are_synthesised_about(clean, tmp_path):
    train_split(clean, tmp_path, "refuse", quiet)
    with pytest.raises(DataError, match="no figures"):
        Workspace(tmp_path).figures()


def test_the_run_says_what_was_shared_and_how_much_was_dropped(leaking, tmp_path, pretrained):
    out = tmp_path / "checkpoints" / "finetune-vqa-rad"
    config = FinetuneConfig(**SHORT, benchmark="vqa-rad", leaks="drop")
    told = finetune_on_benchmark(leaking, tmp_path, pretrained.path("pretrain"), out, config, quiet)
    run = json.loads((out / "run.json").read_text())
    assert run["learnt"] == {
        "benchmark": "vqa-rad", "leaks": "drop", "dropped": 2,
        "overlap": SHARED,
    }  # fmt: skip
    assert run["conversations"] == {"train": 5, "val": 1} and told["steps"] == 2 and told["dropped"] == 2
    assert run["held_out_loss"] > 0


def command(*arguments, cwd, start=(), **environment):
    """The verb in a process of its own, or in those that ``start`` makes."""
    line = [sys.executable, *start, "-m", "medvlm_cli", "finetune", *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(line, cwd=cwd, text=True, capture_output=True, check=False, env=environment)


def test_the_devices_of_a_host_file_are_counted(tmp_path, tiny_checkpoint):
    (tmp_path / "hosts").write_text("one slots=2\ntwo slots=6\n")
    flags = ["--from", tiny_checkpoint, "--hostfile", "hosts", "-w", tmp_path, "--dry-run", "--gpu-type", "h100-80gb"]
    done = command("--benchmark", "vqa-rad", *flags, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["gpus"] == 8 and told["writes"].endswith("finetune-vqa-rad")


@pytest.mark.slow
def test_only_the_first_of_several_ranks_makes_the_datasets(leaking, tmp_path, pretrained):
    settings = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    flags = ["--benchmark", "vqa-rad", "--from", pretrained.path("pretrain"), "--set", "leaks=drop", *settings]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = command(*flags, "--set", "zero=0", "-w", tmp_path, cwd=tmp_path, start=start, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "checkpoints" / "finetune-vqa-rad" / "run.json").read_text())
    assert run["devices"] == 2 and run["learnt"]["dropped"] == 2


def test_the_verb_finds_the_questions_and_leaves_nothing_undone(clean, tmp_path, pretrained):
    settings = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    base = ["--from", pretrained.path("pretrain")]
    done = command("--benchmark", "vqa-rad", *base, *settings, "--json", "-w", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["checkpoint"] == str(tmp_path / "checkpoints" / "finetune-vqa-rad") and told["steps"] == 1
    run = json.loads((tmp_path / "checkpoints" / "finetune-vqa-rad" / "run.json").read_text())
    assert run["config"]["benchmark"] == "vqa-rad"


def test_the_verb_starts_from_finetune_and_refuses_conversations_beside(clean, tmp_path):
    done = command("--benchmark", "vqa-rad", "-w", tmp_path, cwd=tmp_path)
    assert done.returncode != 0 and "run `medvlm finetune` first" in done.stderr
    done = command(clean, "--benchmark", "vqa-rad", "-w", tmp_path, cwd=tmp_path)
    assert done.returncode == ConfigError.exit_code and "brings its own conversations" in done.stderr
