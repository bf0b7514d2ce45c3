"""Training in packs as it is called: the same steps as without, on one device and on several, cut or not."""

import pytest
import torch

from medvlm_cli.core.packing import PackedPasses
from tests.training_cases import cut_at

PACK = 160
"""Tokens of a pack: about three conversations of the cases, so that a step takes several packs."""


class Cut(BaseException):
    """Ends a training in the middle, without the courtesy of a signal."""


def cut():
    raise Cut


def nearly(bench, name, expected, tolerance):
    """Whether a run logged the losses, rates and counts of another, and ended with its weights."""
    found, steps = bench.steps(name), expected.steps("pretrain")
    weights, others = bench.weights(name), expected.weights("pretrain")
    return (
        [row["tokens"] for row in found] == [row["tokens"] for row in steps]
        and [row["lr"] for row in found] == [row["lr"] for row in steps]
        and [row["loss"] for row in found] == pytest.approx([row["loss"] for row in steps], abs=tolerance)
        and all(torch.allclose(others[key], weight, atol=tolerance) for key, weight in weights.items())
    )


def test_packs_train_as_padded_micro_batches_do(bench, pretrained):
    bench.pretrain("packed", pack_tokens=PACK, max_length=PACK)
    assert nearly(bench, "packed", pretrained, 2e-6)


def test_packs_of_one_image_are_as_many_passes_as_conversations_and_the_same_training(bench, pretrained, monkeypatch):
    passes, stock = [], PackedPasses.training_step

    def counted(self, model, packs, *more):
        passes.append(len(packs))
        return stock(self, model, packs, *more)

    monkeypatch.setattr(PackedPasses, "training_step", counted)
    bench.pretrain("few", pack_tokens=PACK, max_length=PACK, pack_images=1)
    assert passes[0] == 8
    assert nearly(bench, "few", pretrained, 2e-6)


def test_packs_train_as_one_conversation_after_the_other_does_where_all_weights_learn(bench, pretrained):
    base = pretrained.path("pretrain")
    bench.finetune("alone", base, epochs=1, micro_batch=1)
    bench.finetune("packed", base, epochs=1, pack_tokens=PACK, max_length=PACK)
    losses = [[row["loss"] for row in bench.steps(name)] for name in ("alone", "packed")]
    assert losses[1] == pytest.approx(losses[0], abs=2e-6)


def test_a_packed_run_that_was_cut_goes_on_as_if_nothing_had_happened(bench):
    bench.pretrain("whole", pack_tokens=PACK, max_length=PACK)
    with pytest.raises(Cut):
        bench.pretrain("again", cut_at(4, cut), pack_tokens=PACK, max_length=PACK)
    assert bench.pretrain("again", pack_tokens=PACK, max_length=PACK)["resumed"] == "step-00000002"
    assert bench.steps("again") == bench.steps("whole")
    weights = bench.weights("whole")
    assert all(torch.equal(weights[name], weight) for name, weight in bench.weights("again").items())


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_packs_on_two_processes_train_as_one_process_does(bench, pretrained, zero):
    bench.pretrain("two", gpus=2, zero=zero, pack_tokens=PACK, max_length=PACK)
    assert nearly(bench, "two", pretrained, 1e-4)
