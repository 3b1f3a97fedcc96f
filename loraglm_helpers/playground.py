"""The playground: ask a model from a panel in the notebook, and watch the answer come.

A click and ``ask`` take one path: the training's prompt builder, the stream, the panel. Errors
are written into the panel. The model answers on the main thread, after the cell that is running,
so it never answers while it is trained; the kernel's Interrupt ends an answer and keeps what came.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, NamedTuple

import ipywidgets as widgets
from peft import PeftModel

from . import panel_html
from .generation import stream
from .interrupt import InterruptGuard
from .main_thread import MainThread
from .panel import Panel
from .sequences import Layout, format_context

KEPT = 5  # earlier questions in sight
PAUSE = 0.05  # seconds between two updates of the answer: a browser shows no more


class Turn(NamedTuple):
    """A question and its answer; ``how`` names the decoding and the adapter's state."""

    instruction: str
    input: str
    answer: str
    how: str


class Playground(Panel):
    """A panel around ``model``, to be clicked or driven from code.

        playground = Playground(model, tokenizer)
        playground.display()
        playground.ask("判断文本的类别。", "比赛结束了。")

    ``examples`` are rows or (name, instruction, input) triples; None is one a task of the
    miniature. A PeftModel gets a switch that answers without its adapter. ``history`` holds the
    last turns, the newest last; ``error`` is what stopped the last question, or None.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layout: str = "glm",
        examples: Iterable[Any] | None = None,
        max_source_seq_len: int | None = None,
    ) -> None:
        super().__init__(examples, has_adapter=isinstance(model, PeftModel))
        self.model, self.tokenizer = model, tokenizer
        self.layout, self.max_source_seq_len = Layout(layout), max_source_seq_len
        self.history: deque[Turn] = deque(maxlen=KEPT)
        self.error: BaseException | None = None
        self._main_thread = MainThread()
        self.run.on_click(self._clicked)

    def ask(self, instruction: str, input_text: str = "") -> str:
        """Fill in the texts, answer as the button does, return the answer.

        The other settings are the panel's. Raises what the panel shows as an error.
        """
        self.instruction.value, self.input.value = instruction, input_text
        answer = self._respond()
        if self.error is not None:
            raise self.error
        return answer

    def _clicked(self, button: widgets.Button) -> None:
        if self.run.disabled:  # the second click of two came before the page knew
            return
        self.run.disabled, self.status.value = True, "waiting for the cell that is running …"
        self._main_thread.run(self._respond_to_click)

    def _respond_to_click(self) -> None:
        self._respond()
        if self.error is not None:  # its frames would keep the model's tensors alive
            self.error = self.error.with_traceback(None)

    def _respond(self) -> str:
        """Answer what stands in the panel; what goes wrong is written there, and kept.

        All of it is taken now: the panel may be changed while the answer comes.
        """
        question, how = (self.instruction.value, self.input.value), self.how()
        settings, adapter = self.settings(), self._adapter_as_switched()
        answer, self.error, start = "", None, time.perf_counter()
        with self._busy() as guard:
            try:
                with closing(self._answers(question, settings, adapter, guard)) as answers:
                    for answer in answers:
                        self.answer.value = panel_html.block(answer)
                empty = "" if answer else "; the answer is empty"
                self.status.value = f"{time.perf_counter() - start:.1f} s, {how}{empty}"
                self.history.append(Turn(*question, answer, how))
            except KeyboardInterrupt as error:
                self.error, self.status.value = error, "interrupted; the answer so far:"
            except Exception as error:  # whatever it is, it has to be seen in the panel
                self.error, self.status.value = error, "no answer"
                self.answer.value = panel_html.block(answer) + panel_html.error_line(error)
        return answer

    @contextmanager
    def _busy(self) -> Iterator[InterruptGuard]:
        self.earlier.value = "".join(panel_html.turn(*turn) for turn in reversed(self.history))
        self.answer.value, self.status.value = "", "answering …"
        self.run.disabled = True
        try:
            with InterruptGuard() as guard:
                yield guard
        finally:
            self.run.disabled = False

    def _answers(
        self,
        question: tuple[str, str],
        settings: dict[str, Any],
        adapter: AbstractContextManager,
        guard: InterruptGuard,
    ) -> Iterator[str]:
        """The answer so far, not oftener than a browser shows it, and last the whole of it."""
        if not question[0].strip():
            raise ValueError("the instruction is empty: say what the model is to do")
        where = (format_context(*question), self.layout, self.max_source_seq_len)
        text, shown = "", 0.0
        with adapter:
            for piece in stream(self.model, self.tokenizer, *where, **settings):
                text += piece
                if time.perf_counter() - shown >= PAUSE:
                    yield text
                    shown = time.perf_counter()
                if guard.stop:
                    yield text
                    raise KeyboardInterrupt
        yield text

    def _adapter_as_switched(self) -> AbstractContextManager:
        if self.adapter.value or not self.has_adapter:
            return nullcontext()
        return self.model.disable_adapter()
