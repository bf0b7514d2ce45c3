"""Near-duplicates among conversations: ours and, as the peer, ``datasketch`` (``pip install datasketch``).

``python tests/bench/near_duplicates.py [TEXTS]``: seconds and pairs found of both on the same texts, 2 % of which are
others with one word changed.  Both use 128 hash functions in 32 bands of 4 and compare what agrees in a band exactly.
"""

import random
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
THRESHOLD = 0.7


def texts(count: int) -> list[tuple[str, str]]:
    """Conversations of about 150 words; every fiftieth is its neighbour with one word changed."""
    from tests.anthropic_server import pairs_for

    made: list[tuple[str, str]] = []
    for number in range(count):
        said = " ".join(part for pair in pairs_for(f"text {number}") for part in pair)
        if number % 50 == 49:
            words = made[-1][1].split()
            words[random.Random(number).randrange(len(words))] = "otherwise"
            said = " ".join(words)
        made.append((f"id{number}", said))
    return made


def by_datasketch(given: list[tuple[str, str]]) -> set[frozenset[str]]:
    """Pairs of near-duplicates as ``datasketch`` finds them."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=128, params=(32, 4))
    shingles: dict[str, set[str]] = {}
    pairs = set()
    for name, text in given:
        words = re.findall(r"\w+", text.lower())
        shingles[name] = {" ".join(words[at : at + 3]) for at in range(len(words) - 2)}
        sketch = MinHash(num_perm=128)
        sketch.update_batch([one.encode() for one in shingles[name]])
        for other in index.query(sketch):
            shared = len(shingles[name] & shingles[other])
            if shared >= THRESHOLD * (len(shingles[name]) + len(shingles[other]) - shared):
                pairs.add(frozenset((name, other)))
        index.insert(name, sketch)
    return pairs


def main() -> None:
    """Print the seconds and the ratio."""
    from medvlm_cli.core.near import near_duplicates

    given = texts(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
    began = time.perf_counter()
    ours = {frozenset(pair) for pair in near_duplicates(given, THRESHOLD).items()}
    seconds = time.perf_counter() - began
    print(f"ours: {seconds:.1f} s, {len(ours):,} pairs of {len(given):,} texts", flush=True)
    began = time.perf_counter()
    theirs = by_datasketch(given)
    peer = time.perf_counter() - began
    alike, ratio = len(ours & theirs), peer / seconds
    print(f"datasketch: {peer:.1f} s, {len(theirs):,} pairs, {alike:,} of them ours; ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
