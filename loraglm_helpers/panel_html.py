"""The playground's texts as HTML: escaped, and in the page's own colours, light or dark."""

from __future__ import annotations

from html import escape

TEXT = "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; margin: 4px 0;"
ERROR = f"{TEXT} color: var(--jp-error-color1, inherit);"
QUIET = f"{TEXT} opacity: 0.75; border-top: 1px solid var(--jp-border-color2, currentColor);"
MESSAGE_LENGTH = 300


def block(text: str, style: str = TEXT) -> str:
    """A text as it stands, line breaks and all; nothing in it acts as HTML."""
    return f'<div style="{style}">{escape(text)}</div>'


def turn(instruction: str, input_text: str, answer: str, how: str) -> str:
    """An earlier question with its answer, in a quieter tone."""
    return block(f"{instruction}\n{input_text}\n→ {answer}\n({how})", QUIET)


def error_line(error: BaseException) -> str:
    """An error's kind and the beginning of its message, in the page's colour for errors."""
    message = " ".join(str(error).split())[:MESSAGE_LENGTH]
    return block(f"{type(error).__name__}: {message}", ERROR)
