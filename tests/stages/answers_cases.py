"""Small sets of questions and answers, each as the files of other tools and as our own datasets."""

import io
import json

import numpy as np
from PIL import Image

from medvlm_cli.core.arrow import Harvest, write_all
from medvlm_cli.core.schemas import ANSWERS, QUESTIONS

ASKED = [
    ("c1", "i1", "closed", "Is the lesion big?", "yes"),
    ("c2", "i1", "closed", "Is it red?", "no"),
    ("c3", "i2", "closed", "Is this a CT or an MRI?", "CT"),
    ("o1", "i2", "open", "Where is it?", "left lung"),
    ("o2", "i3", "open", "What is it?", "a nodule"),
]
"""Id, image, kind, question and gold answer."""
GOLDS = {id_: gold for id_, _, _, _, gold in ASKED}
SAID = {"c1": "Yes, it is big.", "c2": "abnormal", "c3": "CT", "o1": "left left", "o2": "a mass"}


def silent(what, done, total):
    """Progress that nobody watches."""


def png(seed):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def references(path, asked=ASKED):
    """A JSON list as LLaVA's tools have it."""
    entries = [
        {
            "id": id_,
            "image": image,
            "answer_type": kind.upper(),
            "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": gold}],
        }
        for id_, image, kind, question, gold in asked
    ]
    path.write_text(json.dumps(entries))
    return path


def predictions(path, said):
    """JSON lines as LLaVA's tools write them."""
    path.write_text("".join(json.dumps({"question_id": id_, "text": text}) + "\n" for id_, text in said.items()))
    return path


def questions(folder, asked=ASKED, train=()):
    """The same as questions/1, with a train split beside it."""
    named = {"c3": ["CT", "MRI"]}
    rows = {
        id_: {
            "question_id": id_, "benchmark": folder.name, "split": split, "kind": kind, "image_id": image,
            "image": {"bytes": png(number), "path": None}, "question": question, "answers": [gold],
            "choices": named.get(id_, ["yes", "no"] if kind == "closed" else []), "category": None,
        }
        for split, rows in (("test", asked), ("train", train))
        for number, (id_, image, kind, question, gold) in enumerate(rows)
    }  # fmt: skip
    return _dataset(folder, QUESTIONS, rows, "fetch", {}, {})


def answers(folder, said, asked_in):
    """Answers as ``medvlm eval`` leaves them, of the questions in a folder."""
    rows = {
        id_: dict.fromkeys(ANSWERS.names)
        | {
            "question_id": id_, "benchmark": "small", "checkpoint": "finetune@0123", "prompt": f"Question {id_}",
            "answer": text, "finish": "stop", "tokens": 2, "seconds": 0.5,
        }
        for id_, text in said.items()
    }  # fmt: skip
    return _dataset(folder, ANSWERS, rows, "eval", {"split": "test"}, {"questions": asked_in})


def _dataset(folder, schema, rows, stage, config, inputs):
    made = {"stage": stage, "config": config, "inputs": inputs, "keys": list(rows), "tell": silent}
    write_all(folder, schema, lambda key: Harvest(1, [rows[key]], []), **made)
    return folder
