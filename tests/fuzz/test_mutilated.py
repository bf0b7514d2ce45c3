"""Mutilated images, decoded by the workers that decode for ``fetch``: pixels or an error, and no worker ends."""

import numpy as np
import pytest

from medvlm_cli.core.crew import Crew
from tests.core import crew_cases
from tests.core.test_decoding import mutated

MOST_MEMORY = 2 << 30
AT_ONCE = 250


def spliced(count, seed):
    """Mutilated images of which two stand in one file, cut anywhere, or whose beginning is another format's."""
    random = np.random.default_rng(seed)
    whole = mutated(60, seed)
    pairs = random.integers(0, len(whole), (count, 2))
    return [_joined(whole[one], whole[other], random) for one, other in pairs]


def _joined(one, other, random):
    cut, behind = (int(random.integers(0, len(data))) for data in (one, other))
    return (one[:cut] + other[behind:], other[:16] + one[16:], one[:cut], one + other)[random.integers(4)]


def decoded(images, workers):
    """What each image became, and the most memory of a worker."""
    with Crew(workers) as crew:
        parts = [images[at : at + AT_ONCE] for at in range(0, len(images), AT_ONCE)]
        before = {crew.submit(crew_cases.pid).result(60) for _ in range(20)}
        results = [one.result(900) for one in [crew.submit(crew_cases.decode_all, part) for part in parts]]
        after = {crew.submit(crew_cases.pid).result(60) for _ in range(20)}
    return [said for told, _ in results for said in told], max(peak for _, peak in results), before, after


@pytest.mark.parametrize(
    ("mutilated", "joined"), [(150, 150), pytest.param(7000, 3000, marks=pytest.mark.slow)], ids=["300", "10,000"]
)
def test_every_image_is_pixels_or_an_error_and_the_worker_lives(mutilated, joined):
    images = mutated(mutilated, seed=23) + spliced(joined, seed=24)
    told, peak, before, after = decoded(images, 1)
    assert {type(said) if isinstance(said, tuple) else said for said in told} <= {
        tuple,
        "DataError",
        "ImageTooBigError",
    }
    assert len(told) == mutilated + joined and sum(isinstance(said, str) for said in told) > len(told) // 5
    assert peak < MOST_MEMORY
    assert before == after
