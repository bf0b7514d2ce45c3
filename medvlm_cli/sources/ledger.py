"""What was already got from the bucket, for articles whose rows are not committed yet.

Append-only files, ``ledger-00001.log`` and so on: each record is one line of JSON and, for an object, its bytes
behind it, written in one call.  A kill can cut the last record only, and it is then as if it had never been; bytes are
checked again before they are believed, so nothing is synced to the disk.  A file is removed once all its articles
are committed: a committed row needs no second copy of its image.  One file for many objects, because a million small
files are slow to make and dear on a cluster's file system.
"""

import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.core.commit import Growing, make_folder, refusals, remove
from medvlm_cli.sources.places import VERSION

FILE_BYTES = 256 << 20
"""A file is closed once it is larger."""

Versions = list[tuple[int, str | None]]
"""Versions of an article, each with the MD5 of its metadata where that is known."""

_NAME = re.compile(r"ledger-(\d+)\.log")


def article_of(key: str) -> str:
    """The article that an object belongs to: ``PMC1`` of ``PMC1.2/fig1.jpg`` and of ``metadata/PMC1.2.json``."""
    match = VERSION.match(key.removeprefix("metadata/"))
    return match[1] if match else key


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an object lies in the ledger; may be sent to another process."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The object."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), self.size, self.offset)


class Ledger:
    """The ledger of one run; for one process at a time, which holds the lock of the run's folder.

    Args:
        folder: where its files lie; made if need be.
        articles: those that are still to be done; what is there of others is forgotten.

    Raises:
        ResourceError: the disk refuses.
    """

    def __init__(self, folder: Path, articles: Collection[str]) -> None:
        self._folder = folder
        self._objects: dict[str, Stored] = {}
        self._gone: set[str] = set()
        self._failed: set[str] = set()
        self._versions: dict[str, Versions] = {}
        self._users: dict[Path, set[str]] = {}
        """The articles that still need each file."""
        wanted = set(articles)
        with refusals(folder):
            make_folder(folder)
            there = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
            self._number = max((int(_NAME.fullmatch(path.name)[1]) for path in there), default=0)  # type: ignore[index]
            for path in there:
                self._load(path, wanted)
            self._open()
            self._release(())

    def _load(self, path: Path, wanted: set[str]) -> None:
        users = self._users.setdefault(path, set())
        with path.open("rb") as file:
            while line := file.readline():
                try:
                    record = json.loads(line)
                    size = int(record.get("bytes", 0))
                except (ValueError, AttributeError):  # cut by a kill, or by a crash of the machine
                    return
                at = file.tell()
                file.seek(size, os.SEEK_CUR)
                if file.tell() > os.fstat(file.fileno()).st_size:
                    return
                if record.get("of") in wanted:
                    users.add(record["of"])
                    self._take(record, Stored(path, at, size))

    def _take(self, record: dict[str, Any], stored: Stored) -> None:
        if "versions" in record:
            self._versions[record["of"]] = [(number, md5) for number, md5 in record["versions"]]
        elif "gone" in record:
            self._gone.add(record["gone"])
        elif "failed" in record:
            self._failed.add(record["of"])
        else:
            self._objects[record["key"]] = stored

    def _open(self) -> None:
        self._number += 1
        self._path = self._folder / f"ledger-{self._number:05d}.log"
        self._file = Growing(self._path, new=True)
        self._users[self._path] = set()

    def _append(self, article: str, record: dict[str, Any], body: bytes = b"") -> Stored:
        line = json.dumps({"of": article, **record}).encode() + b"\n"
        if self._file.end > FILE_BYTES:
            self._file.close()
            self._open()
        at = self._file.end + len(line)
        self._file.append(line, body)
        stored = Stored(self._path, at, len(body))
        self._users[self._path].add(article)
        return stored

    def get(self, key: str) -> Stored | None:
        """An object that was put here; None without."""
        return self._objects.get(key)

    def put(self, key: str, body: bytes) -> Stored:
        """Keep an object; a kill leaves it whole or absent.

        Raises:
            ResourceError: the disk refuses.
        """
        stored = self._append(article_of(key), {"key": key, "bytes": len(body)}, body)
        self._objects[key] = stored
        return stored

    def drop(self, key: str) -> None:
        """Forget one object, which may be a wrong one."""
        self._objects.pop(key, None)

    def is_gone(self, key: str) -> bool:
        """Whether the bucket said that there is no such object."""
        return key in self._gone

    def gone(self, key: str) -> None:
        """Remember that there is no such object."""
        self._gone.add(key)
        self._append(article_of(key), {"gone": key})

    def has_failed(self, article: str) -> bool:
        """Whether an earlier process could not get all of an article."""
        return article in self._failed

    def failed(self, article: str) -> None:
        """Remember, for the next process, that something of an article could not be had."""
        self._append(article, {"failed": True})

    def versions(self, article: str) -> Versions | None:
        """The versions of an article, if they were asked for before."""
        return self._versions.get(article)

    def note_versions(self, article: str, found: Versions) -> None:
        """Remember the versions of an article."""
        self._versions[article] = found
        self._append(article, {"versions": found})

    def release(self, articles: Iterable[str]) -> None:
        """Remove the files of which all articles are committed."""
        done = set(articles)
        for key in [key for key in self._objects if article_of(key) in done]:
            del self._objects[key]
        for article in done:
            self._versions.pop(article, None)
        self._release(done)

    def _release(self, done: Collection[str]) -> None:
        for path, users in list(self._users.items()):
            users.difference_update(done)
            if not users and path != self._path:
                remove(path)
                del self._users[path]

    def close(self) -> None:
        """Close the file; what is there stays, unless nobody needs it."""
        self._file.close()
        if not self._users[self._path]:
            remove(self._path)
