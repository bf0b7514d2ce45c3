"""Images that are copies of each other although their files differ: resized, saved again, made grey.

Each image is reduced to a grey thumbnail of 64 x 64, and that to 256 bits: which of its 16 x 16 lowest cosine waves are
stronger than their median.  Pairs whose bits differ in few places are candidates.  That alone takes two chest X-rays,
or two slices, for one image, because what all of them share is most of what is there.  So a candidate is a copy only
where the thumbnails' detail, what is left of each without its own blurred self, agrees in every block of 8 x 8: two
patients differ somewhere, a copy nowhere much.

Measured with 181 images, 12 of VQA-RAD, 8 figures of articles, 41 neighbouring slices of two MRI volumes, 100 phantoms
and 20 of noise: of copies at half, 0.73 and double size, squeezed into 224 x 224, as JPEG of quality 50 and 30, at half
size and quality 50, in grey, and with less contrast, all are found, and no two different images are taken for one.
Of 181 copies with a gamma of 0.7, 180 are found, with 15 % more brightness 179, with 40 % more 93, of those reduced to
0.61 without smoothing 140.  Of those that lost one per cent or more at each side, or are mirrored, none is found.

Legend: N, M images.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medvlm_cli.core.images import MAX_PIXELS, decode, upright

SIDE = 64
"""Pixels along a side of a thumbnail."""
BITS = 256
RADIUS = 40
"""Most bits in which the hashes of two copies differ; two unrelated images differ in 128, give or take 24."""
_FREQUENCIES = 16
_BLOCK = 8
_BLUR = 2
"""Pixels on each side of one that its blurred self is the mean of."""
_APART = 0.1
"""Most by which the detail of two copies differs in a block: this share of its energy and the mean energy together."""
_FLAT = 1.0
"""Grey levels of detail, root mean square, under which there is nothing to compare: a blank page."""
_DRAFT = 4 * SIDE
_TOGETHER = 1 << 14
"""Hashes that are compared with one other at a time: they fit into a processor's cache."""


@dataclass(frozen=True)
class Fingerprint:
    """What an image is known by."""

    bits: bytes
    """32 bytes."""
    thumbnail: bytes
    """4,096 grey values, row by row."""


def fingerprint(data: bytes, where: str) -> Fingerprint | None:
    """The fingerprint of an image file; None for an image without detail, which is like every other such one.

    Args:
        data: contents of an image file.
        where: how to name the image in an error.

    Raises:
        DataError: not an image, corrupt, truncated or too large; see ``core.images.decode``.
    """
    image = _small_jpeg(data) or decode(data, where).convert("L")
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))
    thumbnail = pixels.astype(np.float32)
    if _detail(thumbnail[None]).std() < _FLAT:
        return None
    waves = _cosines()
    strengths = (waves @ thumbnail @ waves.T).ravel()
    return Fingerprint(np.packbits(strengths > np.median(strengths)).tobytes(), pixels.tobytes())


def near(one: np.ndarray, other: np.ndarray, radius: int = RADIUS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of hashes that differ in few bits, for each block of ``other`` in which there are some.

    All are compared with all: 900 with 500,000 take 2.5 s on one core.  A table of bands that misses no pair would need
    41 of them, of 6 bits, and two unrelated hashes agree in one of these as a rule.

    Args:
        one: ``(N, 32)`` uint8, the smaller set.
        other: ``(M, 32)`` uint8.
        radius: most bits that differ.

    Yields:
        Positions in ``one`` and in ``other``, pair by pair.
    """
    few, many = (np.ascontiguousarray(hashes).view(np.uint64) for hashes in (one, other))
    for start in range(0, len(many), _TOGETHER):
        block = [np.ascontiguousarray(words) for words in many[start : start + _TOGETHER].T]
        found = [(number, np.flatnonzero(_distances(words, block) <= radius)) for number, words in enumerate(few)]
        pairs = [(np.full(len(places), number), places + start) for number, places in found if len(places)]
        if pairs:
            yield np.concatenate([left for left, _ in pairs]), np.concatenate([right for _, right in pairs])


def copies(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some thumbnails show what one shows, to the detail.

    Args:
        one: ``(4096,)`` uint8.
        others: ``(N, 4096)`` uint8.

    Returns:
        ``(N,)`` bool.
    """
    stacked = np.concatenate([one[None], others]).reshape(-1, SIDE, SIDE).astype(np.float32)
    detail = _detail(stacked)
    detail /= np.sqrt((detail**2).mean(axis=(1, 2), keepdims=True)) + 1e-6
    apart = _energies(detail[1:] - detail[:1])
    energies = _energies(detail)
    own = np.maximum(energies[1:], energies[:1])
    return (apart <= _APART * (1 + own)).all(axis=1)


def _distances(words: np.ndarray, block: list[np.ndarray]) -> np.ndarray:
    """Bits in which each hash of a block, word by word, differs from one."""
    total = np.bitwise_count(block[0] ^ words[0]).astype(np.uint16)
    for mine, theirs in zip(words[1:], block[1:], strict=True):
        total += np.bitwise_count(theirs ^ mine)
    return total


def _small_jpeg(data: bytes) -> Image.Image | None:
    """A JPEG decoded at a fraction of its size, grey, which is three times as fast; None where that cannot be."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if image.mode in ("RGB", "L") and image.width * image.height <= MAX_PIXELS:
            image.draft("L", (_DRAFT, _DRAFT))
            image.load()
            return upright(image).convert("L")
    return None  # ``decode`` meets the fault again, and says it


def _cosines() -> np.ndarray:
    """The cosine waves of a side, lowest frequencies first, without the constant one: ``(16, 64)``."""
    frequencies = np.arange(1, _FREQUENCIES + 1)[:, None]
    return np.cos(np.pi * frequencies * (2 * np.arange(SIDE) + 1) / (2 * SIDE)).astype(np.float32)


def _detail(thumbnails: np.ndarray) -> np.ndarray:
    """``(N, 64, 64)`` less the mean of the 5 x 5 pixels about each."""
    wide = np.pad(thumbnails, ((0, 0), (_BLUR, _BLUR), (_BLUR, _BLUR)), "edge")
    reach = range(2 * _BLUR + 1)
    rows = np.add.reduce([wide[:, offset : offset + SIDE] for offset in reach])
    blurred = np.add.reduce([rows[:, :, offset : offset + SIDE] for offset in reach])
    return thumbnails - blurred / len(reach) ** 2


def _energies(detail: np.ndarray) -> np.ndarray:
    """Mean square of each block of 8 x 8: ``(N, 64)``."""
    blocks = SIDE // _BLOCK
    return (detail**2).reshape(-1, blocks, _BLOCK, blocks, _BLOCK).mean(axis=(2, 4)).reshape(-1, blocks * blocks)
