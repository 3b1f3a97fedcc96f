"""Makes the folder of a token cache: beside its place, then moved there in one step."""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .batches import target_count
from .data import iter_rows
from .encode_ahead import examples_of
from .example_digest import ExampleDigest
from .sequences import IGNORED, Example
from .token_cache_key import TokenCacheError, file_hash

IDS, LABELS, INDEX, FACTS = "ids.bin", "labels.bin", "index.bin", "cache.json"
BUFFER = 1 << 20  # bytes


def write_cache(
    folder: Path, path: str | Path, tokenizer: Any, config: Any, ingredients: dict[str, Any]
) -> None:
    """Tokenise the rows of ``path`` into ``folder``, and replace what is there.

    What a killed process leaves is ``folder.part``, which no one reads and the next one clears.
    Raises DataError for bad rows and TokenCacheError when the file changes meanwhile.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        rows = tqdm(iter_rows(path), f"tokenise {Path(path).name}", unit=" rows", disable=None)
        limits = config.max_source_seq_len, config.max_target_seq_len
        facts = write_examples(part, examples_of(rows, path, tokenizer, config.layout, *limits))
        if file_hash(Path(path)) != ingredients["data"]:
            raise TokenCacheError(f"{path}: changed while it was tokenised; start again")
        facts |= {"file": Path(path).name, "made_from": ingredients}
        (part / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_examples(folder: Path, examples: Iterable[Example]) -> dict[str, Any]:
    """Write ids, labels and index of examples into ``folder``; returns what is to be noted."""
    index, digest = array("q"), ExampleDigest()
    ids_end = labels_end = 0
    with (
        (folder / IDS).open("wb", BUFFER) as ids,
        (folder / LABELS).open("wb", BUFFER) as labels,
    ):
        for example in examples:
            tail = example.labels[first_target(example) :]
            ids.write(array("i", example.input_ids))
            labels.write(array("i", tail))
            ids_end, labels_end = ids_end + len(example.input_ids), labels_end + len(tail)
            index.extend((ids_end, labels_end, target_count(example)))
            digest.add(example)
    (folder / INDEX).write_bytes(index)
    sums = {name: file_hash(folder / name) for name in (IDS, LABELS, INDEX)}
    return {"examples": len(index) // 3, "digest": str(digest), "sha256": sums}


def first_target(example: Example) -> int:
    """Where the labels stop being -100: the length of an example without a target."""
    labels = example.labels
    return next((at for at, label in enumerate(labels) if label != IGNORED), len(labels))
