"""A checkpoint's tokenizer with the published ids, whatever kind of file it comes in.

tokenizer.model, SentencePiece   ChatGLM2, ChatGLM3, the miniature   chatglm_tokenizer.py
tokenizer.model, base64 ranks    GLM-4                               glm4_tokenizer.py
tokenizer.json                   "-hf" repositories, saved ones      AutoTokenizer
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from .chatglm_tokenizer import (
    TokenizerError,
    from_sentencepiece,
    is_sentencepiece,
    read_pieces,
)
from .glm4_tokenizer import from_ranks
from .locate import NotFoundHere, local_folder
from .templates import read_template
from .weight_files import first_line

__all__ = ["TokenizerError", "encode_many", "load_tokenizer"]


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder, the same ids as the published one.

    A folder with a SentencePiece ``tokenizer.model`` (ChatGLM2, ChatGLM3, the miniature) is
    rebuilt exactly; the tokenizer then carries ``sentencepiece_file``. GLM-4's own
    tokenizer.model is rebuilt by ``glm4_tokenizer``; everything else ("-hf" folders, saved
    tokenizers) goes through AutoTokenizer. ``path`` may be a hub name.
    A chat template of the folder comes along. Special tokens:
    ``tokenizer.convert_tokens_to_ids("[gMASK]")``. No bos is ever added.
    Raises TokenizerError naming the file when there is nothing usable.
    """
    try:
        folder = local_folder(path, weights=False)
    except NotFoundHere as error:
        raise TokenizerError(str(error)) from error
    model_file = folder / "tokenizer.model"
    try:
        if model_file.is_file() and is_sentencepiece(model_file):
            tokenizer = from_sentencepiece(model_file)
        elif model_file.is_file() and not (folder / "tokenizer.json").is_file():
            tokenizer = from_ranks(folder)
        else:
            own = {"padding_side": "left", "trust_remote_code": False}  # unset, it would ask
            return AutoTokenizer.from_pretrained(folder, **own)
        tokenizer.chat_template = read_template(folder)
        return tokenizer
    except TokenizerError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TokenizerError(
            f"{path}: no tokenizer that can be used ({type(error).__name__}: "
            f"{first_line(error, 160)}). A ChatGLM folder needs tokenizer.model; newer "
            "GLMs need the tokenizer.json of their '-hf' repository."
        ) from error


def encode_many(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], threads: int = -1
) -> list[list[int]]:
    """Ids of many texts as plain text, no special token among them, as fast as they can be had.

    Where SentencePiece's file is at hand it does the work, on ``threads`` threads (-1: all): the
    same ids as the rebuild, and faster (tests/benchmarks/bench_tokenizer.py). Else `tokenizers`,
    without the offsets and masks that a call of ``tokenizer`` makes.
    """
    file = getattr(tokenizer, "sentencepiece_file", None)
    if file is not None and Path(file).is_file():
        if len(tokenizer) == tokenizer.published_length:  # no token was added
            return read_pieces(file).encode(list(texts), num_threads=threads)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a call of ``tokenizer`` sets these three as it needs them
    backend.no_padding()
    backend.encode_special_tokens = True
    found = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in found]
