"""PathVQA, He et al. 2020, arXiv:2003.10286: questions about 4,289 figures of pathology textbooks and a library.

The authors' repository holds the questions and answers; their images are in a folder of Google Drive, with the
questions once more as pickles, which are not opened: a pickle runs code.  Closed is an answer of yes or no.  Table 2 of
Llama3-Med has 858 validation images, which repeats its test value: the file has 832.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlm_cli.benchmarks import official
from medvlm_cli.benchmarks.official import Count, Official, Published, Question, kind_by_answer
from medvlm_cli.core.arrow import Harvest
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.http import download

IMAGES = "https://drive.google.com/drive/folders/1G2C2_FUCyYQKCkSeCRRiTTsLDvOAjFj5"
"""The authors' folder of images, as data/README.md of their repository names it since 2023."""

_ASKING = ("what", "where", "how", "why", "when", "who", "whose", "which")


def keys(config: FetchConfig) -> list[str]:
    """One key an image of a split; as ``official.keys``.

    Raises:
        ConfigError: no folder of images is given.
    """
    if not config.mirror:
        raise ConfigError(
            "pathvqa: the images are in a folder of Google Drive, which a program cannot download reliably",
            f"download the folder images of {IMAGES}, then: medvlm fetch pathvqa --from DIR",
        )
    return official.keys(BENCHMARK, config)


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The questions about one image; as ``official.harvest``."""
    return official.harvest(BENCHMARK, key, config)


def category(question: str, answer: str) -> str:
    """``yes/no``, else the question word that an open question begins with, else ``other``."""
    if kind_by_answer(answer) == "closed":
        return "yes/no"
    first = question.split()[0].lower() if question.split() else ""
    return first if first in _ASKING else "other"


def _parse(content: Any, split: str) -> Iterator[Question]:
    number = 0
    for entry in content:
        for question, answers in zip(entry["sentf"]["pvqa"], entry["labelf"]["pvqa"], strict=True):
            (answer,) = answers  # a table of answers and their weights, of one answer each
            yield Question(
                id=f"{split}-{number}",
                split=split,
                kind=kind_by_answer(answer),
                image=entry["img_id"],
                question=question.strip(),
                answer=answer.strip(),
                category=category(question, answer),
            )
            number += 1


def _download(folder: Path, config: FetchConfig) -> None:
    """The questions, for a folder that has the images alone."""
    given = official.index((Path(config.mirror[0]),))
    for published in BENCHMARK.files:
        name = published.names[0]
        if not given.find(name):
            url = f"{config.pathvqa_files.rstrip('/')}/{name}"
            download(url, folder / name, limit=64 << 20, sha256=published.sha256)


BENCHMARK = Official(
    name="pathvqa",
    page="https://github.com/UCSD-AI4H/PathVQA (baselines/method1/saved/lxmert)",
    files=(
        Published(
            names=("pvqa_train.json",),
            sha256="ad537575985452668900aa69da55b3730f862f46f690e73f843756373aed72a2",
            counts=(Count("train", 19755, 9949, 9806, 2599),),
        ),
        Published(
            names=("pvqa_val.json",),
            sha256="3d95d7f67799b37c0654852e51679b54584c6c239d4e4ff6963dda1905fdc3c6",
            counts=(Count("val", 6279, 3144, 3135, 832),),
        ),
        Published(
            names=("pvqa_test.json",),
            sha256="36e5fcb4b8b6b04a043921c97f5a2965c3afc81c912668b09d2833c407f7d0b3",
            counts=(Count("test", 6761, 3370, 3391, 858),),
        ),
    ),
    parse=_parse,
    download=_download,
    endings=(".jpg", ".jpeg", ".png"),
    completes=True,
)
"""Counts: Llama3-Med, Table 2."""
