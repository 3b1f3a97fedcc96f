"""Step by step after a prompt: the batch, the cache, the choice of the next id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Chooser:
    """Picks the next id of each row from logits (rows, vocabulary).

    Greedy, or sampled at ``temperature`` among the likeliest ids whose probabilities sum to
    ``top_p`` (nucleus sampling, Holtzman et al. 2020, section 3.1). Raises ValueError when a
    setting is out of range.
    """

    def __init__(
        self,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> None:
        if do_sample and temperature <= 0:
            raise ValueError(
                f"temperature is {temperature}: sampling divides by it. For the likeliest answer "
                "set do_sample=False"
            )
        if do_sample and not 0 < top_p <= 1:
            raise ValueError(f"top_p is {top_p}: a probability above 0 and up to 1 wanted")
        self.do_sample, self.temperature, self.top_p = do_sample, temperature, top_p
        self.seed, self.generator = seed, None

    def __call__(self, logits: Tensor) -> Tensor:
        """(rows, vocabulary) → (rows,)"""
        if not self.do_sample:
            return logits.argmax(-1)
        if self.seed is not None and self.generator is None:
            self.generator = torch.Generator(logits.device).manual_seed(self.seed)
        probabilities = torch.softmax(logits.float() / self.temperature, -1)
        ranked, ids = probabilities.sort(dim=-1, descending=True)
        before = ranked.cumsum(-1) - ranked  # the likeliest id has 0 before it and always stays
        ranked = ranked.masked_fill(before >= self.top_p, 0.0)
        place = torch.multinomial(ranked, 1, generator=self.generator)
        return ids.gather(-1, place)[:, 0]


@torch.no_grad()
def decode_steps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    choose: Chooser,
    stops: set[int],
    max_new_tokens: int,
) -> Iterator[dict[int, int]]:
    """Next ids, one dict {row: id} a step; a row that chose a stop id is in no later dict.

    The prompts are one batch. Ends when every row has ended or has ``max_new_tokens`` ids.
    """
    batch = OpenRows(model, prompts)
    for _ in range(max_new_tokens):
        chosen = choose(batch.logits())
        tokens = chosen.tolist()
        keep = [i for i, token in enumerate(tokens) if token not in stops]
        yield {batch.rows[i]: tokens[i] for i in keep}
        if not keep:
            return
        batch.append(chosen, keep)


class OpenRows:
    """The rows of a batch whose answers go on: next inputs, positions, mask and cache."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model, self.cache, prefix = _start(model, len(prompts))
        device = model.get_input_embeddings().weight.device
        self.ids, mask = (x.to(device) for x in left_padded(prompts))
        self.positions = (mask.cumsum(1) - 1).clamp(min=0) + prefix
        self.padded = not bool(mask.all())  # without pads attention is faster without a mask
        self.mask = torch.cat([mask.new_ones(len(prompts), prefix), mask], 1)
        self.rows = list(range(len(prompts)))

    def logits(self) -> Tensor:
        """Of the next id of each row, (rows, vocabulary)."""
        out = self.model(
            input_ids=self.ids,
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        return out.logits[:, -1]

    def append(self, chosen: Tensor, keep: list[int]) -> None:
        """Give the rows at ``keep`` their chosen id (rows,); the others leave."""
        self.ids, self.positions = chosen[:, None], self.positions[:, -1:] + 1
        if len(keep) < len(self.rows):
            self.rows = [self.rows[i] for i in keep]
            left = torch.tensor(keep, device=chosen.device)
            self.ids, self.positions, self.mask = (
                tensor[left] for tensor in (self.ids, self.positions, self.mask)
            )
            self.cache.batch_select_indices(left)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(keep), 1)], 1)


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask (batch, longest); pads on the left, so that all prompts end alike."""
    longest = max(len(prompt) for prompt in prompts)
    pads = [longest - len(prompt) for prompt in prompts]
    ids = [[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
    return torch.tensor(ids), torch.tensor(mask)


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """The ids that end an answer: the model's own and the tokenizer's."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return found


def _start(model: Any, rows: int) -> tuple[Any, Any, int]:
    """The model to run, its first cache, and how many positions are in it already.

    P-Tuning's prefixes are put into the cache here, so that padded rows see them unmoved.
    """
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return model, None, 0
    if model._adapters_disabled:  # PEFT's own disable_adapter()
        return model.get_base_model(), None, 0
    return model.get_base_model(), model.get_prompt(rows), config.num_virtual_tokens
