"""Packs: what goes into which, that the conversations of one do not see each other, and that training is the same."""

import numpy as np
import pytest
import torch

from medvlm_cli.core.batch import Collator
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.features import Cache
from medvlm_cli.core.model.documents import NAME
from medvlm_cli.core.packing import Budget, PackedSteps, share_out
from medvlm_cli.core.prompts import IGNORED, encode
from medvlm_cli.core.samples import Figures, Plan, Samples, Split
from tests.training_cases import quiet


def lengths_of(seed, count=128, least=20, most=400):
    return np.random.default_rng(seed).integers(least, most + 1, count).tolist()


def held(pack, lengths):
    return sum(lengths[place] for place in pack)


# ---- which go together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_every_conversation_is_in_one_pack_and_no_pack_holds_too_much(seed, world):
    lengths = lengths_of(seed)
    packs = share_out(lengths, Budget(1024, images=6), world)
    assert sorted(place for pack in packs for place in pack) == list(range(128))
    assert max(held(pack, lengths) for pack in packs) <= 1024
    assert max(len(pack) for pack in packs) <= 6
    assert len(packs) % world == 0


@pytest.mark.parametrize("seed", range(5))
def test_there_is_at_most_one_pack_a_rank_more_than_the_tokens_need(seed):
    lengths = lengths_of(seed)
    needed = -(-sum(lengths) // 2048)
    assert len(share_out(lengths, Budget(2048), 2)) <= needed + 2


def test_packs_are_of_nearly_the_same_length_and_the_fullest_come_first():
    lengths = lengths_of(3)
    sizes = [held(pack, lengths) for pack in share_out(lengths, Budget(2048), 4)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0.9 * sizes[0]


def test_images_limit_a_pack_where_tokens_do_not():
    assert [len(pack) for pack in share_out([10] * 7, Budget(1000, images=2), 1)] == [2, 2, 2, 1]


def test_a_rank_without_a_conversation_has_an_empty_pack():
    assert share_out([30, 20], Budget(100), 4) == [[0], [1], [], []]


def test_a_conversation_longer_than_a_pack_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="pack_tokens is 512, and a conversation takes 513 tokens") as refused:
        share_out([40, 513], Budget(512), 1)
    assert refused.value.fix == "--set pack_tokens=N with N at least max_length"


# ---- isolation --------------------------------------------------------------------------------------------------


def conversation(processor, number):
    """A conversation of its own length, with an image of its own."""
    turns = [
        {"role": "user", "text": "Is there a nodule?" + " Look again." * (2 * number)},
        {"role": "assistant", "text": "Yes." + " In the left lung." * number},
    ]
    pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return encode(processor, turns) | {"image": pixels}


def logits(model, batch):
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.fixture
def outspoken(fresh_model):
    """A tiny model whose words say much of what stands before them: its weights are as large as trained ones."""
    model, processor = fresh_model
    random = torch.Generator().manual_seed(2)
    parts = [model.model.language_model.layers, model.model.multi_modal_projector]
    with torch.no_grad():
        for weight in (weight for part in parts for weight in part.parameters() if weight.ndim == 2):
            weight.normal_(0, 0.2, generator=random)
    return model, processor


def apart(model, processor, order, **more):
    """The largest difference of logits between a pack and its conversations alone."""
    rows, pad = [conversation(processor, number) for number in order], Collator(processor)
    packed = logits(model, pad.packed(rows) | more)[0].split([len(row["input_ids"]) for row in rows])
    alone = [logits(model, pad([row]))[0] for row in rows]
    return max((one - other).abs().max().item() for one, other in zip(packed, alone, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager", NAME])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0, 2], [1]])
def test_a_conversation_in_a_pack_reads_as_it_does_alone(outspoken, order, attention):
    model, processor = outspoken
    model.model.language_model.set_attn_implementation(attention)
    assert apart(model, processor, order) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("leak", ["attention_mask", "use_cache"])
def test_with_a_mask_of_ones_or_a_cache_they_would_see_each_other(outspoken, leak):
    """So the test above would notice."""
    model, processor = outspoken
    tokens = sum(len(conversation(processor, number)["input_ids"]) for number in range(4))
    more = {"attention_mask": torch.ones(1, tokens, dtype=torch.int64), "use_cache": True}
    assert apart(model, processor, range(4), **{leak: more[leak]}) > 1e-2


# ---- whole steps ------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(training_data, fresh_model):
    split = Split(training_data / "instruct", Figures([training_data / "figures"]), "instruct")
    return Samples(split, split.train, *fresh_model, 2048, None)


def plan(samples, batch, rank=0, world=1, micro=1):
    return Plan(rows=len(samples), batch=batch, micro=micro, epochs=1, seed=0, rank=rank, world=world)


def summed(model, batches):
    """Loss of an optimiser step as the mean over its target words, and the gradients."""
    model.zero_grad()
    model.train()
    targets = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
    losses = []
    for batch in batches:
        told = {name: value for name, value in batch.items() if name not in ("cut", "tokens", "padding")}
        losses.append(model(**told | {"num_items_in_batch": targets, "use_cache": False}).loss)
        losses[-1].backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return sum(losses).item(), gradients


def padded(samples, rows, micro):
    return [samples.collate([samples[row] for row in rows[first : first + micro]]) for first in range(0, 16, micro)]


@pytest.mark.parametrize("tokens", [128, 300, 2048])
def test_packs_have_the_loss_and_the_gradients_of_padded_micro_batches(samples, fresh_model, tokens):
    order = plan(samples, 16)
    loss, gradients = summed(fresh_model[0], padded(samples, order.step(0).tolist(), 4))
    packs = PackedSteps(samples, order, Budget(tokens))[0]
    packed_loss, packed = summed(fresh_model[0], packs)
    scale = max(gradient.abs().max() for gradient in gradients.values())
    assert max(pack["input_ids"].shape[1] for pack in packs) <= tokens
    assert packed_loss == pytest.approx(loss, abs=1e-6)
    assert packed.keys() == gradients.keys()
    assert max((packed[name] - gradient).abs().max() for name, gradient in gradients.items()) <= 1e-6 * scale + 1e-7


def test_cached_features_are_packed_as_images_are(samples, fresh_model, tmp_path):
    cache = Cache(tmp_path, *fresh_model)
    cache.make(samples.split.originals(), quiet)
    kept = Samples(samples.split, samples.split.train, *fresh_model, 2048, cache.features)
    of_images, of_features = (PackedSteps(one, plan(one, 16), Budget(300))[0] for one in (samples, kept))
    assert {"pixel_values"} ^ {"image_features"} == of_images[0].keys() ^ of_features[0].keys()
    assert summed(fresh_model[0], of_images)[0] == pytest.approx(summed(fresh_model[0], of_features)[0], abs=1e-6)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_all_ranks_get_as_many_packs_in_every_step(samples, world):
    ranks = [PackedSteps(samples, plan(samples, 8, rank, world), Budget(160)) for rank in range(world)]
    counts = {tuple(len(steps[number]) for number in range(len(steps))) for steps in ranks}
    assert len(counts) == 1 and len(counts.pop()) == 3


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_packs_of_all_ranks_hold_the_conversations_of_the_step(samples, world):
    order = plan(samples, 8)
    packs = [
        pack for rank in range(world) for pack in PackedSteps(samples, plan(samples, 8, rank, world), Budget(160))[0]
    ]
    expected = [token for row in order.step(0).tolist() for token in samples[row]["input_ids"]]
    assert sorted(torch.cat([pack["input_ids"][0] for pack in packs]).tolist()) == sorted(expected)
    assert sum(pack["tokens"] for pack in packs) == len(expected)
    assert all(len(pack["pixel_values"]) == int((pack["position_ids"] == 0).sum()) > 0 for pack in packs)


def test_a_rank_that_the_last_step_leaves_without_conversations_gets_one_without_targets(samples):
    steps = [PackedSteps(samples, plan(samples, 20, rank, 4), Budget(2048)) for rank in range(4)]
    targets = [int((pack["labels"] != IGNORED).sum()) for one in steps for pack in one[1]]
    assert [count > 0 for count in targets] == [True, True, False, False]
    assert all(len(pack["pixel_values"]) == 1 for one in steps for pack in one[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_the_steps_in_order(samples, workers):
    steps = PackedSteps(samples, plan(samples, 8), Budget(300))
    loaded = list(steps.loader(workers, pin_memory=False))
    assert len(loaded) == len(steps) == 3
    assert [[pack["input_ids"].tolist() for pack in step] for step in loaded] == [
        [pack["input_ids"].tolist() for pack in steps[number]] for number in range(3)
    ]
    assert all(pack["pixel_values"].dtype == torch.uint8 for step in loaded for pack in step)
