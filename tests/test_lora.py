from dataclasses import dataclass

import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers.lora import (
    CHATGLM2_6B,
    GlmShape,
    LoRALinear,
    attach_adapter,
    load_adapter,
    memory_ledger,
    target_modules,
    trainable_parameters,
)
from loraglm_helpers.quick_lora import QuickLinear, keep_mask, quick_lora

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
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@dataclass
class Settings:
    use_lora: bool = True
    use_ptuning: bool = False
    lora_rank: int = 4
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    target_modules: str | list[str] = "query_key_value"
    adapter_kind: str = "lora"
    pre_seq_len: int = 5
    prefix_projection: bool = False
    gradient_checkpointing: bool = False
    seed: int = 42


def tiny(dtype=torch.float32) -> GlmForCausalLM:
    torch.manual_seed(0)
    return GlmForCausalLM(GlmConfig(**SHAPE)).to(dtype)


def trained_layer() -> LoRALinear:
    torch.manual_seed(1)
    layer = LoRALinear(nn.Linear(6, 4), rank=2, alpha=8)
    nn.init.normal_(layer.B)
    return layer


def test_shapes_are_the_papers_and_the_start_is_the_base():
    layer = LoRALinear(nn.Linear(6, 4), rank=2, alpha=8)
    assert layer.A.shape == (2, 6)
    assert layer.B.shape == (4, 2)
    assert layer.delta().shape == (4, 6)
    assert layer.scaling == 4
    x = torch.randn(3, 6)
    assert torch.equal(layer(x), layer.base(x))


def test_only_a_and_b_are_trained():
    layer = trained_layer()
    layer(torch.randn(3, 6)).sum().backward()
    assert layer.base.weight.grad is None
    assert layer.A.grad.shape == (2, 6) and layer.B.grad.shape == (4, 2)
    assert trainable_parameters(layer) == 2 * 6 + 4 * 2


def test_merged_equals_unmerged_and_merging_twice_changes_nothing():
    layer, x = trained_layer(), torch.randn(3, 6)
    before, weight = layer(x), layer.base.weight.clone()
    layer.merge()
    once = layer.base.weight.clone()
    layer.merge()
    assert torch.equal(layer.base.weight, once)
    assert_close(once, weight + layer.delta())
    assert_close(layer(x), before)
    layer.unmerge()
    layer.unmerge()
    assert_close(layer.base.weight, weight)
    assert_close(layer(x), before)


def test_from_scratch_equals_peft_equals_merged():
    layer, x = trained_layer(), torch.randn(3, 6)
    holder = nn.Sequential(nn.Linear(6, 4))
    holder[0].load_state_dict(layer.base.state_dict())
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["0"])
    other = peft.get_peft_model(holder, config)
    other.load_state_dict(
        {"base_model.model.0.lora_A.default.weight": layer.A}
        | {"base_model.model.0.lora_B.default.weight": layer.B},
        strict=False,
    )
    assert_close(other(x), layer(x))
    assert_close(other.merge_and_unload()(x), layer(x))


def test_half_precision_base_keeps_float32_adapters():
    layer = LoRALinear(nn.Linear(6, 4).bfloat16(), rank=2, alpha=8)
    assert layer.A.dtype == layer.B.dtype == torch.float32
    assert layer(torch.randn(3, 6).bfloat16()).dtype == torch.bfloat16


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="rank 0"):
        LoRALinear(nn.Linear(6, 4), rank=0, alpha=8)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("query_key_value", ["k_proj", "q_proj", "v_proj"]),
        ("attention", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        (
            "all-linear",
            ["down_proj", "gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj"],
        ),
        (["v_proj", "down_proj"], ["down_proj", "v_proj"]),
        ("o_proj", ["o_proj"]),
        (["attention", "down_proj"], ["down_proj", "k_proj", "o_proj", "q_proj", "v_proj"]),
    ],
)
def test_target_modules_by_choice(choice, names):
    assert target_modules(tiny(), choice) == names


@pytest.mark.parametrize("choice", ["c_attn", ["q_proj", "c_attn"], []])
def test_unknown_target_modules_list_what_there_is(choice):
    with pytest.raises(ValueError, match="gate_up_proj"):
        target_modules(tiny(), choice)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa"])
def test_every_kind_starts_at_the_base_trains_and_merges(kind):
    before = tiny()(IDS).logits
    model = attach_adapter(tiny(), Settings(adapter_kind=kind, target_modules="all-linear"))
    assert model.training
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert_close(model(IDS).logits, before, atol=1e-5, rtol=1e-4)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    losses = []
    for _ in range(5):
        loss = model(IDS, labels=IDS).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    after = model.eval()(IDS).logits
    assert_close(model.merge_and_unload()(IDS).logits, after, atol=2e-5, rtol=1e-3)


def test_trainable_parameters_of_the_seeds_choice():
    model = attach_adapter(tiny(), Settings())
    assert trainable_parameters(model) == 2 * 4 * ((32 + 32) + (32 + 16) + (32 + 16))
    assert trainable_parameters(model) == GlmShape.of(model).adapter_parameters(4)


def test_an_adapters_start_follows_from_the_seed_alone():
    def start(seed: int) -> torch.Tensor:
        model = tiny()
        torch.seed()  # whatever was drawn before
        adapted = attach_adapter(model, Settings(seed=seed))
        return torch.cat([p.flatten() for n, p in adapted.named_parameters() if "lora_A" in n])

    assert start(42).equal(start(42))
    assert not start(42).equal(start(43))


def test_adapters_on_a_half_precision_base_are_float32():
    model = attach_adapter(tiny(torch.bfloat16), Settings())
    dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_ptuning_trains_prefixes_only():
    model = attach_adapter(tiny(), Settings(use_lora=False, use_ptuning=True))
    keys_and_values = 2 * 2 * (2 * 8)  # layers × (key, value) × groups × head_dim
    assert trainable_parameters(model) == 5 * keys_and_values
    mask = torch.ones_like(IDS)
    model(IDS, attention_mask=mask, labels=IDS, use_cache=False).loss.backward()
    projected = Settings(use_lora=False, use_ptuning=True, prefix_projection=True)
    assert trainable_parameters(attach_adapter(tiny(), projected)) > 5 * keys_and_values


def test_neither_lora_nor_ptuning_trains_every_weight():
    model = attach_adapter(tiny(torch.bfloat16), Settings(use_lora=False))
    assert trainable_parameters(model) == sum(p.numel() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_lora_and_ptuning_together_are_refused():
    with pytest.raises(ValueError, match="use_ptuning"):
        attach_adapter(tiny(), Settings(use_ptuning=True))
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        both = Settings(use_lora=False, use_ptuning=True, gradient_checkpointing=True)
        attach_adapter(tiny(), both)


def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        model = attach_adapter(tiny(), Settings(gradient_checkpointing=checkpointing))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.constant_(parameter, 0.01)
        calls = []
        layer = model.get_base_model().model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
        assert len(calls) == 1 + checkpointing
    assert_close(grads[0], grads[1])


def test_load_adapter_gives_the_saved_model_back(tmp_path):
    model = attach_adapter(tiny(), Settings())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    loaded = load_adapter(tiny(), tmp_path)
    assert not loaded.training
    assert_close(loaded(IDS).logits, model.eval()(IDS).logits)


def test_load_adapter_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="adapter_config.json"):
        load_adapter(tiny(), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no weights here"):  # and no repository is asked
        load_adapter(tiny(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="adapter_model.safetensors: not a whole weight file"):
        load_adapter(tiny(), tmp_path)
    holder = nn.ModuleDict({"query_key_value": nn.Linear(4, 4)})
    config = peft.LoraConfig(r=2, target_modules=["query_key_value"])
    peft.get_peft_model(holder, config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="import_adapter"):
        load_adapter(tiny(), tmp_path)


def test_dropout_masks_have_the_rate_they_say():
    torch.manual_seed(0)
    mask, kept = keep_mask(torch.ones(1001, 101), 0.1)
    assert mask.dtype == torch.bool and mask.shape == (1001, 101)
    assert kept == 1 - 6554 / 65536
    assert abs(mask.float().mean().item() - 0.9) < 0.005
    again, _ = keep_mask(torch.ones(1001, 101), 0.1)
    assert not torch.equal(mask, again)


def adapted_layers(**changes) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same layer with the same adapter, by PEFT and by QuickLinear."""
    layers = []
    for quick in (False, True):
        torch.manual_seed(3)
        holder = nn.Sequential(nn.Linear(6, 4))
        config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["0"], **changes)
        model = peft.get_peft_model(holder, config).train()
        nn.init.normal_(model.base_model.model[0].lora_B.default.weight)
        if quick:
            quick_lora(model)
        layers.append(model)
    assert type(layers[1].base_model.model[0]) is QuickLinear
    return tuple(layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quick_lora_has_pefts_values_and_gradients(dtype):
    results = []
    for model in adapted_layers():
        model.base_model.model[0].base_layer.to(dtype)
        x = torch.linspace(-1, 1, 30).view(1, 5, 6).requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            y = model(x)
        y.float().square().sum().backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([y.detach().float(), x.grad, *grads])
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert {g.dtype for g in results[1]} == {torch.float32}
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_quick_lora_drops_out_by_the_mask():
    _, model = adapted_layers(lora_dropout=0.5)
    x = torch.randn(5, 6, requires_grad=True)
    torch.manual_seed(9)
    y = model(x)
    torch.manual_seed(9)
    mask, kept = keep_mask(x, 0.5)
    layer = model.base_model.model[0]
    A, B = layer.lora_A.default.weight, layer.lora_B.default.weight
    expected = layer.base_layer(x) + 4 * (x * mask / kept) @ A.T @ B.T
    assert_close(y, expected)
    ours = torch.autograd.grad(y.sum(), [x, A, B], retain_graph=True)
    assert_close(ours, torch.autograd.grad(expected.sum(), [x, A, B]))
    assert_close(model.eval()(x), adapted_layers(lora_dropout=0.5)[0].eval()(x))


def test_quick_lora_leaves_other_kinds_to_peft():
    model = attach_adapter(tiny(), Settings(adapter_kind="dora"))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, QuickLinear) and not layer._is_plain()
    with model.disable_adapter():
        assert_close(model(IDS).logits, tiny()(IDS).logits)


def test_chatglm2_6b_counts():
    assert CHATGLM2_6B.parameters() == 6_243_584_000
    assert CHATGLM2_6B.adapter_parameters(8, fused=True) == 1_949_696
    assert CHATGLM2_6B.adapter_parameters(8) == 3_784_704
    assert CHATGLM2_6B.adapter_parameters(8, "all-linear", fused=True) == 14_823_424


def test_shape_counts_a_real_model():
    model = tiny()
    assert GlmShape.of(model).parameters() == sum(p.numel() for p in model.parameters())


def test_memory_ledger_of_chatglm2_6b():
    ledger = memory_ledger(CHATGLM2_6B, rank=8, tokens=2048, target_tokens=1000)
    assert ledger["weights"] == 12_487_168_000
    assert ledger["adapters"] == ledger["gradients"] == 4 * 3_784_704
    assert ledger["optimizer"] == 8 * 3_784_704
    assert ledger["logits"] == 10 * 1000 * 65024
    assert ledger["total"] == sum(ledger.values()) - ledger["total"]
    many = {"tokens": 8192, "target_tokens": 8192}
    assert memory_ledger(CHATGLM2_6B, **many)["logits"] == 10 * 2064 * 65024
    assert memory_ledger(CHATGLM2_6B, **many, chunked=False)["logits"] == 10 * 8192 * 65024
    smaller = memory_ledger(CHATGLM2_6B, tokens=2048, gradient_checkpointing=True)
    assert smaller["activations"] < ledger["activations"] / 10
    halved = memory_ledger(CHATGLM2_6B, rank=4)["total"]
    assert memory_ledger(CHATGLM2_6B, rank=8)["total"] - halved < 40e6
    tables = 2 * 65024 * 4096 + 57 * 4096 + 28 * 4608  # embeddings, norms, biases: never packed
    packed = memory_ledger(CHATGLM2_6B, precision="4bit")["weights"]
    assert packed == (6_243_584_000 - tables) // 2 + 2 * tables


def test_memory_ledger_of_full_fine_tuning_and_errors():
    ledger = memory_ledger(CHATGLM2_6B, full_fine_tuning=True)
    assert ledger["optimizer"] == 8 * 6_243_584_000
    assert ledger["adapters"] == 0
    with pytest.raises(ValueError, match="precision 'int3'"):
        memory_ledger(CHATGLM2_6B, precision="int3")
    with pytest.raises(ValueError, match="targets 'mlp'"):
        memory_ledger(CHATGLM2_6B, targets="mlp")
