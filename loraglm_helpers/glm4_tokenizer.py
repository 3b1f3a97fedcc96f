"""GLM-4's own tokenizer.model, a text of base64 pieces and ranks, as a fast tokenizer.

    text ── pattern ──> words ── bytes, joined by lowest rank ──> ids

The special tokens and their ids stand in tokenizer_config.json. As in the published tokenizer,
they are recognised in text, because GLM-4's chat template is text that contains them.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

# The word pattern of GLM-4's published tokenizer, which is that of OpenAI's cl100k_base.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
START = ("[gMASK]", "<sop>")


def from_ranks(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder with GLM-4's tokenizer.model and tokenizer_config.json.

    Raises ValueError naming the file and line when either is not as published.
    """
    ranks = read_ranks(folder / "tokenizer.model")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {int(i): entry["content"] for i, entry in settings["added_tokens_decoder"].items()}
    names, backend = [special[i] for i in sorted(special)], _backend(ranks)
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    moved = [name for i, name in special.items() if backend.token_to_id(name) != i]
    if moved or not set(START) <= set(special.values()):
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: added_tokens_decoder does not continue the "
            f"{len(ranks)} pieces with GLM-4's special tokens ({', '.join(moved or START)})"
        )
    backend.post_processor = processors.TemplateProcessing(
        single=[*START, "$A"], special_tokens=[(n, backend.token_to_id(n)) for n in START]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=names,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.published_files = (folder / "tokenizer.model", folder / "tokenizer_config.json")
    return tokenizer


def read_ranks(file: Path) -> dict[bytes, int]:
    """Pieces as bytes and their ranks, which are their ids."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_text(encoding="ascii").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"{file}:{number}: not a base64 piece and a rank; download the file again"
            ) from error
    return ranks


def _backend(ranks: dict[bytes, int]) -> Tokenizer:
    letters = _byte_letters()
    text = {piece: "".join(letters[byte] for byte in piece) for piece in ranks}
    splits = sorted(
        (rank, ranks[piece[:cut]], ranks[piece[cut:]], text[piece[:cut]], text[piece[cut:]])
        for piece, rank in ranks.items()
        for cut in range(1, len(piece))
        if piece[:cut] in ranks and piece[cut:] in ranks
    )
    backend = Tokenizer(
        models.BPE(
            vocab={text[piece]: rank for piece, rank in ranks.items()},
            merges=[(left, right) for *_, left, right in splits],
            ignore_merges=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_letters() -> dict[int, str]:
    """The visible letter that byte-level tokenizers write for each byte (GPT-2's convention)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in visible}
    hidden = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
