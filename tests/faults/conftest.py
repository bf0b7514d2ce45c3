"""One process that commands are forked from, and their inputs, for all tests of this folder."""

import pytest


@pytest.fixture(scope="session")
def forks():
    from tests.faults.forks import Forks

    with Forks() as started:
        yield started


@pytest.fixture(scope="session")
def bench(forks, training_data, tiny_checkpoint, tiny_tower, tiny_llm, tmp_path_factory):
    """Overrides the fixture of this name: whole commands, not calls of the stages."""
    from tests.faults.verbs import Bench

    return Bench(forks, tmp_path_factory.mktemp("bench"), training_data, tiny_checkpoint, tiny_tower, tiny_llm)
