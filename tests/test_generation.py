"""Answers: batches equal single prompts and the published code, text arrives whole, modes stay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_tokenizer import train_tokenizer
from transformers import DynamicCache, GlmConfig, GlmForCausalLM

from loraglm_helpers import evaluation
from loraglm_helpers.attention import register
from loraglm_helpers.checkpoints import load_glm
from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.data import Row
from loraglm_helpers.decoding import Chooser, decode_steps, left_padded, stop_ids
from loraglm_helpers.generation import answer, generate, predict, stream
from loraglm_helpers.sequences import build_prompt, format_context
from loraglm_helpers.tokenizer import load_tokenizer

GOLDEN = Path(__file__).parent / "golden"
CONTEXT = format_context("找出文中的三元组。", "白石大学在青州。")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(train_tokenizer(tmp_path_factory.mktemp("tokenizer")).parent)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(3)
    config = GlmConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        attention_bias=True,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        initializer_range=0.4,  # large weights: every context has an answer of its own
    )
    return GlmForCausalLM(config).eval()


@pytest.fixture
def prompts(tokenizer):
    texts = ["年利率是什么？", "The price", "a", "这家公司的新产品卖一百二十元，值得吗？", "小说"]
    return [build_prompt(text, tokenizer) for text in texts]


class Scripted(torch.nn.Module):
    """Stands for a model that answers every prompt with the same ids; counts what it is given."""

    def __init__(self, script: list[int], prompt_length: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(1, 1)
        self.config = SimpleNamespace(eos_token_id=2)
        self.script, self.prompt_length, self.seen = script, prompt_length, []

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embedding

    def forward(self, input_ids, position_ids, **kwargs):
        self.seen.append(tuple(input_ids.shape))
        logits = torch.zeros(input_ids.shape[0], 1, 1000)
        token = self.script[position_ids[0, -1] + 1 - self.prompt_length]
        logits[:, :, token] = 1.0
        return SimpleNamespace(logits=logits, past_key_values=DynamicCache())


def collect(model, prompts, steps=12, stops=frozenset()):
    ids = [[] for _ in prompts]
    for step in decode_steps(model, prompts, Chooser(), set(stops), steps):
        for row, token in step.items():
            ids[row].append(token)
    return ids


@pytest.mark.parametrize("family", ["glm2", "glm3"])
def test_the_published_code_generates_the_same_ids(family):
    model = load_glm(GOLDEN / family / "ckpt", dtype="fp32", device="cpu")
    reference = load_file(GOLDEN / family / "reference.safetensors")
    for case in ("gen_single", "gen_batch", "gen_leftpad"):
        ids, out = (reference[f"{case}.{part}"] for part in ("input_ids", "output_ids"))
        prompts = [row[row != 0].tolist() for row in ids]  # 0 is the pad
        new = out[:, ids.shape[1] :].tolist()
        wanted = [row[: row.index(2)] if 2 in row else row for row in new]
        assert collect(model, prompts, 40, {2}) == wanted


def test_a_batch_answers_as_its_prompts_do_one_at_a_time(model, tokenizer, prompts):
    together = generate(model, tokenizer, prompts, max_new_tokens=20, batch_size=5)
    alone = [generate(model, tokenizer, [p], max_new_tokens=20)[0] for p in prompts]
    assert together == alone
    assert len(set(together)) == 5
    assert generate(model, tokenizer, prompts, max_new_tokens=20, batch_size=2) == together


def test_a_row_that_stops_leaves_the_batch_and_changes_no_other(model, prompts):
    free = collect(model, prompts)
    stop = free[0][4]
    wanted = [ids[: ids.index(stop)] if stop in ids else ids for ids in free]
    assert len(wanted[0]) <= 4 and max(map(len, wanted)) == 12
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    assert collect(model, prompts, stops={stop}) == wanted
    assert rows[0] == (5, max(map(len, prompts)))
    assert rows[-1][0] < 5 and {length for _, length in rows[1:]} == {1}


def test_transformers_own_generate_gives_the_same_ids(model, prompts):
    ids, mask = left_padded(prompts)
    own = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert collect(model, prompts) == own[:, ids.shape[1] :].tolist()


def test_generation_works_on_a_model_set_up_for_padding_free_training(model, tokenizer, prompts):
    before = generate(model, tokenizer, prompts, max_new_tokens=10)
    model.set_attn_implementation(register())
    assert generate(model, tokenizer, prompts, max_new_tokens=10) == before
    assert generate(model, tokenizer, prompts[:1], max_new_tokens=10) == before[:1]


def test_the_cache_is_used_even_where_the_config_says_no(model, prompts):
    model.config.use_cache = False
    lengths = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    collect(model, prompts[:1], steps=4)
    assert lengths == [len(prompts[0]), 1, 1, 1]
    assert model.config.use_cache is False


def test_left_padding_ends_every_prompt_in_the_same_column():
    ids, mask = left_padded([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_an_answer_that_holds_the_cue_is_kept_whole(tokenizer):
    prompt = build_prompt("Answer: ", tokenizer)
    text = "no. Answer: 是 Answer: [gMASK]"
    script = Scripted([*tokenizer.encode(text, add_special_tokens=False), 2], len(prompt))
    assert generate(script, tokenizer, [prompt, prompt]) == [text, text]


def test_a_stream_joined_is_the_answer_and_holds_broken_characters_back(tokenizer):
    text = "好\U0001f9ea饕餮 x"  # none of the rare ones has a piece: three or four byte ids each
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > len(text) + 5
    prompt = build_prompt("a", tokenizer)
    pieces = list(stream(Scripted([*ids, 2], len(prompt)), tokenizer, "a"))
    assert "".join(pieces) == text
    assert "\U0001f9ea" in pieces and "\ufffd" not in "".join(pieces)
    assert answer(Scripted([*ids, 2], len(prompt)), tokenizer, "a") == text


def test_an_answer_cut_inside_a_character_ends_before_it(tokenizer):
    ids = tokenizer.encode("好\U0001f9ea", add_special_tokens=False)
    prompt = build_prompt("a", tokenizer)
    for limit in range(len(ids) - 3, len(ids)):
        short = Scripted(ids, len(prompt))
        assert answer(short, tokenizer, "a", max_new_tokens=limit) == "好"


def test_a_stream_joined_is_the_answer_when_a_later_byte_is_wrong(tokenizer):
    wrong = tokenizer.convert_tokens_to_ids(["<0xE5>", "<0x80>", "<0xFF>"])
    ids = [*tokenizer.encode("好\U0001f9ea饕", add_special_tokens=False), *wrong]
    prompt = build_prompt("a", tokenizer)
    pieces = list(stream(Scripted([*ids, 2], len(prompt)), tokenizer, "a"))
    assert "".join(pieces) == "好\U0001f9ea饕" + "\ufffd" * 3
    assert answer(Scripted([*ids, 2], len(prompt)), tokenizer, "a") == "".join(pieces)


def test_modes_come_back_after_an_answer_and_after_a_closed_stream(model, tokenizer, prompts):
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    generate(model, tokenizer, prompts[:2], max_new_tokens=2)
    assert [module.training for module in model.modules()] == before
    pieces = stream(model, tokenizer, "a")
    next(pieces)
    assert not model.training
    pieces.close()
    assert [module.training for module in model.modules()] == before


def test_an_evaluation_that_fails_leaves_every_module_in_its_mode(model, tokenizer, monkeypatch):
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    config, rows = FineTuneConfig(device="cpu"), [Row(CONTEXT, "[]")]
    evaluation.evaluate_loss(model, rows, config, tokenizer=tokenizer)
    assert [module.training for module in model.modules()] == before
    let_go = []
    monkeypatch.setattr(evaluation, "batch_loss", lambda *_: 1 / 0)
    monkeypatch.setattr(evaluation, "let_go", let_go.append)
    with pytest.raises(ZeroDivisionError):
        evaluation.evaluate_loss(model, rows, config, tokenizer=tokenizer)
    assert [module.training for module in model.modules()] == before
    assert let_go == [model]


def test_sampling_follows_its_seed_and_a_small_nucleus_is_greedy(model, tokenizer, prompts):
    sampled = [
        generate(model, tokenizer, prompts, 12, do_sample=True, seed=seed) for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    greedy = generate(model, tokenizer, prompts, 12)
    assert generate(model, tokenizer, prompts, 12, do_sample=True, top_p=1e-6) == greedy
    assert generate(model, tokenizer, prompts, 12, do_sample=True, temperature=1e-4) == greedy


def test_the_nucleus_keeps_the_fewest_ids_that_reach_top_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(400, 1)
    for top_p, kept in ((0.5, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        assert set(Chooser(True, 1.0, top_p, seed=0)(logits).tolist()) == kept


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"do_sample": True, "temperature": 0}, "do_sample=False"),
        ({"do_sample": True, "top_p": 0}, "top_p is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_out_of_range_are_refused(model, tokenizer, settings, words):
    with pytest.raises(ValueError, match=words):
        generate(model, tokenizer, [[5]], **settings)


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_answers(model, tokenizer):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate(model, tokenizer, [[5], []])
    assert generate(model, tokenizer, []) == []


def test_every_end_mark_stops(model, tokenizer, prompts):
    [free] = collect(model, prompts[:1])
    end = free[4]
    model.generation_config.eos_token_id = [end, 9]
    assert stop_ids(model, tokenizer) == {2, end, 9}
    kept = free[: free.index(end)]
    assert generate(model, tokenizer, prompts[:1], 12) == [tokenizer.decode(kept)]


def test_a_lora_adapter_answers_and_can_be_switched_off(model, tokenizer, prompts):
    base = generate(model, tokenizer, prompts, 8)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings).train()
    answers = generate(adapted, tokenizer, prompts, 8)
    assert answers != base and adapted.training
    with adapted.disable_adapter():
        assert generate(adapted, tokenizer, prompts, 8) == base


def test_a_prefix_sees_padded_rows_as_it_sees_single_ones(model, tokenizer, prompts):
    base = collect(model, prompts)
    settings = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, token_dim=32)
    tuned = peft.get_peft_model(model, settings)
    torch.nn.init.normal_(tuned.prompt_encoder["default"].embedding.weight)
    tuned.eval()
    together = collect(tuned, prompts)
    assert together == [collect(tuned, [prompt])[0] for prompt in prompts] != base
    ids = torch.tensor(prompts[3:4])
    own = tuned.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
    )
    assert together[3] == own[0, ids.shape[1] :].tolist()
    with tuned.disable_adapter():
        assert collect(tuned, prompts) == base


def test_predict_builds_prompts_under_the_configs_layout_and_limits(model, tokenizer):
    rows = [SimpleNamespace(context=CONTEXT, target="[]", messages=None)]
    rows += [SimpleNamespace(messages=({"role": "user", "content": "青州在哪里？"},), target="")]
    config = SimpleNamespace(layout="chatglm2", max_source_seq_len=30, max_target_seq_len=9)
    contexts = [CONTEXT, list(rows[1].messages)]
    wanted = [
        answer(model, tokenizer, c, "chatglm2", max_source_seq_len=30, max_new_tokens=9)
        for c in contexts
    ]
    assert predict(model, tokenizer, rows, config) == wanted
    assert predict(model, tokenizer, rows, config, batch_size=1) == wanted
    assert all(wanted)
