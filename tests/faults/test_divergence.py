"""A loss or a gradient that is no number: the run stops, keeps its batch and what was good, and goes on once mended."""

import json

import pytest
import torch
from safetensors.torch import load_file

from medvlm_cli.core.errors import MedVLMError, ResourceError
from medvlm_cli.core.resume import Checkpoints
from medvlm_cli.core.steps import StepTrainer
from tests.training_cases import Bench

LAST_GOOD = 3


def nan_loss(loss, weight):
    return loss * float("nan")


def infinite_loss(loss, weight):
    return loss * float("inf")


def nan_gradient(loss, weight):
    """The loss itself stays as it is: the root has no slope at 0."""
    return loss + 0 * (weight - weight).sum().sqrt()


@pytest.fixture
def training(training_data, tmp_path, tiny_tower, tiny_llm):
    """A place to train in; not this folder's ``bench``, which runs commands."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(training_data, tmp_path, tiny_tower, tiny_llm)
    torch.set_num_threads(threads)


def poison(monkeypatch, fault):
    """Have the fault befall every step after ``LAST_GOOD``."""
    plain = StepTrainer.compute_loss

    def poisoned(self, model, inputs, *more, **named):
        loss = plain(self, model, inputs, *more, **named)
        weight = next(weight for weight in model.parameters() if weight.requires_grad)
        return fault(loss, weight) if self.state.global_step >= LAST_GOOD else loss

    monkeypatch.setattr(StepTrainer, "compute_loss", poisoned)


@pytest.mark.parametrize("fault", [nan_loss, infinite_loss, nan_gradient])
def test_the_run_stops_at_once_keeps_its_batch_and_goes_on_to_the_same_when_mended(
    training, pretrained, monkeypatch, fault
):
    with monkeypatch.context() as patched, pytest.raises(MedVLMError, match=r"step 4 of 6: .*training has diverged"):
        poison(patched, fault)
        training.pretrain("wild", save_every=1)
    state = training.state("wild")
    assert next((path.name, reason) for path, reason in Checkpoints(state).newest()) == ("step-00000003", "")
    told = json.loads((state / "bad-step-00000004" / "rank-0.json").read_text())
    assert sum(len(part["conversations"]) for part in told["micro_batches"]) == 8
    assert load_file(state / "bad-step-00000004" / "rank-0.safetensors")["0.input_ids"].numel()
    assert training.pretrain("wild", save_every=1)["resumed"] == "step-00000003"
    assert training.steps("wild") == pretrained.steps("pretrain")


def test_a_device_without_enough_memory_is_named_with_the_setting_that_needs_less(training, monkeypatch):
    def too_much(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StepTrainer, "compute_loss", too_much)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a small card")
    with pytest.raises(ResourceError, match="micro_batch 4 does not fit the memory of a small card") as refused:
        training.pretrain("large")
    assert (refused.value.exit_code, "--set micro_batch=N" in refused.value.fix) == (6, True)
