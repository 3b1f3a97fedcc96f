"""How a request stands beside its passage, a newspaper marks its headings, a list its items."""

from __future__ import annotations

import random

from .pools import common_characters, english_words

ASK = {
    "zh": (
        "{p}\n问：{q}\n答：", "{p}{q}", "{q}\n{p}\n", "根据下面的文字回答：{q}\n{p}\n回答：",
        "{p}\n请问，{q}", "“{q}”\n资料：{p}\n", "已知：{p}\n求：{q}\n", "{p}（{q}）",
    ),
    "en": (
        "{p}\nQuestion: {q}\nReply: ", "{p} {q} ", "{q}\n{p}\n", "Text: {p}\nQ: {q}\nA: ",
        "Read this. {p}\nNow tell me: {q}\n", "{p} ({q}) ",
    ),
}  # fmt: skip


HEADINGS = (
    ("【", "】"),
    ("", "｜"),
    ("# ", "\n"),
    ("〔", "版〕"),
    ("", "："),
    ("— ", " —"),
    ("[", "] "),
)

BRACKETS = ("[]", "()", "<>", "【】", "“”", "{}")
COMMAS = ("、", ", ", " / ", "；", " | ")

# What stands before the request, the passage and the answer. The tasks' own three words
# (`sequences.format_context`) are not among them.
LABELS = {
    "zh": (("要求", "格式", "任务", "请照做", "样子"), ("文本", "原文", "资料", "段落", "内容"),
           ("结果", "输出", "写在这里", "好的")),
    "en": (("Task", "Shape", "Wanted", "Do this"), ("Text", "Passage", "Source", "Read"),
           ("Result", "Output", "Here", "Reply")),
}  # fmt: skip


def words(language: str, rng: random.Random, longest: int) -> str:
    """1 to `longest` random Chinese characters, or English words."""
    count = rng.randint(1, longest)
    if language == "zh":
        return "".join(rng.choices(common_characters(), k=count))
    return " ".join(rng.choices(english_words(), k=count))


def framed(passage: str, request: str, language: str, rng: random.Random) -> str:
    """The passage and the request in one of many frames: bare or under labels, in either order.

    Half of the labels are random words. What was learnt in a single frame is lost in any other.
    """
    first = rng.random() < 0.55
    if rng.random() < 0.45:
        return f"{request}\n{passage}\n" if first else f"{passage}\n{request}\n"
    drawn = [
        rng.choice(known) if rng.random() < 0.5 else words(language, rng, longest)
        for known, longest in zip(LABELS[language], (10, 3, 3), strict=True)
    ]
    colon = rng.choice((":", ": ", "：", "\n", " = "))
    lines = [f"{drawn[0]}{colon}{request}\n", f"{drawn[1]}{colon}{passage}\n"]
    return "".join(lines if first else lines[::-1]) + drawn[2] + colon
