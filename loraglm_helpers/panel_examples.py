"""What the playground's list offers: rows of a data file, triples of texts, or one of each task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .data import task_of
from .miniature.tasks import INSTRUCTIONS, labels
from .sequences import format_context

NAME_LENGTH = 24
TRIPLES_TEXT = (
    "云临市的人口是22.0万人，家家户户几乎都住在槐渡江两岸。"
    "镇长蓝美常对人说，云临市的特产蜂蜜不比源丘市的差。"
)
CLASSIFICATION_TEXT = "马拉松比赛的终点前，蒋永和另一名选手几乎同时冲线，裁判看了录像才定下冠军。"
QUESTION_TEXT = "我在海临镇住过85天，每天傍晚都去安岩河边散步，看人洗衣服。"


class PanelExample(NamedTuple):
    """A name in the list, and the two texts that choosing it fills in."""

    name: str
    instruction: str
    input: str


def one_of_each_task() -> list[PanelExample]:
    """An example a task of the miniature, worded as the data rows are."""
    classes = INSTRUCTIONS["classification", "zh"] + "、".join(labels("zh")) + "。"
    return [
        PanelExample("triples 三元组", INSTRUCTIONS["triples", "zh"], TRIPLES_TEXT),
        PanelExample("classification 分类", classes, CLASSIFICATION_TEXT),
        PanelExample("question 提问", INSTRUCTIONS["question", "zh"], QUESTION_TEXT),
    ]


def panel_examples(examples: Iterable[Any] | None = None) -> list[PanelExample]:
    """Rows or (name, instruction, input) triples as examples; None is ``one_of_each_task``.

    Raises ValueError for a row whose context is not of ``format_context``'s form.
    """
    if examples is None:
        return one_of_each_task()
    return [_from_row(e) if hasattr(e, "context") else PanelExample(*e) for e in examples]


def split_context(context: str) -> tuple[str, str]:
    """Instruction and input of a context that ``format_context`` made; the inverse of it."""
    inside = context.removeprefix("Instruction: ").removesuffix("\nAnswer: ")
    instruction, _, text = inside.partition("\nInput: ")
    if format_context(instruction, text) != context:
        raise ValueError(
            f"context {context[:40]!r} is not 'Instruction: …\\nInput: …\\nAnswer: ': give the "
            "example as (name, instruction, input)"
        )
    return instruction, text


def _from_row(row: Any) -> PanelExample:
    try:
        instruction, text = split_context(row.context)
    except ValueError as error:
        raise ValueError(f"line {row.line}: {error}") from None
    begin = " ".join((text or instruction).split())
    short = begin if len(begin) <= NAME_LENGTH else begin[:NAME_LENGTH] + "…"
    return PanelExample(f"{task_of(row)}: {short}", instruction, text)
