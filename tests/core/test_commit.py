"""What the disk refuses, and what is removed, at the one door to it; kills and power cuts are in ``test_crash``."""

import errno
import fcntl
import hashlib
import os
import re
import resource
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from medvlm_cli.core import commit
from medvlm_cli.core.errors import LockedError, ResourceError


@contextmanager
def no_file_over(size):
    """As a disk that is full from there on: what fits is written, the rest refused."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_a_disk_refuses_is_said_with_what_is_free_and_other_errors_stay(tmp_path):
    with pytest.raises(ResourceError, match=r"no space left \([\d,]+ bytes free\)"), commit.refusals(tmp_path / "a/b"):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(FileNotFoundError), commit.refusals(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_where_nobody_knows_what_is_free_the_refusal_is_said_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(commit.shutil, "disk_usage", lambda folder: os.stat("/gone/away"))
    with pytest.raises(ResourceError, match=r"read-only\n"), commit.refusals(tmp_path):
        raise OSError(errno.EROFS, "read-only")


def test_a_record_that_does_not_fit_is_taken_back_and_the_next_stands_where_it_would_have(tmp_path):
    file = commit.Growing(tmp_path / "log")
    file.append(b"one\n")
    with no_file_over(10), pytest.raises(ResourceError, match="larger than this process may write"):
        file.append(b"t" * 5, b"w" * 5, b"o" * 5)
    assert (tmp_path / "log").read_bytes() == b"one\n"
    assert file.end == 4
    file.append(b"three\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"one\nthree\n"


def test_a_file_that_must_be_new_is_not_one_that_is_there(tmp_path):
    (tmp_path / "log").write_bytes(b"x")
    with pytest.raises(FileExistsError):
        commit.Growing(tmp_path / "log", new=True)


def test_a_durable_file_that_does_not_fit_leaves_nothing_and_what_was_there(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    with no_file_over(10), pytest.raises(ResourceError):
        commit.write_bytes(tmp_path / "file", b"x" * 11)
    assert (tmp_path / "file").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_size_and_hash_are_those_of_what_was_written(tmp_path):
    with commit.durable(tmp_path / "file") as file:
        assert (file.write(b"ab"), file.write(memoryview(b"cdef")), file.closed) == (2, 4, False)
        file.flush()
    assert (file.bytes, file.sha256, file.closed) == (6, hashlib.sha256(b"abcdef").hexdigest(), True)


def test_a_tree_is_removed_whole_and_what_links_in_it_point_to_is_not(tmp_path):
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "file").write_bytes(b"x")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_bytes(b"x")
    (tree / "a/to-folder").symlink_to(outside)
    (tree / "a/to-file").symlink_to(outside / "file")
    commit.remove_tree(tree)
    assert not tree.exists()
    (tmp_path / "link").symlink_to(outside)
    commit.remove_tree(tmp_path / "link")
    commit.remove_tree(tmp_path / "never-was")
    assert sorted(path.name for path in outside.iterdir()) == ["below", "file"]
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


def test_a_folder_is_made_with_its_parents_each_settled_in_its_own(tmp_path, monkeypatch):
    settled = []
    monkeypatch.setattr(commit, "sync_folder", settled.append)
    for _ in range(2):
        commit.make_folder(tmp_path / "a/b/c")
    assert settled == [tmp_path, tmp_path / "a", tmp_path / "a/b"]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        commit.make_folder(tmp_path / "file")


def test_a_settled_folder_tells_of_every_file_in_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    assert commit.settle_folder(tmp_path) == {
        "a/file": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
        "empty": {"bytes": 0, "sha256": hashlib.sha256().hexdigest()},
    }


def test_one_holds_a_lock_and_the_other_is_told_who(tmp_path):
    first, second = commit.Lock(tmp_path), commit.Lock(tmp_path)
    first.acquire()
    with pytest.raises(LockedError, match=re.escape(f"is being written by process {os.getpid()}@")):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    second.release()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("left", ["", "process {gone}@{host}"], ids=["nothing", "the_name_of_one_that_was_killed"])
def test_who_has_just_taken_a_lock_is_told_by_the_name_that_it_writes_next(tmp_path, left):
    """Between lock and name its file holds what was left in it; here for a fifth of a second."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = tmp_path / ".lock"
    path.write_text(left.format(gone=ended.pid, host=socket.gethostname()))
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        naming = threading.Timer(0.2, path.write_text, ["process 1@elsewhere"])
        naming.start()
        with pytest.raises(LockedError, match="is being written by process 1@elsewhere"):
            commit.Lock(tmp_path).acquire()
        naming.join()


def test_who_has_a_lock_and_never_says_so_is_another_process(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="is being written by another process"):
            commit.Lock(tmp_path).acquire()


def test_a_lock_that_is_let_go_before_its_holder_was_named_is_taken(tmp_path):
    path, lock = tmp_path / ".lock", commit.Lock(tmp_path)
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    ending = threading.Timer(0.2, lambda: (path.unlink(), file.close()))
    ending.start()
    lock.acquire()
    assert path.read_text() == f"process {os.getpid()}@{socket.gethostname()}"
    lock.release()


def test_the_process_of_another_user_has_not_ended(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    path.write_text(f"process 1@{socket.gethostname()}")

    def refuse(pid, number):
        raise PermissionError(errno.EPERM, "of another user")

    monkeypatch.setattr(commit.os, "kill", refuse)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="is being written by process 1@"):
            commit.Lock(tmp_path).acquire()


def test_a_lock_whose_file_its_holder_has_just_removed_is_taken_anew(tmp_path, monkeypatch):
    """The holder lets go between our open and our lock: what we have locked is no longer the file of that name."""
    open_file, opened = os.open, []

    def opening(path, *how):
        file = open_file(path, *how)
        if not opened:
            Path(path).unlink()
        opened.append(file)
        return file

    lock = commit.Lock(tmp_path)
    monkeypatch.setattr(commit.os, "open", opening)
    lock.acquire()
    monkeypatch.undo()
    assert len(opened) == 2
    with pytest.raises(LockedError):
        commit.Lock(tmp_path).acquire()
    lock.release()
