"""What the miniature can do before any LoRA, measured on names and patterns it never saw."""

from __future__ import annotations

import random
from typing import Any

import torch

from .objectives import Objectives


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, prompts: list[list[int]], most: int = 32) -> list[str]:
    """Greedy continuations of prompts, each alone; the text before eos."""
    from transformers import DynamicCache

    model.eval()
    answers = []
    for prompt in prompts:
        cache, ids, new = DynamicCache(config=model.config), torch.tensor([prompt]), []
        while len(new) < most:
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = int(logits.logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            new.append(token)
            ids = torch.tensor([[token]])
        answers.append(tokenizer.decode(new))
    return answers


def copying_accuracy(
    model: Any, tokenizer: Any, count: int = 200, seed: int = 1, split: str = "probe"
) -> float:
    """Share of `count` passage questions answered exactly, on the probe names and dev patterns."""
    objectives = Objectives(tokenizer, split)
    rng = random.Random(seed)
    examples = [
        objectives.assemble(objectives.questions(rng), rng.choice(("glm", "chatglm2")))
        for _ in range(count)
    ]
    prompts, targets = [], []
    for example in examples:
        start = next(i for i, label in enumerate(example.labels) if label != -100)
        end = example.input_ids.index(tokenizer.eos_token_id)
        prompts.append(example.input_ids[:start])
        targets.append(tokenizer.decode(example.input_ids[start:end]))
    answers = greedy(model, tokenizer, prompts, most=24)
    return sum(a == t for a, t in zip(answers, targets, strict=True)) / count
