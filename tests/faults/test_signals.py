"""Every verb ended by SIGTERM and SIGINT at moments of its own progress: 143, 130, and the same command goes on."""

import random
import signal

import pytest

from tests.faults.verbs import VERBS

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def signalled(bench, name, root, count, chance):
    """Runs that are ended by one signal or the other, until there were so many.

    Yields the folder of each finished run.
    """
    verb, _, operations = bench.verb(name)
    left, number = count, 0
    while left:
        number, out, ends = number + 1, root / f"run-{number}", False
        while left and not ends:
            fork = bench.start(verb, out)
            fork.follow(chance.randrange(1, operations), 0.02 * chance.random())
            asked = NUMBERS[left % 2]
            status, said = fork.end(asked), bench.said(out)
            assert status in (0, 128 + asked), said
            assert "Traceback" not in said
            ends = not status
            left -= not ends
        if not ends:
            bench.finish(verb, out)
        yield out


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_verb_that_is_asked_to_end_says_so_by_its_status_and_goes_on_to_the_same(bench, tmp_path, name, count):
    verb, wanted, _ = bench.verb(name)
    runs = list(signalled(bench, name, tmp_path, count, random.Random(count)))
    assert [out.name for out in runs if verb.found(out) != wanted] == []
