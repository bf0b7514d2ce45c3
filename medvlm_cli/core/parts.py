"""A dataset in parts: N runs on any machines, each its own folder below one, and together read as one dataset.

``figures/pmc/shard-00000-of-00004/ ... shard-00003-of-00004/``: each is a dataset with a manifest of its own, written
by its own process under its own lock.  Nothing is merged; the reader joins them, and refuses gaps and mixtures.
"""

import re
from pathlib import Path

from medvlm_cli.core.errors import ConfigError, DataError

_NAME = re.compile(r"shard-(\d{5})-of-(\d{5})")
_SHARD = re.compile(r"(\d{1,5})/(\d{1,5})")


def parse(shard: str) -> tuple[int, int]:
    """``i/N`` as two numbers.

    Raises:
        ConfigError: it is not of this form, or ``i`` is not below ``N``.
    """
    match = _SHARD.fullmatch(shard)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not number < count:
        raise ConfigError(f"--shard {shard}: not i/N", "give 0/4, 1/4, 2/4 and 3/4, one to each of four processes")
    return number, count


def name(number: int, count: int) -> str:
    """The folder of part ``number`` of ``count``."""
    return f"shard-{number:05d}-of-{count:05d}"


def found(folder: Path) -> dict[tuple[int, int], Path]:
    """The folders of parts below a folder: (number, count) -> path, finished or not."""
    matches = ((_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("shard-*-of-*")))
    return {(int(match[1]), int(match[2])): path for match, path in matches if match and path.is_dir()}


def are_finished(folder: Path, manifest: str) -> bool:
    """Whether a folder holds all parts of one division, each with its manifest; arguments as ``whole``."""
    there = found(folder)
    ready = (len(there) == count and (path / manifest).is_file() for (_, count), path in there.items())
    return bool(there) and all(ready)


def whole(folder: Path, manifest: str) -> list[Path]:
    """All parts of a dataset, in order; an empty list for a folder that has none.

    Args:
        folder: which may hold parts.
        manifest: name of the file that a finished part has.

    Raises:
        DataError: a part is missing or not finished, or parts of two divisions lie there.
    """
    there = found(folder)
    if not there:
        return []
    counts = sorted({count for _, count in there})
    if len(counts) > 1:
        fix = "keep the parts of one division, and remove the others"
        raise DataError(f"{folder} holds parts of {' and of '.join(map(str, counts))}", fix)
    for number in range(counts[0]):
        path = there.get((number, counts[0]))
        if path is None or not (path / manifest).is_file():
            state = "is missing" if path is None else "is not finished"
            fix = f"run its command with --shard {number}/{counts[0]}"
            raise DataError(f"{folder}: part {number} of {counts[0]} {state}", fix)
    return [there[number, counts[0]] for number in range(counts[0])]
