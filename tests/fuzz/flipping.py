"""A process that opens Arrow files with flipped bits, and says what came of each; ``test_flipped.py`` starts it.

Kept apart because a flipped bit may end the process that reads it, which is what the tests are about.
"""

import json
import random
import resource
import sys
from pathlib import Path

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import FIGURES


def outcome(place, file, rows):
    """``same``, ``other`` rows, or ``refused`` by an error that names the file."""
    try:
        dataset = open_dataset(place, FIGURES)
        found = list(dataset.rows())
    except DataError as error:
        return "refused" if str(file) in error.what or str(place) in error.what else f"unnamed: {error.what}"
    return "same" if found == rows else "other"


def flipped(place, file, count, seed):
    """Open a dataset, or a file, so many times with one to three bits of a file flipped; counts of outcomes."""
    whole, told = file.read_bytes(), {}
    rows = list(open_dataset(place, FIGURES).rows())
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        said = outcome(place, file, rows)
        told[said] = told.get(said, 0) + 1
    return told


if __name__ == "__main__":
    told = flipped(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps({"told": told, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}))
