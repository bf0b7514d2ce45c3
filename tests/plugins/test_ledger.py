"""The ledger of a fetch: cut, refused by the disk, or of articles that are done, it hides nothing and keeps nothing."""

import errno
import os

import pytest

from medvlm_cli.core.errors import ResourceError
from medvlm_cli.sources import ledger
from medvlm_cli.sources.ledger import Ledger, article_of

OBJECTS = {f"PMC{n}.1/g{n}.jpg": bytes([n]) * 1000 for n in range(1, 6)}
ARTICLES = [f"PMC{n}" for n in range(1, 6)]


def filled(folder):
    """A ledger of all objects, closed."""
    made = Ledger(folder, ARTICLES)
    for key, body in OBJECTS.items():
        made.put(key, body)
    made.note_versions("PMC1", [(1, None), (2, "0" * 32)])
    made.gone("PMC2.1/lost.jpg")
    made.failed("PMC3")
    made.close()


def held(folder, articles=ARTICLES):
    """What another process finds."""
    found = Ledger(folder, articles)
    bodies = {key: stored.read() for key in OBJECTS if (stored := found.get(key))}
    found.close()
    return bodies, found


def test_another_process_finds_what_was_put(tmp_path):
    filled(tmp_path)
    bodies, found = held(tmp_path)
    assert bodies == OBJECTS
    assert found.versions("PMC1") == [(1, None), (2, "0" * 32)]
    assert found.is_gone("PMC2.1/lost.jpg") and not found.is_gone("PMC2.1/g2.jpg")
    assert found.has_failed("PMC3") and not found.has_failed("PMC1")


def test_cut_anywhere_it_keeps_every_record_before_the_cut(tmp_path):
    filled(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    ends = [whole.index(body) + len(body) for body in OBJECTS.values()]
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        bodies, _ = held(tmp_path)
        assert len(bodies) == sum(end <= cut for end in ends)
        assert bodies.items() <= OBJECTS.items()


def test_a_record_that_the_disk_cut_hides_none_behind_it(tmp_path, monkeypatch):
    made = Ledger(tmp_path, ARTICLES)
    made.put("PMC1.1/g1.jpg", OBJECTS["PMC1.1/g1.jpg"])
    real = os.writev

    def full(file, buffers):
        real(file, [b"".join(buffers)[:300]])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(ledger.os, "writev", full)
    with pytest.raises(ResourceError, match="no space left"):
        made.put("PMC2.1/g2.jpg", OBJECTS["PMC2.1/g2.jpg"])
    monkeypatch.undo()
    made.put("PMC3.1/g3.jpg", OBJECTS["PMC3.1/g3.jpg"])
    made.close()
    assert held(tmp_path)[0] == {key: OBJECTS[key] for key in ("PMC1.1/g1.jpg", "PMC3.1/g3.jpg")}


def test_files_go_with_the_last_article_that_needs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "FILE_BYTES", 1500)
    made = Ledger(tmp_path, ARTICLES)
    for key, body in OBJECTS.items():
        made.put(key, body)
    assert len(list(tmp_path.iterdir())) == 3
    made.release(["PMC1"])
    assert len(list(tmp_path.iterdir())) == 3
    made.release(["PMC2"])
    assert len(list(tmp_path.iterdir())) == 2
    made.release(ARTICLES)
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_what_belongs_to_articles_that_are_done_is_forgotten(tmp_path):
    filled(tmp_path)
    assert held(tmp_path, ["PMC4"])[0] == {"PMC4.1/g4.jpg": OBJECTS["PMC4.1/g4.jpg"]}
    assert held(tmp_path, ["PMC9"])[0] == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "article"), [("PMC1.2/a.jpg", "PMC1"), ("metadata/PMC12.3.json", "PMC12"), ("other", "other")]
)
def test_an_object_belongs_to_its_article(key, article):
    assert article_of(key) == article
