"""Fingerprints on disk: made once an image, taken up after a kill, and what cannot be decoded is named."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core import hashes
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.hashes import Hashes, Picture


def quiet(what, done, total):
    """Progress that nobody hears."""


def image(seed, side=80, kind="PNG"):
    out = io.BytesIO()
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


class Shelf:
    """Image files and the list of those that were read."""

    def __init__(self, *files):
        self.files, self.read = files, []

    def pictures(self):
        return [Picture(digest(data), f"row {n}", lambda n=n: self._take(n)) for n, data in enumerate(self.files)]

    def _take(self, number):
        self.read.append(number)
        return self.files[number]


def digest(data):
    return hashlib.sha256(data).digest()


def test_an_image_is_read_once_however_often_and_by_whomever_it_is_asked_for(tmp_path):
    shelf = Shelf(image(1), image(2), image(1))
    assert Hashes(tmp_path).make(shelf.pictures(), quiet) == 2
    assert Hashes(tmp_path).make(shelf.pictures(), quiet) == 0
    more = Shelf(image(1), image(3))
    assert Hashes(tmp_path).make(more.pictures(), quiet) == 1
    assert (sorted(shelf.read), more.read) == ([0, 1], [1])


def test_copies_are_found_across_sets_and_a_file_is_no_copy_of_itself(tmp_path):
    asked = Shelf(image(1), image(2))
    there = Shelf(image(1, 160), image(2), image(2, 80, "BMP"), image(3))
    store = Hashes(tmp_path)
    store.make(asked.pictures(), quiet)
    store.make(there.pictures(), quiet)
    found = set(Hashes(tmp_path).copies(*([digest(data) for data in shelf.files] for shelf in (asked, there))))
    assert found == {(digest(image(1)), digest(image(1, 160))), (digest(image(2)), digest(image(2, 80, "BMP")))}


def test_a_killed_run_goes_on_with_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "KEYS_PER_SHARD", 4)
    monkeypatch.setattr(hashes, "TOGETHER", 2)
    shelf = Shelf(*(image(seed) for seed in range(24)))
    killed = shelf.pictures()
    calls = iter(range(24))

    def dies(number):
        if next(calls) == 15:
            raise KeyboardInterrupt
        return shelf.files[number]

    killed = [Picture(picture.sha256, picture.where, lambda n=n: dies(n)) for n, picture in enumerate(killed)]
    with pytest.raises(KeyboardInterrupt):
        Hashes(tmp_path).make(killed, quiet)
    Hashes(tmp_path).make(shelf.pictures(), quiet)
    assert 24 - 15 <= len(shelf.read) <= 24 - 15 + 8  # at most the shard under way again, of 4 on average
    store = Hashes(tmp_path)
    assert store.make(shelf.pictures(), quiet) == 0
    assert [store.fault(picture.sha256) for picture in shelf.pictures()] == [None] * 24


def test_what_cannot_be_decoded_is_named_and_never_tried_again(tmp_path):
    shelf = Shelf(image(1), b"no image", image(2)[:60])
    Hashes(tmp_path).make(shelf.pictures(), quiet)
    store = Hashes(tmp_path)
    assert store.fault(digest(b"no image")).startswith("row 1: not a readable image")
    assert store.fault(digest(image(2)[:60])).startswith("row 2: not a readable image")
    assert store.fault(digest(image(1))) is None
    assert store.make(shelf.pictures(), quiet) == 0


def test_an_image_under_the_hash_of_another_gets_no_fingerprint(tmp_path):
    wrong = Picture(digest(image(1)), "figures, row fig1", lambda: image(2))
    store = Hashes(tmp_path)
    store.make([wrong], quiet)
    assert store.fault(wrong.sha256) == "figures, row fig1: image_sha256 is not that of its image"


def test_images_without_detail_are_copies_of_nothing(tmp_path):
    blank = [io.BytesIO(), io.BytesIO()]
    Image.new("L", (50, 50), 128).save(blank[0], "PNG")
    Image.new("L", (60, 60), 128).save(blank[1], "PNG")
    shelf = Shelf(*(page.getvalue() for page in blank))
    store = Hashes(tmp_path)
    store.make(shelf.pictures(), quiet)
    digests = [digest(data) for data in shelf.files]
    assert not list(store.copies(digests, digests))
    assert store.make(shelf.pictures(), quiet) == 0


def test_how_long_it_will_take_is_said_once_before_most_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "LONG", 0.0)
    monkeypatch.setattr(hashes, "TOGETHER", 2)
    told = []
    shelf = Shelf(*(image(seed) for seed in range(6)))
    Hashes(tmp_path).make(shelf.pictures(), lambda *step: told.append(step))
    assert [what for what, _, _ in told if "will take" in what] == [
        "hashing 6 images will take about 0 min, once; they are kept"
    ]
    assert [(done, total) for what, done, total in told if what == "hash images"] == [(0, 6), (2, 6), (4, 6), (6, 6)]


def test_a_short_run_says_nothing_of_its_length(tmp_path):
    told = []
    Hashes(tmp_path).make(Shelf(image(1)).pictures(), lambda *step: told.append(step))
    assert {what for what, _, _ in told} == {"hash images"}


def test_a_damaged_store_is_refused_by_its_file(tmp_path):
    Hashes(tmp_path).make(Shelf(image(1)).pictures(), quiet)
    (part,) = tmp_path.glob("*/*/data/*.arrow")
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"part-00000\.arrow: .* bytes, the manifest says"):
        Hashes(tmp_path)
