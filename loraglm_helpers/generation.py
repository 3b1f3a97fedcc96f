"""From prompts to answers: greedy or sampled, in batches or streamed.

    ids, padded on the left     _ _ a b c │ x y eos          every step adds one id a row;
    positions                   0 0 0 1 2 │ 3 4              a row that has ended leaves the batch
                                d e f g h │ u v w x …        and its keys and values leave the cache

An answer is what stands after the prompt, by the prompt's length: text that looks like the cue
("Answer: ") inside an answer is harmless. Greedy means the likeliest id at each step; it has no
temperature. A batch gives the same greedy answers as its prompts one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from .allocator import reuse_memory
from .decoding import Chooser, decode_steps, stop_ids
from .sequences import Context, build_prompt, context_and_target
from .settled import settled_text

PREDICTION_BATCH = 64


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    batch_size: int = 32,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    progress: bool = False,
) -> list[str]:
    """One answer a prompt (ids from ``build_prompt``), in the prompts' order, without the end mark.

    Greedy unless ``do_sample``; then ``temperature``, ``top_p`` and ``seed`` count. The model is
    in evaluation mode meanwhile and in its former modes afterwards. ``progress`` shows a bar.
    Raises ValueError for an empty prompt or settings out of range.
    """
    _check(prompts, max_new_tokens, batch_size)
    choose = Chooser(do_sample, temperature, top_p, seed)
    stops = stop_ids(model, tokenizer)
    answers: list[list[int]] = [[] for _ in prompts]
    # The longest first: what does not fit into memory fails at once.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    bar = tqdm(total=len(prompts), desc="answers", unit="row", disable=not progress)
    with evaluating(model), bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = [prompts[i] for i in rows]
            for step in decode_steps(model, batch, choose, stops, max_new_tokens):
                for row, token in step.items():
                    answers[rows[row]].append(token)
            bar.update(len(rows))
    return [settled_text(tokenizer, ids) for ids in answers]


def answer(
    model: Any,
    tokenizer: Any,
    context: Context,
    layout: str = "glm",
    max_source_seq_len: int | None = None,
    **settings: Any,
) -> str:
    """The answer to one context (text or messages); ``settings`` as in ``generate``."""
    prompt = build_prompt(context, tokenizer, layout, max_source_seq_len)
    return generate(model, tokenizer, [prompt], **settings)[0]


def stream(
    model: Any,
    tokenizer: Any,
    context: Context,
    layout: str = "glm",
    max_source_seq_len: int | None = None,
    max_new_tokens: int = 256,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> Iterator[str]:
    """The pieces of the answer as they come; joined they are what ``answer`` returns.

    A character whose bytes are not all there yet is held back. Closing the iterator early is
    allowed: the model gets its modes back.
    """
    prompt = build_prompt(context, tokenizer, layout, max_source_seq_len)
    _check([prompt], max_new_tokens)
    choose = Chooser(do_sample, temperature, top_p, seed)
    return _pieces(model, tokenizer, prompt, choose, max_new_tokens)


def predict(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Any],
    config: Any,
    batch_size: int = PREDICTION_BATCH,
    progress: bool = False,
) -> list[str]:
    """Greedy answers to rows, under ``config``'s layout and length limits, in the rows' order."""
    if next(model.parameters()).device.type == "cpu":
        reuse_memory()
    prompts = [
        build_prompt(
            context_and_target(row)[0], tokenizer, config.layout, config.max_source_seq_len
        )
        for row in rows
    ]
    limit = config.max_target_seq_len
    return generate(model, tokenizer, prompts, limit, batch_size, progress=progress)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode (no dropout), then every module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _pieces(
    model: Any, tokenizer: Any, prompt: list[int], choose: Chooser, limit: int
) -> Iterator[str]:
    ids: list[int] = []
    shown = 0
    with evaluating(model):
        for step in decode_steps(model, [prompt], choose, stop_ids(model, tokenizer), limit):
            ids += step.values()
            text = settled_text(tokenizer, ids)
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)


def _check(prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int = 1) -> None:
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1 wanted")
    empty = [i for i, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: make prompts with build_prompt")
