"""The command line: ``python -m loraglm_helpers COMMAND``; each command's --help has examples."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .arguments import build_parser
from .data import DataError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. An error is one line on stderr and code 1."""
    for stream in (sys.stdout, sys.stderr):  # first: --help prints too
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        return _fail(one_line(error), 1)


def one_line(error: Exception) -> str:
    """An exception as a line; those that nobody foresaw keep the name of their type."""
    if isinstance(error, DataError) and error.problems:
        return f"{str(error).splitlines()[0]}, the first: {error.problems[0]} (lint names all)"
    text = " ".join(str(error).split()) or "no message"
    ours = type(error).__module__.startswith(__package__)
    if ours or isinstance(error, ValueError | OSError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _note(message: Warning | str, *where: Any, **more: Any) -> None:
    if _rank() == 0:
        print(f"note: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    who = f"process {_rank()}: " if _rank() else ""
    print(f"{who}error: {message}", file=sys.stderr)
    return code


def _rank() -> int:
    """This process's number among those that a launcher started; 0 without one."""
    return int(os.environ.get("RANK", "0"))


if __name__ == "__main__":
    sys.exit(main())
