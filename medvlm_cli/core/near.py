"""Texts that are nearly the same: MinHash over runs of three words, in numpy.

128 hash functions; texts that agree in one of 32 bands of 4 are compared by their shingles, and are one where the
Jaccard similarity of these reaches the threshold (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.3-3.4).
Of texts that are one, directly or by way of others, the one whose id has the smallest hash stays, so the result does
not hang on their order.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

import numpy as np

HASHES, BANDS = 128, 32
SHINGLE = 3
"""Words of a shingle."""
_BLOCK = 1 << 15
"""Shingles that are hashed at a time: 128 functions of them fit into a processor's cache."""
_WORD = re.compile(r"\w+")


def near_duplicates(texts: Iterable[tuple[str, str]], threshold: float = 0.7) -> dict[str, str]:
    """Which texts are nearly others.

    Args:
        texts: id and text of each; ids are unique.
        threshold: Jaccard similarity from which two are one, above 0.

    Returns:
        Id of every text to leave out -> id of the one that stays in its place.
    """
    words: dict[str, int] = {}
    found = [(_order(id_), id_, _shingles(text, words)) for id_, text in texts]
    words.clear()
    if not found:
        return {}
    found.sort(key=lambda one: one[0])  # of texts that agree in a band only neighbours are compared
    ids, shingles = [id_ for _, id_, _ in found], [one for _, _, one in found]
    signatures = _signatures(shingles)
    groups = _Groups(len(ids))
    for one, other in _candidates(signatures):
        if groups.root(one) != groups.root(other) and _jaccard(shingles[one], shingles[other]) >= threshold:
            groups.join(one, other)
    members: dict[int, list[str]] = {}
    for number, id_ in enumerate(ids):
        members.setdefault(groups.root(number), []).append(id_)
    return {id_: stays for stays, *others in members.values() for id_ in others}  # the ids stand by their hashes


def _order(id_: str) -> bytes:
    return hashlib.sha256(id_.encode("utf-8", "surrogatepass")).digest()


def _shingles(text: str, words: dict[str, int]) -> np.ndarray:
    """Hashes of all runs of ``SHINGLE`` words, each once, sorted; of a shorter text one hash of all its words."""
    found = _WORD.findall(text.lower())
    numbers = np.array([words.get(word) or _learn(word, words) for word in found] or [0], np.uint64)
    if len(numbers) < SHINGLE:
        numbers = np.pad(numbers, (0, SHINGLE - len(numbers)))
    mixed = numbers[: len(numbers) - SHINGLE + 1].copy()
    for place in range(1, SHINGLE):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + numbers[place : len(numbers) - SHINGLE + 1 + place]
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return np.unique(mixed.astype(np.uint32))


def _learn(word: str, words: dict[str, int]) -> int:
    """The number of a word, never 0: by its letters and not by when it came, or the result would hang on the order."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    words[word] = number = int.from_bytes(digest, "big") | 1
    return number


def _signatures(shingles: list[np.ndarray]) -> np.ndarray:
    """The smallest value of each hash function over the shingles of each text: ``(texts, HASHES)`` uint32."""
    random = np.random.default_rng(20240609)
    factors = random.integers(1, (1 << 64) - 1, HASHES, dtype=np.uint64) | np.uint64(1)  # the product wraps on purpose
    offsets = random.integers(0, (1 << 64) - 1, HASHES, dtype=np.uint64)
    signatures = np.empty((len(shingles), HASHES), np.uint32)
    first = 0
    while first < len(shingles):
        last, size = first, 0
        while last < len(shingles) and (last == first or size + len(shingles[last]) <= _BLOCK):
            size += len(shingles[last])
            last += 1
        block = np.concatenate(shingles[first:last]).astype(np.uint64)
        starts = np.cumsum([0, *(len(one) for one in shingles[first : last - 1])])
        for number in range(HASHES):  # multiply-shift hashing, Dietzfelbinger et al. 1997
            values = ((block * factors[number] + offsets[number]) >> np.uint64(32)).astype(np.uint32)
            signatures[first:last, number] = np.minimum.reduceat(values, starts)
        first = last
    return signatures


def _candidates(signatures: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs that agree in a band; of a group of n the n - 1 neighbours in sorted order."""
    rows = HASHES // BANDS
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        keys = part.view([("", np.uint32)] * rows).ravel()
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        for place in same.tolist():
            yield int(order[place]), int(order[place + 1])


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class _Groups:
    """Disjoint sets."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def root(self, number: int) -> int:
        """The number that stands for the set of this one."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Make two sets one."""
        self._parents[self.root(one)] = self.root(other)
