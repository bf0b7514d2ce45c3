"""What is wrong with a checkpoint of a real training: it is skipped, said so, and nothing of it is loaded or run."""

import json
import os
import pickle
import shutil
import signal

import pytest
import torch

from medvlm_cli.core.resume import Checkpoints

NEWEST, BEFORE = "step-00000004", "step-00000002"


class Canary:
    """What a pickle does that is loaded: it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def left(bench, tmp_path_factory):
    """What a pretraining left that was killed with two checkpoints there; its verb, the values of a whole run."""
    verb, wanted, _ = bench.verb("pretrain")
    out = tmp_path_factory.mktemp("left") / "out"
    fork = bench.start(verb, out)
    while not (verb.state(out) / NEWEST).exists():
        fork.follow(fork.operations() + 1, 0)
    assert fork.end(signal.SIGKILL) == 128 + signal.SIGKILL
    assert [(path.name, fault) for path, fault in Checkpoints(verb.state(out)).newest()] == [(NEWEST, ""), (BEFORE, "")]
    return verb, wanted, out


def cut(name, share):
    def harm(folder, canary):
        path = folder / name
        os.truncate(path, int(share * path.stat().st_size))

    return harm


def flip(name):
    def harm(folder, canary):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)

    return harm


def without_marker(folder, canary):
    (folder / "COMPLETE.json").unlink()


def pickled(name):
    def harm(folder, canary):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))

    return harm


def by_another_run(folder, canary):
    """Whole, and with a pickle that its own COMPLETE.json vouches for: a state folder that somebody gave away."""
    torch.save(Canary(canary), folder / "optimizer.pt")
    claimed = Checkpoints(folder.parent / "theirs")
    shutil.copytree(folder, claimed.part(4), dirs_exist_ok=True)
    (claimed.part(4) / "COMPLETE.json").unlink()
    claimed.commit(4)
    shutil.rmtree(folder)
    shutil.copytree(claimed.path(4), folder)
    shutil.rmtree(claimed.folder)


def half_written(folder, canary):
    """As a kill leaves it: under its temporary name, without its marker and the last of its files."""
    (folder / "COMPLETE.json").unlink()
    (folder / "trainer_state.json").unlink()
    folder.rename(folder.with_name(f"{folder.name}.tmp"))


WEIGHTS = "trainable.safetensors"
HARMS = {
    "weights of no bytes": (cut(WEIGHTS, 0), f"{WEIGHTS} is cut off or missing"),
    "half the weights": (cut(WEIGHTS, 0.5), f"{WEIGHTS} is cut off or missing"),
    "nearly all weights": (cut(WEIGHTS, 0.99), f"{WEIGHTS} is cut off or missing"),
    "an optimizer of no bytes": (cut("optimizer.pt", 0), "optimizer.pt is cut off or missing"),
    "nearly all of an optimizer": (cut("optimizer.pt", 0.99), "optimizer.pt is cut off or missing"),
    "half a marker": (cut("COMPLETE.json", 0.5), "no readable COMPLETE.json"),
    "a flipped bit in the weights": (flip(WEIGHTS), f"{WEIGHTS} has changed since it was written"),
    "a flipped bit in the optimizer": (flip("optimizer.pt"), "optimizer.pt has changed since it was written"),
    "no marker": (without_marker, "no readable COMPLETE.json"),
    "a pickle for a file": (pickled("scheduler.pt"), "scheduler.pt is cut off or missing"),
    "a pickle beside": (pickled("rng_state_1.pth"), "rng_state_1.pth is not of it"),
    "of another run, with a pickle": (by_another_run, "another run wrote it"),
}


def harmed(left, tmp_path, harm):
    """A copy of what was left, with its newest checkpoint harmed."""
    verb, _, whole = left
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    harm(verb.state(out) / NEWEST, tmp_path / "canary")
    return verb, out


@pytest.mark.parametrize("case", HARMS)
def test_a_checkpoint_that_is_not_as_this_run_wrote_it_is_skipped_for_a_reason_and_never_run(left, tmp_path, case):
    harm, reason = HARMS[case]
    verb, out = harmed(left, tmp_path, harm)
    found = {path.name: fault for path, fault in Checkpoints(verb.state(out)).newest()}
    assert found == {NEWEST: reason, BEFORE: ""}
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "case",
    ["of another run, with a pickle", *(pytest.param(case, marks=pytest.mark.slow) for case in [*HARMS][:-1])],
)
def test_training_goes_on_from_the_checkpoint_before_to_the_same_curve(left, bench, tmp_path, case):
    _, wanted, _ = left
    verb, out = harmed(left, tmp_path, HARMS[case][0])
    assert bench.finish(verb, out) == wanted
    assert not (tmp_path / "canary").exists()


def test_a_half_written_checkpoint_is_none_and_goes(left, bench, tmp_path):
    _, wanted, _ = left
    verb, out = harmed(left, tmp_path, half_written)
    assert [path.name for path, _ in Checkpoints(verb.state(out)).newest()] == [BEFORE]
    assert bench.finish(verb, out) == wanted


def test_a_state_of_another_number_of_devices_is_refused_with_both(left, bench, tmp_path):
    verb, out = harmed(left, tmp_path, lambda folder, canary: None)
    path = verb.state(out) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"world": 4}))
    assert bench.start(verb, out).wait() == 2
    assert "holds this run on 4 devices; its state does not fit 1" in bench.said(out)


def test_without_a_whole_checkpoint_it_starts_over_and_says_why(left, bench, tmp_path):
    _, wanted, _ = left
    verb, out = harmed(left, tmp_path, without_marker)
    without_marker(verb.state(out) / BEFORE, None)
    assert bench.finish(verb, out) == wanted
