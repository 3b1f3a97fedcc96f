"""What else is measured on a GPU: memory of long steps, merging, generating."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contenders import PadToken, our_config, synchronize, train_ours
from workload import Workload

from loraglm_helpers.checkpoints import save_official
from loraglm_helpers.generation import generate
from loraglm_helpers.lora import attach_adapter
from loraglm_helpers.merging import merge
from loraglm_helpers.run_state import save_adapter
from loraglm_helpers.weight_files import find_shards

LONG_STEP = 8192  # tokens
BLOCK = 16 << 20  # bytes read and written at once


def seconds_of(work: Callable[[], Any], device: str = "cpu") -> float:
    """Wall-clock seconds of one call."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def long_step(work: Workload, checkpointing: bool) -> dict[str, Any]:
    """Our loop in batches of up to 8,192 tokens, with or without recomputed activations."""
    took, _ = train_ours(work, tokens_per_batch=LONG_STEP, gradient_checkpointing=checkpointing)
    return took.as_dict()


def merging(work: Workload) -> dict[str, float]:
    """Merging an adapter into a checkpoint on disk, against reading and writing its bytes."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model = work.model().to("cpu")
        save_official(model, None, folder / "base")
        adapted = attach_adapter(model, our_config(work, directory))
        nonzero(adapted)
        save_adapter(adapted, folder / "adapter", "base")
        del model, adapted
        files = find_shards(folder / "base")[0]
        copied = seconds_of(lambda: copy(files, folder))
        merged = seconds_of(
            lambda: merge(folder / "base", folder / "adapter", folder / "out", verify=False)
        )
        total = sum(file.stat().st_size for file in files)
    return {"bytes": total, "merge_seconds": merged, "copy_seconds": copied}


def nonzero(adapted: Any) -> None:
    """Give B random values: a fresh adapter changes nothing."""
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)


def copy(files: list[Path], folder: Path) -> None:
    """Read the files and write them again, block by block, as one file."""
    target = folder / "copy"
    with target.open("wb") as out:
        for file in files:
            with file.open("rb") as source:
                while block := source.read(BLOCK):
                    out.write(block)
    target.unlink()


def generating(work: Workload, new_tokens: int = 64, batch: int = 32) -> dict[str, float]:
    """Greedy answers: ours in a batch, transformers' ``generate`` on that batch and one by one.

    Tokens a second. The model is random and ends no answer, so each has ``new_tokens`` tokens.
    """
    model = work.model().eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    answers = itertools.cycle(e.input_ids[: len(e.input_ids) // 2] for e in work.examples())
    prompts = list(itertools.islice(answers, batch))

    def ours() -> None:
        generate(model, IdTokenizer(), prompts, new_tokens, batch)

    def theirs(rows: list[list[int]]) -> None:
        model.generate(**left_padded_inputs(rows, work.device), max_new_tokens=new_tokens)

    few = prompts[: max(1, batch // 8)]  # one by one is slow
    ways = {
        "ours": (ours, batch),
        "generate, batched": (lambda: theirs(prompts), batch),
        "generate, one by one": (lambda: [theirs([row]) for row in few], len(few)),
    }
    ours()  # warmed up
    return {
        name: rows * new_tokens / seconds_of(way, work.device) for name, (way, rows) in ways.items()
    }


class IdTokenizer(PadToken):
    """Decodes ids to their numbers: the text is not what is measured."""

    eos_token_id = unk_token_id = None

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """One piece an id."""
        return [str(i) for i in ids]

    def convert_tokens_to_ids(self, piece: str) -> None:
        """No byte pieces here."""

    def decode(self, ids: Any, **_: Any) -> str:
        """The ids, with spaces between."""
        return " ".join(map(str, ids))


def left_padded_inputs(rows: list[list[int]], device: str) -> dict[str, torch.Tensor]:
    """Ids and mask as ``generate`` wants them."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
