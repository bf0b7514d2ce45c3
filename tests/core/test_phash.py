"""Copies of an image are found whatever file they are in, and two images of one kind are not taken for copies."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from medvlm_cli.core import phantom
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.phash import RADIUS, SIDE, copies, fingerprint, near

PHANTOMS = 60
FOUND, FALSE = 0.95, 0.01
"""Least share of copies to be found, and most of images to be taken for copies of others."""


def file(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def scaled(image, factor, how=Image.Resampling.BICUBIC):
    return image.resize((int(image.width * factor), int(image.height * factor)), how)


COPIES = {
    "half": lambda image: file(scaled(image, 0.5, Image.Resampling.LANCZOS)),
    "double": lambda image: file(scaled(image, 2)),
    "odd": lambda image: file(scaled(image, 0.73, Image.Resampling.BILINEAR)),
    "squeezed": lambda image: file(image.resize((224, 190))),
    "jpeg50": lambda image: file(image, "JPEG", quality=50),
    "half and jpeg50": lambda image: file(scaled(image, 0.5), "JPEG", quality=50),
    "grey": lambda image: file(image.convert("L")),
    "less contrast": lambda image: file(ImageEnhance.Contrast(image).enhance(0.8)),
}


@pytest.fixture(scope="module")
def images():
    """Phantoms of five kinds, which within a kind are alike but for their findings, and noise."""
    drawn = [Image.fromarray(phantom.draw("figures", 0, number).image) for number in range(PHANTOMS)]
    rng = np.random.default_rng(7)
    noise = [Image.fromarray(rng.integers(0, 256, (200, 200), dtype=np.uint8)).convert("RGB") for _ in range(10)]
    return drawn + noise


def slices():
    """Neighbouring slices of a real MRI volume, 2 mm apart."""
    nibabel = pytest.importorskip("nibabel")
    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    if not path.exists():
        pytest.skip("this nibabel has no example volume")
    volume = np.asarray(nibabel.load(path).dataobj)[..., 0].astype(np.float64)
    grey = np.clip(volume / np.percentile(volume, 99.8) * 255, 0, 255).astype(np.uint8)
    return [Image.fromarray(grey[:, :, number]).resize((288, 384)) for number in range(grey.shape[2])]


def stacked(fingerprints):
    """Hashes and thumbnails of fingerprints."""
    bits = np.stack([np.frombuffer(one.bits, np.uint8) for one in fingerprints])
    return bits, np.stack([np.frombuffer(one.thumbnail, np.uint8) for one in fingerprints])


def pairs(one, other):
    """Positions of the copies among two lists of fingerprints."""
    (few, mine), (many, theirs) = stacked(one), stacked(other)
    close = [(left, right) for found in near(few, many) for left, right in zip(*found, strict=True)]
    return {(int(a), int(b)) for a, b in close if copies(mine[a], theirs[b][None])[0]}


@pytest.fixture(scope="module")
def originals(images):
    return [fingerprint(file(image), "original") for image in images]


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_next_to_nothing_else(images, originals, kind):
    made = [fingerprint(COPIES[kind](image), kind) for image in images]
    told = pairs(made, originals)
    assert len([a for a, b in told if a == b]) >= FOUND * len(images)
    assert len({a for a, b in told if a != b}) <= FALSE * len(images)


def test_two_chest_xrays_whose_hashes_are_alike_are_two_images(images, originals):
    bits, _ = stacked(originals)
    alike = {(int(a), int(b)) for found in near(bits, bits) for a, b in zip(*found, strict=True) if a < b}
    assert len(alike) > PHANTOMS  # the hash alone would take them for copies
    assert not pairs(originals, originals) & alike


def test_neighbouring_slices_of_a_volume_are_different_images():
    found = [fingerprint(file(image), "slice") for image in slices()]
    assert {(a, b) for a, b in pairs(found, found) if a != b} == set()


def test_a_copy_that_was_cut_is_not_found(images, originals):
    image = images[0]
    cut = image.crop((8, 8, image.width - 8, image.height - 8))
    assert (0, 0) not in pairs([fingerprint(file(cut), "cut")], originals)


@pytest.mark.parametrize("colour", ["black", "white", "gray"])
def test_a_blank_page_has_no_fingerprint(colour):
    assert fingerprint(file(Image.new("RGB", (300, 200), colour), "JPEG"), "page") is None


def test_an_image_smaller_than_the_thumbnail_has_one(images):
    found = fingerprint(file(images[0].resize((20, 30))), "small")
    assert (len(found.bits), len(found.thumbnail)) == (32, SIDE * SIDE)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_an_image_is_compared_the_way_it_is_shown(images, originals, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    turned = images[1].transpose(Image.Transpose.ROTATE_90)
    found = fingerprint(file(turned, kind, exif=exif), "turned")
    assert (0, 1) in pairs([found], originals)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0 no more"])
def test_what_is_no_image_is_refused_by_its_name(data):
    with pytest.raises(DataError, match=r"figures, row 7: not a readable image"):
        fingerprint(data, "figures, row 7")


def test_a_truncated_jpeg_is_refused(images):
    data = file(images[2], "JPEG", quality=90)
    with pytest.raises(DataError, match="figures, row 7"):
        fingerprint(data[: len(data) // 2], "figures, row 7")


def test_all_pairs_within_the_radius_are_found_and_no_others(monkeypatch):
    monkeypatch.setattr("medvlm_cli.core.phash._TOGETHER", 100)  # blocks that do not divide the many
    rng = np.random.default_rng(3)
    few, many = (rng.integers(0, 256, (count, 32), dtype=np.uint8) for count in (7, 512))
    flips = np.unpackbits(few[3])
    flips[rng.permutation(256)[:RADIUS]] ^= 1
    many[211] = np.packbits(flips)
    flips[np.flatnonzero(flips == np.unpackbits(few[3]))[0]] ^= 1  # one bit too many
    many[430] = np.packbits(flips)
    distances = np.unpackbits(few[:, None] ^ many[None], axis=2).sum(axis=2)
    found = {(int(a), int(b)) for pair in near(few, many) for a, b in zip(*pair, strict=True)}
    assert found == set(zip(*map(np.ndarray.tolist, np.nonzero(distances <= RADIUS)), strict=True))
    assert (3, 211) in found and (3, 430) not in found
