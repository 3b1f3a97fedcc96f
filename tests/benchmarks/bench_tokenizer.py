"""Megabytes of text a second that become ids, beside SentencePiece itself.

    python tests/benchmarks/bench_tokenizer.py [FOLDER WITH tokenizer.model] [MB OF EACH TEXT]

All ways are measured in turns, in one process; the best of the rounds counts, and every way must
give SentencePiece's ids. Fails when `encode_many` is slower than three quarters of SentencePiece.

"split at spaces" is the rebuild with the text cut in front of every space: exact where no piece
has a space after another character, which is looked up first. It bounds what one merge has to
look at, but cutting has its price too.

Two idle cores, November 2026, the miniature's 3,944 pieces, MB/s:

                               rows   code   one long text
    SentencePiece, 2 threads   19.3   11.6   3.9
    encode_many                17.7    9.4   3.9
    encode_many, rebuild        6.9    4.7   2.0
    tokenizer(texts)            4.8    3.2   1.2
    rebuild, split at spaces    8.0    3.5   2.5

With 24,000 pieces SentencePiece is less than half as fast, and the rebuild at half to two thirds
of it: faster on rows (1.2 to 1.7 times) when it is split, slower on code (0.8), so that
`load_tokenizer` does not split.
"""

from __future__ import annotations

import copy
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import sentencepiece
from tokenizers import Regex, pre_tokenizers

from loraglm_helpers.chatglm_tokenizer import from_sentencepiece, read_pieces
from loraglm_helpers.locate import ROOT
from loraglm_helpers.tokenizer import encode_many

ROUNDS, LEAST = 5, 0.75
Texts = list[str]
Way = Callable[[Texts], list[list[int]]]


def texts(size: float) -> dict[str, Texts]:
    """Three kinds of text, ``size`` MB of each: rows of this project, code, one long text."""
    rng = random.Random(0)
    lines = (ROOT / "data/mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row["context"] + row["target"] for row in map(json.loads, lines)]
    rng.shuffle(rows)
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    code = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    parts = [code[at : at + 500] for at in range(0, len(code), 500)]
    long = code[: int(size * 1e6)]
    return {"rows": upto(rows, size), "code": upto(parts, size), "one long text": [long]}


def upto(parts: Texts, size: float) -> Texts:
    """As many of the parts, again and again, as make ``size`` MB."""
    taken, total = [], 0.0
    while total < size * 1e6:
        taken.append(parts[len(taken) % len(parts)])
        total += len(taken[-1].encode())
    return taken


def ways(file: Path) -> dict[str, Way]:
    """Name → texts to ids. The first is what the others are held to."""
    pieces, tokenizer = read_pieces(file), from_sentencepiece(file)
    rebuilt = from_sentencepiece(file)
    rebuilt.sentencepiece_file = None
    found: dict[str, Way] = {
        "SentencePiece, all threads": lambda t: pieces.encode(t, num_threads=-1),
        "SentencePiece, one thread": lambda t: pieces.encode(t, num_threads=1),
        "encode_many": lambda t: encode_many(tokenizer, t),
        "encode_many, rebuild": lambda t: encode_many(rebuilt, t),
        "tokenizer(texts)": lambda t: tokenizer(t, add_special_tokens=False)["input_ids"],
    }
    if not any("▁" in piece.lstrip("▁") for piece in all_pieces(pieces)):
        split = copy.deepcopy(rebuilt)
        split.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(
            Regex("[^▁]+|▁+[^▁]*"), behavior="isolated"
        )
        found["rebuild, split at spaces"] = lambda t: encode_many(split, t)
    return found


def all_pieces(pieces: sentencepiece.SentencePieceProcessor) -> list[str]:
    """Every piece as text."""
    return [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]


def speeds(ways: dict[str, Way], given: Texts) -> dict[str, float]:
    """MB/s of each way, best of the rounds; ValueError when ids differ."""
    size, best = sum(len(text.encode()) for text in given) / 1e6, dict.fromkeys(ways, 0.0)
    expected = next(iter(ways.values()))(given)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            ids = way(given)
            best[name] = max(best[name], size / (time.perf_counter() - began))
            if ids != expected:
                raise ValueError(f"{name}: its ids are not SentencePiece's")
    return best


def main() -> int:
    """Print the table; 1 when `encode_many` is too slow."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "data/tiny-chatglm2")
    size = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    all_ways = ways(folder / "tokenizer.model")
    pieces = read_pieces(folder / "tokenizer.model").get_piece_size()
    print(f"{pieces:,} pieces, {size:g} MB of each text, {os.cpu_count()} cores; MB/s:")
    good = True
    for kind, given in texts(size).items():
        found = speeds(all_ways, given)
        first = found["SentencePiece, all threads"]
        good = good and found["encode_many"] >= LEAST * first
        print(f"\n{kind} ({len(given):,})")
        for name, speed in found.items():
            print(f"  {name:<28}{speed:7.1f}   {speed / first:4.2f} of SentencePiece")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
