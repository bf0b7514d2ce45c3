"""Checkpoints that are whole or not there, and a step log that tells no step twice."""

import json

import pytest
import torch
from safetensors.torch import save_file

from medvlm_cli.core.errors import BusyError, ConfigError, DataError
from medvlm_cli.core.resume import Checkpoints, StepLog, claim, is_weights_only, load_weights

PARTS = {
    "schema": "checkpoint/1",
    "stage": "pretrain",
    "config": {"lr": 1e-3},
    "inputs": {"figures 0": "ab"},
    "keys": {},
}


def saved(folder, *steps):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.begin(step)
        (checkpoints.part(step) / "rank").mkdir()
        (checkpoints.part(step) / "rank" / "weights").write_bytes(b"weights of %d" % step)
        checkpoints.commit(step)
    return checkpoints


def shorten(folder):
    (folder / "rank" / "weights").write_bytes(b"weights of")


def flip(folder):
    (folder / "rank" / "weights").write_bytes(b"weights of 8")


def drop_file(folder):
    (folder / "rank" / "weights").unlink()


def drop_marker(folder):
    (folder / "COMPLETE.json").unlink()


def empty_marker(folder):
    (folder / "COMPLETE.json").write_text("")


def no_object(folder):
    (folder / "COMPLETE.json").write_text("[]")


def of_another_run(folder):
    said = json.loads((folder / "COMPLETE.json").read_text())
    (folder / "COMPLETE.json").write_text(json.dumps(said | {"run": "another"}))


def add_a_pickle(folder):
    (folder / "optimizer.pt").write_bytes(b"not what was written")


def test_the_newest_two_checkpoints_stay(tmp_path):
    saved(tmp_path, 2, 4, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000004", "step-00000010"]
    assert (tmp_path / "latest").read_text() == "step-00000010\n"


@pytest.mark.parametrize(
    "damage", [shorten, flip, drop_file, drop_marker, empty_marker, no_object, of_another_run, add_a_pickle]
)
def test_damage_is_found(tmp_path, damage):
    checkpoints = saved(tmp_path, 7, 9)
    damage(tmp_path / "step-00000009")
    found = [(path.name, bool(fault)) for path, fault in checkpoints.newest()]
    assert found == [("step-00000009", True), ("step-00000007", False)]


def test_a_checkpoint_in_the_making_is_none(tmp_path):
    checkpoints = saved(tmp_path, 2)
    checkpoints.begin(4)
    (checkpoints.part(4) / "weights").write_bytes(b"half")
    assert [path.name for path, _ in checkpoints.newest()] == ["step-00000002"]


def test_a_checkpoint_is_written_again_over_a_damaged_one(tmp_path):
    checkpoints = saved(tmp_path, 2)
    shorten(tmp_path / "step-00000002")
    saved(tmp_path, 2)
    assert [fault for _, fault in checkpoints.newest()] == [""]


def test_going_on_drops_the_rows_of_steps_that_were_lost(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    log.path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3, 4)) + '{"step": 5, "lo')
    log.start(2)
    log.append({"step": 3})
    assert [row["step"] for row in StepLog(log.path).rows()] == [1, 2, 3]


def test_a_row_reaches_the_file_at_once(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    log.start(0)
    log.append({"step": 1})
    assert log.path.read_text() == '{"step": 1}\n'


def test_a_state_folder_belongs_to_one_run(tmp_path):
    claim(tmp_path, PARTS | {"config": {"lr": 9.0}}, 4)  # it ended before its first checkpoint
    claim(tmp_path, PARTS, 2)
    (tmp_path / "step-00000001").mkdir()
    claim(tmp_path, PARTS, 2)
    with pytest.raises(BusyError, match=r"config lr: 0\.001 -> 0\.002"):
        claim(tmp_path, PARTS | {"config": {"lr": 2e-3}}, 2)
    with pytest.raises(ConfigError, match="on 2 devices; its state does not fit 4"):
        claim(tmp_path, PARTS, 4)


def trained(folder, *steps):
    """A state folder of 4 devices with checkpoints of a linear layer, whose weights are the step."""
    claim(folder, PARTS, 4)
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.begin(step)
        part = checkpoints.part(step)
        save_file({"weight": torch.full((2, 2), float(step))}, part / "trainable.safetensors")
        for name in ("optimizer.pt", "rng_state_0.pth", "scheduler.pt", "trainer_state.json"):
            (part / name).write_text(name)
        checkpoints.commit(step)
    return checkpoints


def test_on_other_devices_only_what_fits_them_stays_of_the_newest_checkpoint(tmp_path):
    checkpoints = trained(tmp_path, 2, 4)
    restarts = claim(tmp_path, PARTS, 2, weights=True)
    assert restarts == [{"step": 4, "devices": 4, "to": 2}]
    assert [(path.name, fault) for path, fault in checkpoints.newest()] == [("step-00000004", "")]
    assert is_weights_only(tmp_path / "step-00000004")
    assert not (tmp_path / "step-00000004" / "optimizer.pt").exists()


def test_a_restart_is_remembered_and_made_once(tmp_path):
    trained(tmp_path, 4)
    made = claim(tmp_path, PARTS, 2, weights=True)
    trained_on = saved(tmp_path, 6).path(6)
    assert claim(tmp_path, PARTS, 2, weights=True) == claim(tmp_path, PARTS, 2) == made
    assert trained_on.exists() and not is_weights_only(trained_on)


def test_a_restart_that_was_killed_half_way_is_finished_by_the_same_command(tmp_path, monkeypatch):
    checkpoints = trained(tmp_path, 2, 4)
    monkeypatch.setattr(Checkpoints, "strip", lambda self, step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        claim(tmp_path, PARTS, 2, weights=True)
    monkeypatch.undo()
    assert claim(tmp_path, PARTS, 2, weights=True) == [{"step": 4, "devices": 4, "to": 2}]
    assert is_weights_only(checkpoints.path(4))


def test_a_restart_takes_the_newest_checkpoint_that_is_whole(tmp_path):
    checkpoints = trained(tmp_path, 2, 4)
    (tmp_path / "step-00000004" / "trainable.safetensors").write_bytes(b"")
    assert claim(tmp_path, PARTS, 2, weights=True)[0]["step"] == 2
    assert [path.name for path, _ in checkpoints.newest()] == ["step-00000002"]


def test_without_a_whole_checkpoint_there_are_no_weights_to_go_on_from(tmp_path):
    trained(tmp_path, 4)
    (tmp_path / "step-00000004" / "COMPLETE.json").unlink()
    with pytest.raises(DataError, match=r"no checkpoint in .* is whole"):
        claim(tmp_path, PARTS, 2, weights=True)


def test_the_model_gets_the_trained_weights_and_keeps_the_frozen_ones(tmp_path):
    trained(tmp_path, 4)
    model = torch.nn.Linear(2, 2).requires_grad_(False)
    model.weight.requires_grad_(True)
    bias = model.bias.clone()
    load_weights(model, tmp_path / "step-00000004")
    assert model.weight.tolist() == [[4.0, 4.0], [4.0, 4.0]] and torch.equal(model.bias, bias)
