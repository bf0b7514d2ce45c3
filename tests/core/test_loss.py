"""The loss at target positions: PyTorch's value and gradient, slice after slice."""

import pytest
import torch
import torch.nn.functional as F

from medvlm_cli.core.model import loss
from medvlm_cli.core.model.loss import IGNORED, target_loss

WORDS, WIDTH = 97, 16


@pytest.fixture(params=[1, 3 * WORDS, 1 << 24])
def at_once(request, monkeypatch):
    """One target at a time, three, and all of them."""
    monkeypatch.setattr(loss, "AT_ONCE", request.param)


def case(dtype=torch.float32, targets=11):
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 20, WIDTH, generator=random).mul(3).to(dtype).requires_grad_()
    head = torch.nn.Linear(WIDTH, WORDS, bias=False)
    with torch.no_grad():
        head.weight.normal_(generator=random)
    labels = torch.full((2, 20), IGNORED)
    labels.view(-1)[3 : 3 + targets] = torch.randint(WORDS, (targets,), generator=random)
    return hidden, head.to(dtype), labels


def stock(head, hidden, labels, items):
    """PyTorch's, over all positions."""
    logits = head(hidden).float()[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / items


def gradients(function, dtype):
    hidden, head, labels = case(dtype)
    value = function(head, hidden, labels, 7)
    value.backward()
    return value.detach(), hidden.grad, head.weight.grad


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_value_and_gradients_are_those_of_pytorch_over_all_positions(dtype, tolerance):
    for own, expected in zip(gradients(target_loss, dtype), gradients(stock, dtype), strict=True):
        assert own.dtype == expected.dtype
        assert (own - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.usefixtures("at_once")
def test_the_sum_is_taken_in_float32_of_bfloat16_logits_too():
    hidden, head, labels = case(torch.bfloat16)
    exact = stock(head, hidden, labels, 1)
    assert target_loss(head, hidden, labels, 1).dtype == torch.float32
    assert target_loss(head, hidden, labels, 1).item() == pytest.approx(exact.item(), rel=1e-6)


def test_without_a_number_of_items_it_is_the_mean():
    hidden, head, labels = case()
    assert target_loss(head, hidden, labels, None).item() == pytest.approx(stock(head, hidden, labels, 11).item())


def test_without_a_target_it_is_zero_and_every_weight_gets_a_gradient():
    hidden, head, labels = case(targets=0)
    value = target_loss(head, hidden, labels, None)
    value.backward()
    assert value.item() == 0 and head.weight.grad.abs().max() == 0 and hidden.grad.abs().max() == 0


def test_the_first_token_of_a_row_is_no_target():
    hidden, head, labels = case(targets=0)
    labels[:, 0] = 5
    assert target_loss(head, hidden, labels, 1).item() == 0


def test_a_loss_that_is_not_finite_stays_so():
    hidden, head, labels = case()
    with torch.no_grad():
        hidden[0, 2] = torch.nan
    assert target_loss(head, hidden, labels, 1).isnan()
