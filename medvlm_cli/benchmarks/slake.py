"""SLAKE, Liu et al. 2021, arXiv:2102.09542: questions about 642 radiology images, here the English half.

The files hold every question in English and in Chinese; the paper's counts are of the English ones, and only those are
read.  Closed is the authors' own label: 61 of the 416 closed test questions are choices.  Train and test share no image
in English, but 72 of the 96 English test images are in the Chinese train split: training on all of it leaks.  So every
row says, in ``also_in``, which Chinese splits show its image.
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from medvlm_cli.benchmarks import official
from medvlm_cli.benchmarks.hub import from_hub
from medvlm_cli.benchmarks.official import Count, Official, Published, Question
from medvlm_cli.core.arrow import Harvest
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.schemas import PUBLISHED_QUESTIONS

REVISION = "a9083ce6c34ac3ffb17671a605962924d8a8f9e9"


def keys(config: FetchConfig) -> list[str]:
    """One key an image of a split; as ``official.keys``."""
    _elsewhere.cache_clear()
    return official.keys(BENCHMARK, config)


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The questions about one image; as ``official.harvest``."""
    made = official.harvest(BENCHMARK, key, config)
    elsewhere = _elsewhere(official.roots(BENCHMARK, config))
    for row in made.rows:
        row["also_in"] = elsewhere.get(row["image_id"], [])
    return made


def schema(config: FetchConfig) -> pa.Schema:
    """Rows of questions/1 that know of the splits in Chinese."""
    return PUBLISHED_QUESTIONS


@functools.lru_cache(maxsize=2)
def _elsewhere(folders: tuple[Path, ...]) -> dict[str, list[str]]:
    """The splits in another language that show an image: image -> ``["zh train"]``."""
    files = official.index(folders)
    found: dict[str, list[str]] = {}
    for published in BENCHMARK.files:
        copies = (files.read(place) for name in published.names for place in files.find(name))
        data = next(data for data in copies if hashlib.sha256(data).hexdigest() == published.sha256)
        split = published.counts[0].split
        others = {(entry["img_name"], f"{entry['q_lang']} {split}") for entry in json.loads(data)}
        for image, label in sorted(others):
            if not label.startswith("en "):
                found.setdefault(image, []).append(label)
    return found


def _parse(content: Any, split: str) -> Iterator[Question]:
    for entry in content:
        if entry["q_lang"] != "en":
            continue
        kind = entry["answer_type"].strip().lower()
        if kind not in ("open", "closed"):
            raise ValueError(f"answer_type {kind!r}")
        yield Question(
            id=str(entry["qid"]),
            split=split,
            kind=kind,
            image=entry["img_name"],
            question=entry["question"].strip(),
            answer=entry["answer"].strip(),  # one of train, 1622, is empty
            category=entry["content_type"],
        )


def _download(folder: Path, config: FetchConfig) -> None:
    wanted = ("train.json", "validation.json", "test.json", "imgs.zip")
    from_hub("BoKelvin/SLAKE", REVISION, wanted, folder)


BENCHMARK = Official(
    name="slake",
    page="https://huggingface.co/datasets/BoKelvin/SLAKE",
    files=(
        Published(
            names=("train.json",),
            sha256="7a9fb81f9d7bb145c3d7e9bc8d3b9016ba18b6539ea5031a53bae8fd3cd991c3",
            counts=(Count("train", 4919, 2976, 1943, 450),),
        ),
        Published(
            names=("validation.json", "validate.json"),
            sha256="32b016440b0c3be11056a78a18eeab46333268407fbb6e6b32f9f4c2debc50f6",
            counts=(Count("val", 1053, 631, 422, 96),),
        ),
        Published(
            names=("test.json",),
            sha256="6be8f7b4c5a46cdbc713a5210a25b6ed5aa1fd1574c83cefb4f998131f17c2c3",
            counts=(Count("test", 1061, 645, 416, 96),),
        ),
    ),
    parse=_parse,
    download=_download,
)
"""Counts: Llama3-Med, Table 2."""
