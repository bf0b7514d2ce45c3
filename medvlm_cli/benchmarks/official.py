"""A benchmark as its authors published it: the very files, pinned by sha256, and the counts that papers report.

Scores on another split, or on a copy that dropped rows, cannot be compared with a paper's.  So a file of another
content is refused with both counts, and nothing stands in for it.  A key is one image of one split, and gives all the
questions about it: an image is read and decoded once.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.benchmarks.choices import YES_NO, named_choices
from medvlm_cli.benchmarks.files import Files, Place, forget, index
from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.decoding import decode_bounded
from medvlm_cli.core.errors import ConfigError, DataError, RemoteError
from medvlm_cli.core.images import ImageTooBigError


@dataclass(frozen=True)
class Question:
    """One question of a published file, before its image is read."""

    id: str
    split: str
    kind: str
    image: str
    """How the file names the image; ``endings`` of the benchmark may follow."""
    question: str
    answer: str
    category: str | None


@dataclass(frozen=True)
class Count:
    """What a split holds."""

    split: str
    questions: int
    open: int
    closed: int
    images: int

    def __str__(self) -> str:
        return (
            f"{self.split} {self.questions:,} questions ({self.open:,} open, {self.closed:,} closed) "
            f"on {self.images:,} images"
        )


@dataclass(frozen=True)
class Published:
    """One published file of questions."""

    names: tuple[str, ...]
    """What it is called; the first is what the authors call it now."""
    sha256: str
    counts: tuple[Count, ...]
    """What its splits hold; one split, unless its rows say theirs."""


@dataclass(frozen=True)
class Official:
    """What there is to know of one benchmark."""

    name: str
    page: str
    """Where a person downloads it."""
    files: tuple[Published, ...]
    parse: Callable[[Any, str], Iterable[Question]]
    """Questions of the parsed JSON of one file, given the first split of the file; raises what it meets."""
    download: Callable[[Path, FetchConfig], None]
    """Puts into a folder what is missing there; called in ``keys`` alone."""
    endings: tuple[str, ...] = ("",)
    """What may follow an image's name."""
    completes: bool = False
    """The user's folder is not all of it: what ``download`` gets is read too."""


def keys(benchmark: Official, config: FetchConfig) -> list[str]:
    """One key an image of a split, in the order of the files; downloads the files where no folder is given.

    Args:
        benchmark: the benchmark.
        config: ``mirror`` names the folder with the published files, if there is one.

    Raises:
        ConfigError: what is given is not a folder.
        DataError: a published file is missing, of another content, or of another count.
        RemoteError: the download is refused.
    """
    forget()
    _groups.cache_clear()
    folders = roots(benchmark, config)
    if benchmark.completes or not config.mirror:
        fetch_into_cache(benchmark, config)
    return list(_groups(benchmark, folders))


def harvest(benchmark: Official, key: str, config: FetchConfig) -> Harvest:
    """The questions about one image, or why there are none: the image is missing or broken, or an answer is empty."""
    questions = _groups(benchmark, roots(benchmark, config))[key]
    image, trouble = _image(questions[0].image, benchmark, config)
    rows: list[dict] = []
    rejects: list[Reject] = []
    for question in questions:
        empty = None if question.answer else ("empty_answer", f"{key}: the published answer is empty")
        wrong = trouble or empty
        if wrong is not None:
            rejects.append(Reject(question.id, *wrong, question.question))
        else:
            rows.append(row(benchmark.name, question, image))
    return Harvest(len(questions), rows, rejects)


def row(benchmark: str, question: Question, image: dict[str, Any]) -> dict[str, Any]:
    """A question as questions/1 takes it; ``image`` is its bytes and path."""
    return {
        "question_id": question.id,
        "benchmark": benchmark,
        "split": question.split,
        "kind": question.kind,
        "image": image,
        "image_id": question.image,
        "question": question.question,
        "choices": named_choices(question.question, question.answer) if question.kind == "closed" else [],
        "answers": [question.answer],
        "category": question.category,
    }


def kind_by_answer(answer: str) -> str:
    """``closed`` where the answer is yes or no: the rule of benchmarks without a label of their own."""
    return "closed" if answer.strip().lower() in YES_NO else "open"


def roots(benchmark: Official, config: FetchConfig) -> tuple[Path, ...]:
    """The folders that are read: the given one, else the cache; both where the user's cannot be all of it.

    Raises:
        ConfigError: what is given is not a folder.
    """
    given = given_folder(benchmark.page, config)
    if given is None or benchmark.completes:
        cached = cache(benchmark.name, config)
        return (given, cached) if given else (cached,)
    return (given,)


def given_folder(page: str, config: FetchConfig) -> Path | None:
    """The folder that the user names, if any.

    Raises:
        ConfigError: it is not a folder.
    """
    if not config.mirror:
        return None
    given = Path(config.mirror[0])
    if not given.is_dir():
        raise ConfigError(f"{given} is not a folder", f"give the folder that holds the files of {page}")
    return given


def cache(name: str, config: FetchConfig) -> Path:
    """The folder that downloads of one benchmark are kept in."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medvlm"
    return (Path(config.cache) if config.cache else home) / "benchmarks" / name


def fetch_into_cache(benchmark: Official, config: FetchConfig) -> None:
    """Download what is missing; a refusal says where a person gets the files, and what to do with them.

    Raises:
        RemoteError: the files are not to be had.
    """
    try:
        benchmark.download(cache(benchmark.name, config), config)
    except RemoteError as error:
        raise RemoteError(f"{benchmark.name}: {error.what}", by_hand(benchmark.name, benchmark.page)) from error


def by_hand(name: str, page: str) -> str:
    """What to do where the program cannot download."""
    return f"download the files of {page} on any machine, then: medvlm fetch {name} --from DIR"


@functools.lru_cache(maxsize=2)
def _groups(benchmark: Official, folders: tuple[Path, ...]) -> dict[str, list[Question]]:
    """The questions by key."""
    files = index(folders)
    groups: dict[str, list[Question]] = {}
    for published in benchmark.files:
        questions = _questions(benchmark, published, files, folders[0])
        for question in questions:
            groups.setdefault(f"{question.split}/{question.image}", []).append(question)
    return groups


def _questions(benchmark: Official, published: Published, files: Files, folder: Path) -> list[Question]:
    places = [place for name in published.names for place in files.find(name)]
    if not places:
        raise DataError(f"{folder} holds no {published.names[0]}", by_hand(benchmark.name, benchmark.page))
    refused = ""
    for place in places:  # test.json may be a file of something else: the right one is known by its content
        data = files.read(place)
        digest = hashlib.sha256(data).hexdigest()
        if digest == published.sha256:
            questions = list(benchmark.parse(json.loads(data), published.counts[0].split))
            counts = tuple(counted(questions))
            if counts == published.counts:
                return questions
        else:
            counts = tuple(_counted_if_possible(benchmark, data, published))
        refused = refused or _refusal(place, published, digest, counts)
    fix = f"download {published.names[0]} again: {benchmark.page}; scores on other questions cannot be compared"
    raise DataError(refused, fix)


def _refusal(place: Place, published: Published, digest: str, counts: Sequence[Count]) -> str:
    found = "; ".join(str(count) for count in counts) or "nothing that can be read as questions"
    expected = "; ".join(str(count) for count in published.counts)
    return (
        f"{place} is not the published {published.names[0]}: found {found}, expected {expected}; "
        f"sha256 {digest}, expected {published.sha256}"
    )


def counted(questions: Iterable[Question]) -> Iterator[Count]:
    """What each split holds, in the order in which the splits appear."""
    splits: dict[str, list[Question]] = {}
    for question in questions:
        splits.setdefault(question.split, []).append(question)
    for split, asked in splits.items():
        closed = sum(question.kind == "closed" for question in asked)
        images = len({question.image for question in asked})
        yield Count(split, len(asked), len(asked) - closed, closed, images)


def _counted_if_possible(benchmark: Official, data: bytes, published: Published) -> list[Count]:
    try:
        return list(counted(benchmark.parse(json.loads(data), published.counts[0].split)))
    except Exception:  # the file is not ours, so anything may be in it; it is refused either way
        return []


def fault(data: bytes, where: str, config: FetchConfig) -> tuple[str, str] | None:
    """What is wrong with an image: reason and message of its reject; None where it decodes to the last row."""
    try:
        decode_bounded(data, where, config.decode_seconds)
    except ImageTooBigError as error:
        return "image_too_big", error.what
    except DataError as error:
        return "corrupt_image", error.what
    return None


def _image(name: str, benchmark: Official, config: FetchConfig) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The image's bytes and path, or the reason and message of its reject."""
    folders = roots(benchmark, config)
    files = index(folders)
    places = [(f"{name}{end}", place) for end in benchmark.endings for place in files.find(f"{name}{end}")]
    if not places:
        return {}, ("missing_image", f"{name} is not in {folders[0]}, nor in an archive there")
    path, place = places[0]
    try:
        data = files.read(place)
    except ImageTooBigError as error:
        return {}, ("image_too_big", error.what)
    except DataError as error:
        return {}, ("corrupt_image", error.what)
    return {"bytes": data, "path": path}, fault(data, str(place), config)
