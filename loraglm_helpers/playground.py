"""The panel to talk to the model: ipywidgets around the prompt builder and the stream.

    example      [ triples 三元组          ▾ ]     fills in the two texts
    instruction  [                           ]
    input        [                           ]
    [greedy|sampled]  temperature ─o─  top-p ─o─  seed [ ]     the settings of sampling, if it is on
    [ Run ]  adapter [x]                                       the switch, if there is an adapter
    answer, as it comes                                        or one line that says what went wrong
    earlier questions and answers

A click and ``ask`` take one path. The kernel is busy while the model answers: the kernel's
Interrupt stops it and keeps the answer so far; a Stop button would not be heard.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any, NamedTuple

import ipywidgets as widgets
from IPython.display import display
from peft import PeftModel

from . import panel_html
from .generation import stream
from .panel_examples import panel_examples
from .sequences import Layout, format_context

KEPT = 5  # earlier questions in sight
PAUSE = 0.05  # seconds between two updates of the answer: a browser shows no more
OWN = None  # the list's value while the texts are not an example's
WIDE = widgets.Layout(width="auto")


class Turn(NamedTuple):
    """A question and its answer; ``how`` names the decoding and the adapter's state."""

    instruction: str
    input: str
    answer: str
    how: str


class Playground:
    """Ask ``model`` from a panel or, through the same path, from code.

        playground = Playground(model, tokenizer)
        playground.display()
        playground.ask("判断文本的类别。", "比赛结束了。")

    ``examples`` are rows or (name, instruction, input) triples; None is one a task of the
    miniature. ``history`` holds the last turns; ``error`` what stopped the last question, or None.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layout: str = "glm",
        examples: Iterable[Any] | None = None,
        max_source_seq_len: int | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.layout, self.max_source_seq_len = Layout(layout), max_source_seq_len
        self.history: deque[Turn] = deque(maxlen=KEPT)
        self.error: BaseException | None = None
        self._offered = panel_examples(examples)
        self._make_widgets()
        self._connect()
        self.panel = self._arrange()

    def display(self) -> None:
        """Show the panel below the cell."""
        display(self.panel)

    def ask(self, instruction: str, input_text: str = "") -> str:
        """Fill in the texts, answer as the button does, return the answer.

        The other settings are the panel's. Raises what the panel would show as an error.
        """
        self.instruction.value, self.input.value = instruction, input_text
        answer = self._run()
        if self.error is not None:
            raise self.error
        return answer

    def _make_widgets(self) -> None:
        names = [("your own text", OWN), *((e.name, i) for i, e in enumerate(self._offered))]
        self.examples = widgets.Dropdown(options=names, description="example", layout=WIDE)
        self.instruction = widgets.Textarea(description="instruction", rows=2, layout=WIDE)
        self.input = widgets.Textarea(description="input", rows=4, layout=WIDE)
        self.decoding = widgets.ToggleButtons(options=["greedy", "sampled"])
        self.decoding.style.button_width = "90px"
        self.temperature = _slider("temperature", 1.0, 0.1, 2.0)
        self.top_p = _slider("top-p", 0.9, 0.05, 1.0)
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed")
        self.max_new_tokens = widgets.IntSlider(256, 1, 1024, description="new tokens")
        self.adapter = widgets.Checkbox(True, description="adapter", indent=False)
        self.run = widgets.Button(description="Run", button_style="primary", icon="play")
        self.status, self.answer, self.earlier = (widgets.HTML() for _ in range(3))

    def _connect(self) -> None:
        self.examples.observe(self._fill, "value")
        for text in (self.instruction, self.input):
            text.observe(self._edited, "value")
        self.decoding.observe(self._show_sampling, "value")
        self.run.on_click(self._clicked)
        if self._offered:
            self.examples.value = 0

    def _arrange(self) -> widgets.VBox:
        self.sampling = widgets.VBox([self.temperature, self.top_p, self.seed])
        self._show_sampling()
        self.adapter.layout.display = None if isinstance(self.model, PeftModel) else "none"
        buttons = widgets.HBox([self.run, self.adapter, self.status])
        rows = [self.examples, self.instruction, self.input, self.decoding, self.sampling]
        rows += [self.max_new_tokens, buttons, self.answer, self.earlier]
        return widgets.VBox(rows, layout=widgets.Layout(max_width="860px"))

    def _fill(self, change: Any) -> None:
        if change.new is not OWN:
            _, instruction, text = self._offered[change.new]
            self.instruction.value, self.input.value = instruction, text
            self.examples.value = change.new  # between the two texts it was nobody's

    def _edited(self, change: Any) -> None:
        """The list names an example only while the texts are that example's."""
        at = self.examples.value
        if at is not OWN and self._offered[at][1:] != (self.instruction.value, self.input.value):
            self.examples.value = OWN

    def _show_sampling(self, change: Any = None) -> None:
        self.sampling.layout.display = None if self.decoding.value == "sampled" else "none"

    def _clicked(self, button: widgets.Button) -> None:
        self._run()
        if self.error is not None:  # its frames would keep the model's memory alive
            self.error = self.error.with_traceback(None)

    def _run(self) -> str:
        """Answer what stands in the panel; what goes wrong is written there, and kept."""
        answer, self.error, start = "", None, time.perf_counter()
        with self._busy():
            try:
                with closing(self._answers()) as answers:
                    for answer in answers:
                        self.answer.value = panel_html.block(answer)
                self.status.value = f"{time.perf_counter() - start:.1f} s, {self._how()}"
                self._remember(answer)
            except KeyboardInterrupt as error:
                self.error, self.status.value = error, "interrupted; the answer so far:"
            except Exception as error:  # whatever it is, it has to be seen in the panel
                self.error, self.status.value = error, ""
                self.answer.value = panel_html.block(answer) + panel_html.error_line(error)
        return answer

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self.earlier.value = "".join(panel_html.turn(*turn) for turn in reversed(self.history))
        self.answer.value, self.status.value = "", "answering …"
        self.run.disabled = True
        try:
            yield
        finally:
            self.run.disabled = False

    def _answers(self) -> Iterator[str]:
        """The answer so far, not oftener than a browser shows it, and last the whole of it."""
        if not self.instruction.value.strip():
            raise ValueError("the instruction is empty: say what the model is to do")
        context = format_context(self.instruction.value, self.input.value)
        text, shown = "", 0.0
        with nullcontext() if self.adapter.value else self.model.disable_adapter():
            for piece in self._stream(context):
                text += piece
                if time.perf_counter() - shown >= PAUSE:
                    yield text
                    shown = time.perf_counter()
        yield text

    def _stream(self, context: str) -> Iterator[str]:
        return stream(
            self.model,
            self.tokenizer,
            context,
            self.layout,
            self.max_source_seq_len,
            max_new_tokens=self.max_new_tokens.value,
            do_sample=self.decoding.value == "sampled",
            temperature=self.temperature.value,
            top_p=self.top_p.value,
            seed=self.seed.value,
        )

    def _how(self) -> str:
        how = self.decoding.value
        if how == "sampled":
            how += f" (temperature {self.temperature.value:g}, top-p {self.top_p.value:g}"
            how += f", seed {self.seed.value})"
        if isinstance(self.model, PeftModel):
            how += f", adapter {'on' if self.adapter.value else 'off'}"
        return how

    def _remember(self, answer: str) -> None:
        turn = Turn(self.instruction.value, self.input.value, answer, self._how())
        self.history.append(turn)


def _slider(name: str, value: float, low: float, high: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(value, min=low, max=high, step=0.05, description=name)
