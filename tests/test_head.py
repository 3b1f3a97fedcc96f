import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers import head
from loraglm_helpers.sequences import Example, collate
from loraglm_helpers.steps import batch_loss


def case(dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(130, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(40, 8, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, 40, (130,))


@pytest.mark.parametrize("buffers", [head.buffers, lambda *_: (None, None)], ids=["cpu", "gpu"])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_loss_and_gradients_are_cross_entropys(chunk, buffers, monkeypatch):
    monkeypatch.setitem(head.CHUNK, "cpu", chunk)
    monkeypatch.setattr(head, "buffers", buffers)
    hidden, weight, targets = case()
    ours = head.head_loss(hidden, weight, targets)
    theirs = cross_entropy(hidden @ weight.T, targets, reduction="sum")
    assert_close(ours, theirs)
    expected = torch.autograd.grad(theirs / 3, [hidden, weight])
    assert_close(torch.autograd.grad(ours / 3, [hidden, weight]), expected, atol=1e-5, rtol=1e-5)


def test_chunks_are_few_and_alike():
    assert [head.even_rows(count, 258) for count in (0, 1, 258, 259, 807)] == [1, 1, 258, 130, 202]


def test_half_precision_gives_a_float32_loss_and_half_gradients():
    hidden, weight, targets = case(torch.bfloat16)
    loss = head.head_loss(hidden, weight, targets)
    exact = cross_entropy(hidden.float() @ weight.float().T, targets, reduction="sum")
    loss.backward()
    assert loss.dtype == torch.float32
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    assert abs(loss.item() / exact.item() - 1) < 0.01


@pytest.mark.parametrize("narrowest", [1, 7, 64])  # tiles of one entry, uneven ones, a single one
def test_a_frozen_weight_and_no_gradients_at_all(narrowest, monkeypatch):
    monkeypatch.setattr(head, "TILE", 1)
    monkeypatch.setattr(head, "NARROWEST", narrowest)
    hidden, weight, targets = case()
    loss = head.head_loss(hidden, weight.detach(), targets)
    theirs = cross_entropy(hidden @ weight.T, targets, reduction="sum")
    assert_close(loss, theirs)
    loss.backward()
    assert weight.grad is None
    [expected] = torch.autograd.grad(theirs, [hidden])
    assert_close(hidden.grad, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert_close(head.head_loss(hidden, weight, targets), loss.detach())


def test_a_frozen_weight_in_half_precision():
    hidden, weight, targets = case(torch.bfloat16)
    loss = head.head_loss(hidden, weight.detach(), targets)
    loss.backward()
    exact = hidden.detach().float().requires_grad_()
    theirs = cross_entropy(exact @ weight.detach().float().T, targets, reduction="sum")
    theirs.backward()
    assert loss.dtype == torch.float32 and hidden.grad.dtype == torch.bfloat16
    assert abs(loss.item() / theirs.item() - 1) < 0.01
    assert_close(hidden.grad.float(), exact.grad, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("trained", [True, False])
def test_a_batch_without_targets_has_loss_and_gradients_of_zero(trained):
    hidden, weight, targets = case()
    loss = head.head_loss(hidden[:0], weight.requires_grad_(trained), targets[:0])
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert weight.grad is None or torch.equal(weight.grad, torch.zeros_like(weight))


def test_losses_are_exact_for_targets_of_no_probability():
    hidden, weight = torch.tensor([[1000.0]]), torch.tensor([[1.0], [-1.0], [0.5]])
    for trained in (False, True):
        weight.requires_grad_(trained)
        losses = [head.head_loss(hidden, weight, torch.tensor([i])).item() for i in range(3)]
        assert losses == [0.0, 2000.0, 500.0]


def tiny() -> GlmForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return GlmForCausalLM(GlmConfig(**shape, **heads, pad_token_id=0, eos_token_id=2))


def test_the_output_layer_is_whole_again_after_a_batch():
    model = tiny()
    before = model(torch.tensor([[5, 6, 7]])).logits
    batch_loss(model, collate([Example([5, 6, 7], [-100, 6, 7])]))
    assert "forward" not in vars(model.lm_head)
    assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, before)
    with pytest.raises(RuntimeError), head.loss_at_head(model.lm_head, torch.tensor([6])):
        raise RuntimeError
    assert "forward" not in vars(model.lm_head)


def test_an_output_layer_of_another_kind_keeps_its_logits():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model, batch = tiny(), collate([Example([5, 6, 7, 8], [-100, 6, 7, 8])])
    plain = model(**batch).logits
    scaled = Scaled(16, 60, bias=False)
    scaled.load_state_dict(model.lm_head.state_dict())
    model.set_output_embeddings(scaled)
    assert head.plain_head(model) is None
    loss, count = batch_loss(model, batch)
    expected = cross_entropy(2 * plain[0, :-1], batch["labels"][0, 1:], reduction="sum")
    assert_close(loss, expected)
    assert count == 3
