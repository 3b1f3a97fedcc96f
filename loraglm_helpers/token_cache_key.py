"""What a token cache was made of, and its name: a hash of everything that decides the ids."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from . import chat_layouts, sequences
from .data import DataError

FORMAT = 1  # raise it when the files of a cache change
BUILDERS = (sequences, chat_layouts)  # the code that turns text into ids


class TokenCacheError(ValueError):
    """A token cache that cannot be made, or that is not whole."""


def made_from(path: str | Path, tokenizer: Any, config: Any) -> dict[str, Any]:
    """The ingredients of a cache; contents as SHA-256. DataError when ``path`` cannot be read."""
    try:
        data = file_hash(Path(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    builders = b"".join(Path(module.__file__).read_bytes() for module in BUILDERS)
    return {
        "format": FORMAT,
        "byte_order": sys.byteorder,
        "data": data,
        "tokenizer": tokenizer_hash(tokenizer),
        "builders": hashlib.sha256(builders).hexdigest(),
        "layout": str(config.layout),
        "max_source_seq_len": config.max_source_seq_len,
        "max_target_seq_len": config.max_target_seq_len,
    }


def key_of(ingredients: dict[str, Any]) -> str:
    """The name of the cache that is made from them: 32 hexadecimal digits."""
    text = json.dumps(ingredients, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, about a second a gigabyte."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer.json would hold, of the end token and of the chat template.

    A tokenizer that was read from tokenizer.model is known by the same: vocabulary, merges,
    normalizer and added tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TokenCacheError(
            f"token_cache: a {type(tokenizer).__name__} has no content to be known by; take the "
            "tokenizer that load_tokenizer gives, or set token_cache to none"
        )
    content = json.loads(backend.to_str())
    content |= {"truncation": None, "padding": None}  # left there by earlier calls
    about = [content, tokenizer.eos_token_id, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
