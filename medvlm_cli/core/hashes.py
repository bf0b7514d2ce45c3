"""Fingerprints of images, made once for every different image file and kept on disk: hashes/1.

As ``core.features``, the store is addressed by content: ``<root>/<key>/<set>/``, where the key is of how fingerprints
are made, and each set is a finished dataset of the images that no other set held when it was begun.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvlm_cli.core import phash
from medvlm_cli.core.arrow import Dataset, Harvest, Reject, Writer, open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.record import MANIFEST, fingerprint
from medvlm_cli.core.schemas import HASHES
from medvlm_cli.core.tell import Tell

CODE_VERSION = 1
"""Part of the key: raise it when the same image would give another fingerprint."""
TOGETHER = 64
"""Image files that are in memory at a time."""
KEYS_PER_SHARD = 1024
"""What a killed run makes again, on average."""
LONG = 60.0
"""Seconds from which it is said beforehand how long it will take."""
_NAMED = 12  # hex digits of a folder's name


@dataclass(frozen=True)
class Picture:
    """An image file: by what it is known, and how it is read."""

    sha256: bytes
    """Of the file's bytes."""
    where: str
    """What to call it in a message."""
    read: Callable[[], bytes]
    """Gives the file; called only for an image that has no fingerprint yet."""


class Hashes:
    """The fingerprints of all finished sets as one, by the SHA-256 of the image file.

    Two processes may fill one store.  Of the same set of images only one can (``BusyError``).
    """

    def __init__(self, root: Path) -> None:
        """Open what is there.

        Args:
            root: folder of the store; it need not exist.

        Raises:
            DataError: a finished set is not what its manifest says.
        """
        self._config = {"code_version": CODE_VERSION, "side": phash.SIDE, "bits": phash.BITS}
        self.folder = Path(root) / fingerprint(self._config)[:_NAMED]
        self._opened: set[Path] = set()
        self._places: dict[bytes, tuple[Dataset, int]] = {}
        self._bits: dict[bytes, bytes | None] = {}
        self._faults: dict[bytes, str] = {}
        self._refresh()

    def _refresh(self) -> None:
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if manifest.parent in self._opened:
                continue
            dataset = open_dataset(manifest.parent, HASHES)
            for position, row in enumerate(dataset.rows(["image_sha256", "bits"])):
                sha256 = bytes.fromhex(row["image_sha256"])
                self._places[sha256], self._bits[sha256] = (dataset, position), row["bits"]
            self._faults |= {bytes.fromhex(reject["id"]): reject["message"] for reject in dataset.rejects()}
            self._opened.add(manifest.parent)

    def fault(self, sha256: bytes) -> str | None:
        """Why an image could not be decoded; None where it could be, or nobody tried."""
        return self._faults.get(sha256)

    def make(self, pictures: Iterable[Picture], tell: Tell) -> int:
        """Make the fingerprints that are not there yet; an image that cannot be decoded is kept with the reason.

        Args:
            pictures: what will be compared; the same image may be there many times.
            tell: progress; told first how long it will take, where that is over a minute.

        Returns:
            How many image files were read.

        Raises:
            BusyError: another process is making the same set.
            DataError: the dataset that an image is in cannot be read.
            ResourceError: the disk is full; a rerun goes on.
        """
        missing: dict[str, Picture] = {}
        for picture in pictures:
            if picture.sha256 not in self._bits and picture.sha256 not in self._faults:
                missing.setdefault(picture.sha256.hex(), picture)
        if not missing:
            return 0
        keys = sorted(missing)
        folder = self.folder / fingerprint({"keys": keys})[:_NAMED]
        with Writer(
            folder, HASHES, stage="hashes", config=self._config, keys=keys, keys_per_shard=KEYS_PER_SHARD
        ) as writer:
            todo = list(writer.todo())
            pace = _Pace(tell, len(keys), sum(len(part) for _, part in todo))
            with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow decodes and resizes without Python's lock
                for shard, part in todo:
                    writer.commit(shard, _harvests([missing[key] for key in part], threads, pace))
        self._refresh()
        return len(keys)

    def copies(self, one: Sequence[bytes], other: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of images that show the same although their files differ, by SHA-256, one of each set.

        Images without detail, undecodable ones, and a file beside itself are in no pair.

        Args:
            one: the smaller set; ``make`` was asked for all of both.
            other: the other set.
        """
        few, many = self._known(one), self._known(other)
        if not few or not many:
            return
        thumbnails = np.stack([self._thumbnail(sha256) for sha256 in few])
        for left, right in phash.near(self._stacked(few), self._stacked(many)):
            order = np.argsort(right, kind="stable")  # each thumbnail of the many is read once
            for place, group in itertools.groupby(order.tolist(), key=lambda at: int(right[at])):
                rows = left[list(group)]
                same = rows[phash.copies(self._thumbnail(many[place]), thumbnails[rows])]
                yield from ((few[row], many[place]) for row in same.tolist() if few[row] != many[place])

    def _known(self, digests: Sequence[bytes]) -> list[bytes]:
        return [sha256 for sha256 in dict.fromkeys(digests) if self._bits.get(sha256) is not None]

    def _stacked(self, digests: Sequence[bytes]) -> np.ndarray:
        joined = b"".join(self._bits[sha256] or b"" for sha256 in digests)
        return np.frombuffer(joined, np.uint8).reshape(len(digests), -1)

    def _thumbnail(self, sha256: bytes) -> np.ndarray:
        dataset, position = self._places[sha256]
        return np.frombuffer(dataset.row_at(position, ["thumbnail"])["thumbnail"], np.uint8)


class _Pace:
    """Tells how many images are done and, once, how long all will take."""

    def __init__(self, tell: Tell, total: int, left: int) -> None:
        self._tell, self._total, self._left = tell, total, left
        self._done = 0
        self._began = time.monotonic()
        tell("hash images", total - left, total)

    def step(self, count: int) -> None:
        """So many more are done."""
        first = not self._done
        self._done += count
        seconds = (time.monotonic() - self._began) / self._done * self._left
        if first and seconds > LONG:
            what = f"hashing {self._left:,} images will take about {seconds / 60:.0f} min, once; they are kept"
            self._tell(what, 0, None)
        self._tell("hash images", self._total - self._left + self._done, self._total)


def _harvests(pictures: Sequence[Picture], threads: ThreadPoolExecutor, pace: _Pace) -> Iterator[Harvest]:
    """What each image gives, ``TOGETHER`` of them read and then decoded at once."""
    for start in range(0, len(pictures), TOGETHER):
        chosen = pictures[start : start + TOGETHER]
        read = [(picture, picture.read()) for picture in chosen]  # a dataset is read by one thread at a time
        yield from threads.map(_harvest, read)
        pace.step(len(chosen))


def _harvest(read: tuple[Picture, bytes]) -> Harvest:
    picture, data = read
    name = picture.sha256.hex()
    if hashlib.sha256(data).digest() != picture.sha256:  # under that hash it would be found for ever
        return Harvest(1, [], [Reject(name, "wrong_hash", f"{picture.where}: image_sha256 is not that of its image")])
    try:
        found = phash.fingerprint(data, picture.where)
    except DataError as error:
        return Harvest(1, [], [Reject(name, "bad_image", error.what)])
    bits, thumbnail = (found.bits, found.thumbnail) if found else (None, None)
    return Harvest(1, [{"image_sha256": name, "bits": bits, "thumbnail": thumbnail}], [])
