import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers.allocator import reuse_memory
from loraglm_helpers.attention import (
    ATTENTION_NAME,
    Segments,
    has_varlen,
    per_segment,
    register,
    segment_lengths,
    varlen,
)
from loraglm_helpers.sequences import Example, collate
from loraglm_helpers.steps import batch_loss

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
}


def tiny(**changes) -> GlmForCausalLM:
    torch.manual_seed(0)
    model = GlmForCausalLM(GlmConfig(**(SHAPE | changes)))
    model.set_attn_implementation(register())
    return model


def examples() -> list[Example]:
    ids = [[5, 6, 7, 8, 9, 2], [10, 11, 12, 2], [13, 14, 15, 16, 17, 18, 19, 20, 21, 2]]
    return [Example(row, [-100] * 2 + row[2:]) for row in ids]


def test_segment_lengths_of_a_row_of_three():
    row = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2]])
    assert segment_lengths(row) == [4, 2, 3]
    assert segment_lengths(torch.arange(5)[None]) == [5]
    assert segment_lengths(torch.arange(3, 6)[None]) == [3]


def test_segment_lengths_refuses_two_rows():
    with pytest.raises(ValueError, match=r"\(1, tokens\).*\(2, 3\)"):
        segment_lengths(torch.zeros(2, 3))


def test_segments_end_where_the_next_begins():
    segments = Segments((4, 2, 3))
    ends = segments.ends(torch.device("cpu"))
    assert ends.tolist() == [0, 4, 6, 9] and ends.dtype == torch.int32
    assert segments.ends(torch.device("cpu")) is ends


def test_the_varlen_kernel_is_for_half_precision():
    assert not has_varlen(torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_varlen_attends_as_segment_by_segment():
    shapes = [(1, heads, 90, 32) for heads in (8, 2, 2)]
    rows = [torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    lengths = (40, 1, 49)
    if not has_varlen(torch.bfloat16):
        pytest.skip("this GPU or torch has no variable-length kernel")
    together = varlen(*rows, Segments(lengths))
    assert_close(together, per_segment(*rows, lengths), atol=2e-2, rtol=2e-2)


def test_register_is_idempotent():
    assert register() == register() == ATTENTION_NAME == "padding_free"


def test_an_example_sees_itself_only():
    model = tiny().eval()
    alone = [model(**collate([e]), use_cache=False).logits for e in examples()]
    together = model(**collate(examples()), use_cache=False).logits
    assert_close(together, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_padded_and_padding_free_batches_give_one_loss_and_gradient(groups):
    model = tiny(num_key_value_heads=groups).train()
    results = []
    for padding_free in (True, False):
        model.zero_grad()
        loss, count = batch_loss(model, collate(examples(), padding_free))
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
        assert count == 4 + 2 + 8
    assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_batch_loss_is_the_models_own_loss():
    model = tiny().eval()
    batch = collate(examples(), padding_free=False)
    loss, count = batch_loss(model, batch)
    assert_close(loss / count, model(**batch).loss, atol=1e-5, rtol=1e-5)


def test_batch_loss_takes_peft_models_and_checkpointing():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    base = tiny()
    model = peft.get_peft_model(base, config).train()
    plain, _ = batch_loss(model, collate(examples()))
    base.enable_input_require_grads()
    base.activation_checkpointing_enable()
    checkpointed, _ = batch_loss(model, collate(examples()))
    checkpointed.backward()
    assert_close(plain, checkpointed)


def test_generation_and_left_padding_still_work():
    model = tiny().eval()
    other = tiny().eval()
    other.set_attn_implementation("sdpa")
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    made = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    assert model.generate(**made).tolist() == other.generate(**made).tolist()
    one = {"input_ids": ids[1:], "max_new_tokens": 6, "do_sample": False}
    assert model.generate(**one).tolist() == other.generate(**one).tolist()


def test_bfloat16_autocast_attends_in_float32_on_a_cpu():
    model = tiny().train()
    exact, _ = batch_loss(model, collate(examples()))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = batch_loss(model, collate(examples()))
    rounded.backward()
    assert rounded.dtype == torch.float32
    assert abs(rounded.item() / exact.item() - 1) < 0.02


def test_reuse_memory_answers_yes_or_no(monkeypatch):
    assert isinstance(reuse_memory(), bool)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reuse_memory() is False
