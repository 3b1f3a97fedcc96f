"""How a question stands beside its passage, a newspaper marks its headings, a list its items."""

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
