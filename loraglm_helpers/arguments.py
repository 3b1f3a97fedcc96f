"""The options of every subcommand, and examples of their use."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from . import __version__, commands
from .config import CHOICES, PRESETS

RUN = "python -m loraglm_helpers"
Add = Callable[..., Any]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and the message."""
        self.exit(2, f"error: {message}; {self.prog} --help shows what there is\n")


def doctor(add: Add) -> None:
    """Options of ``doctor``."""
    add("--model", metavar="DIR", help="a checkpoint to look at (default: the miniature)")


def lint(add: Add) -> None:
    """Options of ``lint``."""
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="JSONL; later ones should share no row with the 1st",
    )
    add("--tokenizer", metavar="DIR", help="count tokens, and what the limits would cut")
    add("--layout", choices=CHOICES["layout"], help="default: glm")
    add("--max-source-seq-len", type=int, metavar="N", help="default: 400 tokens")
    add("--max-target-seq-len", type=int, metavar="N", help="default: 300 tokens")


def train(add: Add) -> None:
    """Options of ``train``."""
    add("--preset", choices=PRESETS, help="settings for a model (default: the original recipe's)")
    add("--config", metavar="F.json", help="settings that go over the preset's")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="over both")
    add("--resume", action="store_true", help="go on from save_dir/last")
    add("--tensorboard", metavar="DIR", help="write the curves there too, for TensorBoard")


def evaluate(add: Add) -> None:
    """Options of ``evaluate``."""
    _model(add)
    add("--data", required=True, metavar="F.jsonl", help="rows to answer")
    add("--limit", type=int, metavar="N", help="the first N rows only")
    add("--out", metavar="F.jsonl", help="write every answer beside its target")


def merge(add: Add) -> None:
    """Options of ``merge``."""
    add("--base", required=True, metavar="DIR", help="the model that the adapter was trained on")
    add("--adapter", required=True, metavar="DIR")
    add("--out", required=True, metavar="DIR")
    add("--dtype", choices=("fp32", "bf16", "fp16"), help="default: the base's own")
    add("--overwrite", action="store_true", help="replace a model in --out")
    _rope(add)


def convert(add: Add) -> None:
    """Options of ``convert``."""
    add("--model", required=True, metavar="DIR", help="the model, or the adapter's base model")
    add("--adapter", metavar="DIR", help="convert this adapter instead of the model")
    add("--to", required=True, choices=("native", "official"))
    add("--out", required=True, metavar="DIR")
    add("--dtype", choices=("fp32", "bf16", "fp16"), help="of a model; default: as stored")
    add("--overwrite", action="store_true", help="replace a model, or an adapter, in --out")
    _rope(add)


def generate(add: Add) -> None:
    """Options of ``generate``."""
    _model(add)
    add("--instruction", required=True, metavar="S")
    add("--input", default="", metavar="S")
    add("--max-new-tokens", type=int, default=256, metavar="N")
    add("--sample", action="store_true", help="sample instead of the likeliest token")
    add("--temperature", type=float, default=0.8, metavar="T", help="with --sample")
    add("--top-p", type=float, default=0.9, metavar="P", help="with --sample")
    add("--seed", type=int, metavar="N", help="with --sample: the same answer each time")


def _model(add: Add) -> None:
    add("--model", required=True, metavar="DIR", help="folder or hub name of a GLM")
    add("--adapter", metavar="DIR", help="a trained adapter, such as build/finetune/best")
    add("--layout", choices=CHOICES["layout"], help="default: the training's, or the model's own")
    _rope(add)


def _rope(add: Add) -> None:
    add("--rope", choices=CHOICES["rope"], help="what rope_ratio of a ChatGLM checkpoint means")


EXAMPLES = {
    doctor: ["doctor", "doctor --model path/to/chatglm2-6b"],
    lint: [
        "lint my_train.jsonl my_dev.jsonl",
        "lint my_train.jsonl --tokenizer data/tiny-chatglm2 --max-source-seq-len 512",
    ],
    train: [
        "train --preset tiny",
        "train --preset chatglm2-6b --set pre_model=path/to/chatglm2-6b save_dir=build/6b",
        "train --config build/6b/settings.json --resume",
        "train --preset tiny --tensorboard build/tensorboard/first",
        "train --preset tiny --set train_path=rows.jsonl dev_path=none token_cache=build/tokens",
    ],
    evaluate: [
        "evaluate --model data/tiny-chatglm2 --data data/mixed_dev_dataset.jsonl",
        "evaluate --model data/tiny-chatglm2 --adapter build/finetune/best --data my_dev.jsonl",
    ],
    merge: ["merge --base data/tiny-chatglm2 --adapter build/finetune/best --out build/merged"],
    convert: [
        "convert --model path/to/chatglm2-6b --to native --out build/chatglm2-native",
        "convert --model build/merged --to official --out build/merged-official",
        "convert --adapter old_adapter --model path/to/chatglm2-6b --to native --out build/adapter",
    ],
    generate: [
        'generate --model build/merged --instruction "Who directed the film?" --input "…"',
        'generate --model data/tiny-chatglm2 --adapter build/finetune/best --instruction "…"',
    ],
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; ``run`` in its result is the function that does the work."""
    parser = Parser(RUN, description="Fine-tune a GLM with LoRA, merge it and talk to it.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for options, examples in EXAMPLES.items():
        run = getattr(commands, options.__name__)
        command = subparsers.add_parser(
            options.__name__,
            help=run.__doc__.splitlines()[0].rstrip("."),
            description=run.__doc__,
            epilog="\n  ".join(["examples:", *(f"{RUN} {line}" for line in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", help="show where an error arose")
        command.set_defaults(run=run)
        options(command.add_argument)
    return parser
