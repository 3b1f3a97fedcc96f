"""ChatGLM2's and ChatGLM3's tokenizer.model, a SentencePiece BPE, as an exact fast tokenizer.

ChatGLM2 and ChatGLM3 ship a SentencePiece BPE model and old remote code around it. The same ids
come out of a fast `tokenizers` BPE that is rebuilt from the pieces:

    text ── "▁" in front, " " → "▁" ──> characters ── merges ──> pieces ──> ids
                                        a character without a piece becomes its UTF-8 bytes

    ids 0 … n-1    SentencePiece's pieces: 0 <unk> (= pad), 1 <s>, 2 </s> (= eos), bytes, pieces
    ids n … n+8    [MASK] [gMASK] [sMASK] sop eop <|system|> <|user|> <|assistant|> <|observation|>

A special token that stands in a user's text ("[gMASK]", "</s>") is read as plain characters:
only code that asks for an id can place a special token, so a text cannot forge a role or an end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
PROBES = ("", " ", "Answer: ", "  a \n\tb　。", "[gMASK]sop</s><s><unk>", "年利率4.35%，\U0001f9ea")


class TokenizerError(ValueError):
    """A tokenizer that is missing, damaged, or of a kind whose ids cannot be reproduced."""


def from_sentencepiece(model_file: str | Path) -> PreTrainedTokenizerFast:
    """A fast tokenizer with the ids of a SentencePiece BPE file and GLM's special tokens."""
    pieces = read_pieces(model_file)
    backend = _backend(pieces)
    names = [pieces.id_to_piece(i) for i in range(3)] + list(SPECIAL_TOKENS)
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=names[0],
        pad_token=names[0],
        eos_token=names[2],
        extra_special_tokens=list(SPECIAL_TOKENS),
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    _check(tokenizer, pieces, model_file)
    tokenizer.sentencepiece_file = Path(model_file)
    tokenizer.published_length = len(tokenizer)  # a special name may be a piece already
    tokenizer.published_files = (Path(model_file),)
    return tokenizer


def read_pieces(model_file: str | Path) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece's own processor for a file; TokenizerError when the file is not one."""
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.Load(str(model_file))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(
            f"{model_file}: not a whole SentencePiece model; download the file again."
        ) from error
    return pieces


def merges(pieces: sentencepiece.SentencePieceProcessor) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, best first.

    SentencePiece joins the neighbours whose union has the best score; `tokenizers` joins by rank
    in a list. The list sorted by the scores of (union, left, right) makes both do the same.
    """
    score = {
        pieces.id_to_piece(i): pieces.get_score(i)
        for i in range(pieces.get_piece_size())
        if _is_normal(pieces, i)
    }
    splits = [
        (-score[piece], -score[piece[:cut]], -score[piece[cut:]], piece[:cut], piece[cut:])
        for piece in score
        for cut in range(1, len(piece))
        if piece[:cut] in score and piece[cut:] in score
    ]
    return [(left, right) for *_, left, right in sorted(splits)]


def _backend(pieces: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    backend = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges(pieces),
            unk_token=pieces.id_to_piece(0),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    # Not the Metaspace pre-tokenizer: it would split the text at spaces and hide merges.
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


def _is_normal(pieces: sentencepiece.SentencePieceProcessor, index: int) -> bool:
    reserved = (pieces.is_unknown, pieces.is_control, pieces.is_byte, pieces.is_unused)
    return not any(test(index) for test in reserved)


def _check(tokenizer: Any, pieces: sentencepiece.SentencePieceProcessor, file: str | Path) -> None:
    """Compare some texts: a unigram model or one with another normalizer would differ."""
    count = pieces.get_piece_size()
    every_piece = [pieces.id_to_piece(i) for i in range(count) if _is_normal(pieces, i)]
    for text in (*PROBES, "".join(every_piece).replace("▁", " ")):
        expected, found = pieces.encode(text), tokenizer.encode(text, add_special_tokens=False)
        if expected != found:
            raise TokenizerError(
                f"{file}: its ids cannot be rebuilt ({text[:20]!r}: SentencePiece gives "
                f"{expected[:20]}, the rebuild {found[:20]}). Only BPE models with identity "
                "normalisation, a dummy prefix, no whitespace removal and byte fallback are "
                "ChatGLM tokenizers."
            )


def is_sentencepiece(model_file: Path) -> bool:
    """False for GLM-4's own tokenizer.model, which is a text file of base64 ranks."""
    with model_file.open("rb") as stream:
        return stream.read(1) == b"\n"  # field 1, length-delimited: the first piece
