"""What tests of ``eval`` share: a small benchmark, and how its answers are read back."""

import io

import numpy as np
from PIL import Image

from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.config import EvalConfig
from medvlm_cli.core.schemas import QUESTIONS, SCORED_ANSWERS

CONFIG = EvalConfig(batch=2, max_new_tokens=6, draws=200, overlap=False)
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
    rows = sorted(open_dataset(folder, SCORED_ANSWERS).rows(), key=lambda row: row["question_id"])
    return [row | {"seconds": None} for row in rows]
