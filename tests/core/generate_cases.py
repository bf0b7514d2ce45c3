"""Questions about pictures that the tests of generation share."""

import dataclasses
import io
import json
import shutil

import numpy as np
from PIL import Image

from medvlm_cli.core.generate import Generator, Picture, Request

QUESTIONS = ("What is shown?", "Is there a nodule in the left lung?", "Why? " * 9, "Where?", "\u00e9", "A CT?")


def picture(seed):
    """PNG bytes of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def request_of(question, *seeds, turns=()):
    pictures = [lambda seed=seed: Picture(picture(seed), f"picture {seed}") for seed in seeds]
    return Request([*turns, {"role": "user", "text": question}], pictures, "question 1")


REQUESTS = [request_of(question, seed) for seed, question in enumerate(QUESTIONS)]


def untimed(answers):
    return {index: dataclasses.replace(answer, seconds=0.0) for index, answer in answers}


def with_generation_config(checkpoint, folder, **changes):
    """A copy of the checkpoint that generates with other settings."""
    shutil.copytree(checkpoint, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return Generator(folder, "fp32")
