"""What the command line's subcommands do. Heavy imports stand inside, so that --help is quick."""

from __future__ import annotations

import json
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from .config import SETTINGS_FILE, FineTuneConfig, preset, repo_path
from .whole_file import whole_file


def doctor(args: Namespace) -> int:
    """Print the checks; 1 when one fails."""
    from .doctor import check

    report = check(args.model)
    print(report)
    return report.exit_code


def lint(args: Namespace) -> int:
    """Report on each file, and on what the later ones share with the first; 1 for bad lines."""
    from .data import lint as lint_file

    options = ("layout", "max_source_seq_len", "max_target_seq_len")
    asked = {name: getattr(args, name) for name in options if getattr(args, name) is not None}
    if asked and not args.tokenizer:
        raise ValueError("--layout and the --max-… limits count tokens: give --tokenizer as well")
    tokenizer, good = _tokenizer(args.tokenizer) if args.tokenizer else None, True
    files = [repo_path(file) for file in args.files]
    for path in files:
        report = lint_file(
            path,
            tokenizer,
            **asked,
            other=files[0] if path != files[0] else None,
            progress=sys.stderr.isatty(),
        )
        print(report.summary())
        good = good and report.ok
    return 0 if good else 1


def train(args: Namespace) -> int:
    """Fine-tune; leaves best/, last/, history.json and settings.json in save_dir."""
    config = settings(args)  # before the imports: a misspelt setting is told at once
    from .processes import leave
    from .progress import TrainingBar
    from .training import train as run

    bar = TrainingBar()
    callbacks: list[Any] = [bar]
    if args.tensorboard:
        from .tensorboard_log import TensorBoardLog

        callbacks.append(TensorBoardLog(args.tensorboard))
    for note in _notes(config, args.resume):
        warnings.warn(note, stacklevel=1)  # which one process tells
    try:
        history = run(config, callbacks=callbacks, resume=args.resume)
    finally:
        bar.close()
    leave()
    return 130 if history.stopped == "interrupted" else 0


def _notes(config: FineTuneConfig, resume: bool) -> list[str]:
    """What somebody may not have meant."""
    shipped, notes = FineTuneConfig(), []
    if config.train_path != shipped.train_path and config.dev_path == shipped.dev_path:
        notes.append(
            f"train_path is yours and dev_path is not ({config.dev_path}): best/ is chosen by its "
            "rows. Set dev_path to your own, or to none"
        )
    if resume and not (Path(config.save_dir) / "last").is_dir():
        notes.append(f"{config.save_dir}/last is not there: nothing to resume, a new run begins")
    return notes


def settings(args: Namespace) -> FineTuneConfig:
    """The preset's settings, then those of the file, then those of --set."""
    config = preset(args.preset) if args.preset else FineTuneConfig()
    if args.config:
        config = FineTuneConfig.from_json(args.config, config)
    return config.with_settings(args.set)


def evaluate(args: Namespace) -> int:
    """Answer every row greedily and score; the last line is one JSON object."""
    from .data import read_rows
    from .generation import predict
    from .metrics import score

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; 1 or more wanted")
    rows = read_rows(repo_path(args.data))[: args.limit]
    config, model, tokenizer = _ready(args)
    answers = predict(model, tokenizer, rows, config, progress=True)
    result = score(answers, rows)
    print(_table(result))
    main = ("exact_match", "triple_f1", "json_valid", "by_task")
    print(json.dumps({name: result[name] for name in main}))
    if args.out:  # last: the scores are told even where this path cannot be written
        _write_answers(args.out, rows, answers)
    return 0


def merge(args: Namespace) -> int:
    """Write base + adapter as one model and say how exact it is."""
    from .merging import merge as run

    base, adapter, rope = repo_path(args.base), repo_path(args.adapter), args.rope or "auto"
    print(run(base, adapter, args.out, dtype=args.dtype, overwrite=args.overwrite, rope=rope))
    return 0


def convert(args: Namespace) -> int:
    """A model or an adapter between the official ChatGLM layout and transformers' own."""
    from .conversion import convert_adapter, convert_model, has_tokenizer

    model, rope = repo_path(args.model), args.rope or "auto"
    if args.adapter and args.dtype:
        raise ValueError("--dtype is for a model: an adapter keeps its own; leave one of them out")
    if args.adapter:
        adapter = repo_path(args.adapter)
        convert_adapter(adapter, model, args.to, args.out, rope, args.overwrite)
    else:
        convert_model(model, args.to, args.out, args.dtype, rope, args.overwrite)
    bare = not args.adapter and not has_tokenizer(Path(args.out))
    print(f"{args.out}: written in the {args.to} layout{', without a tokenizer' if bare else ''}")
    return 0


def generate(args: Namespace) -> int:
    """Stream the answer to an instruction."""
    from .generation import stream
    from .sequences import format_context

    config, model, tokenizer = _ready(args)
    context = format_context(args.instruction, args.input)
    options: dict[str, Any] = {"max_new_tokens": args.max_new_tokens}
    if args.sample:
        options |= {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p}
        options |= {"seed": args.seed}
    for piece in stream(model, tokenizer, context, layout=config.layout, **options):
        print(piece, end="", flush=True)
    print()
    return 0


def _ready(args: Namespace) -> tuple[FineTuneConfig, Any, Any]:
    """Settings, model (with its adapter) and tokenizer for answering."""
    from .checkpoints import load_glm
    from .conversion import has_tokenizer
    from .locate import local_folder
    from .lora import load_adapter

    config = _answer_settings(args)
    own = has_tokenizer(local_folder(args.model, weights=False))
    tokenizer = _tokenizer(args.model if own else config.pre_model)
    model = load_glm(repo_path(args.model), rope=config.rope)
    if args.adapter:
        model = load_adapter(model, repo_path(args.adapter))
    return config, model, tokenizer


def _answer_settings(args: Namespace) -> FineTuneConfig:
    """The settings of the run that made the adapter or the model, else the model's own layout.

    Their ``pre_model`` has the tokenizer, which a run saves with neither.
    """
    from .guards import folder_layouts, layout_problem

    run = Path(repo_path(args.adapter or args.model)).resolve().parent / SETTINGS_FILE
    own = folder_layouts(repo_path(args.model))
    if run.is_file():
        config = FineTuneConfig.from_json(run)
    else:
        layout = str(own[0]) if own else "glm"
        config = FineTuneConfig(pre_model=args.model, layout=layout)
    asked = {"layout": args.layout, "rope": args.rope}
    config = config.replace(**{name: value for name, value in asked.items() if value})
    if problem := layout_problem(config.layout, own):
        print(f"note: {problem}", file=sys.stderr)
    if args.adapter and config.quantization != "none":
        print(
            f"note: the adapter was trained on a {config.quantization} base; the answers are those "
            "on the unpacked base, as of a merged model",
            file=sys.stderr,
        )
    return config


def _tokenizer(path: str | Path) -> Any:
    from .tokenizer import load_tokenizer

    return load_tokenizer(repo_path(path))


def _write_answers(path: str, rows: list[Any], answers: list[str]) -> None:
    with whole_file(path) as draft, draft.open("w", encoding="utf-8", errors="replace") as stream:
        for row, answer in zip(rows, answers, strict=True):
            line = {"line": row.line, "target": row.target, "answer": answer}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _table(result: dict[str, Any]) -> str:
    """Scores by task, a line each."""
    lines = [
        f"all              {result['count']:>6} rows   exact match {result['exact_match']:.1%}"
    ]
    for task, scores in result["by_task"].items():
        more = {
            name: value for name, value in scores.items() if name not in ("count", "exact_match")
        }
        rest = "".join(f"   {name} {value:.3f}" for name, value in more.items())
        line = f"{task:<16} {scores['count']:>6} rows   exact match {scores['exact_match']:.1%}"
        lines.append(line + rest)
    return "\n".join(lines)
