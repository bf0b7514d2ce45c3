"""The real files against Table 2 of Llama3-Med: set ``MEDVLM_BENCHMARKS`` to a folder with vqa-rad, slake, pathvqa."""

import os
from collections import Counter
from pathlib import Path

import pytest

from medvlm_cli.benchmarks import BENCHMARKS
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.plugins import resolve

FOLDER = os.environ.get("MEDVLM_BENCHMARKS", "")

TABLE_2 = {
    "vqa-rad": {"train": (313, 1797), "test": (203, 451)},
    "slake": {"train": (450, 4919), "val": (96, 1053), "test": (96, 1061)},
    "pathvqa": {"train": (2599, 19755), "val": (832, 6279), "test": (858, 6761)},
}
"""Images and questions of each split; the paper's 858 validation images of PathVQA are 832 in the file."""


@pytest.mark.skipif(not FOLDER, reason="MEDVLM_BENCHMARKS names no folder with the published files")
@pytest.mark.parametrize("name", TABLE_2)
def test_the_published_files_hold_what_the_paper_counts(name, tmp_path):
    config = FetchConfig(mirror=(str(Path(FOLDER) / name),), cache=str(tmp_path))
    module = resolve(name, BENCHMARKS, "benchmark")
    keys = module.keys(config)  # refuses another content, and other numbers of open and closed questions
    images = Counter(key.split("/")[0] for key in keys)
    questions = Counter()
    for key in keys:
        questions[key.split("/")[0]] += module.harvest(key, config).found
    assert {split: (images[split], questions[split]) for split in images} == TABLE_2[name]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("vqa-rad", ["train 1,797 = 770 + 1,027", "test 451 = 179 + 272"]),
        ("slake", ["train 4,919 = 2,976 + 1,943", "val 1,053 = 631 + 422", "test 1,061 = 645 + 416"]),
        ("pathvqa", ["train 19,755 = 9,949 + 9,806", "val 6,279 = 3,144 + 3,135", "test 6,761 = 3,370 + 3,391"]),
    ],
)
def test_the_pinned_counts_are_the_papers(name, counts):
    pinned = [count for file in resolve(name, BENCHMARKS, "benchmark").BENCHMARK.files for count in file.counts]
    assert [f"{one.split} {one.questions:,} = {one.open:,} + {one.closed:,}" for one in pinned] == counts
