"""The playground's widgets: what is shown, what fills what in, what is hidden when.

    example      [ triples 三元组          ▾ ]     fills in the two texts
    instruction  [                           ]
    input        [                           ]
    [greedy|sampled]
    temperature ─o─  top-p ─o─  seed [ ]           only where answers are sampled
    new tokens ─o─
    [ Run ]  adapter [x]  seconds                  the switch only where there is an adapter
    answer                                         or, in its place, what went wrong
    earlier questions and answers

Colours are the page's own, so that the panel is readable in JupyterLab's dark theme too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from .panel_examples import panel_examples

OWN = -1  # the list's value while the texts are no example's; None would show an empty line
WIDTH = "860px"
LABEL = {"description_width": "90px"}  # the longest, "temperature", in full


class Panel:
    """The widgets by name, and together as ``panel``; it knows no model."""

    def __init__(self, examples: Iterable[Any] | None, has_adapter: bool) -> None:
        self._offered = panel_examples(examples)
        self.has_adapter = has_adapter
        self._make_texts()
        self._make_settings()
        self.run = widgets.Button(description="Run", button_style="primary", icon="play")
        self.run.add_class("playground-run")
        self.status, self.answer, self.earlier = map(_html, ("status", "answer", "earlier"))
        self.panel = self._arrange()
        self._connect()

    def display(self) -> None:
        """Show the panel below the cell."""
        display(self.panel)

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of ``generation.stream`` that the panel sets."""
        return {
            "max_new_tokens": self.max_new_tokens.value,
            "do_sample": self.decoding.value == "sampled",
            "temperature": self.temperature.value,
            "top_p": self.top_p.value,
            "seed": self.seed.value,
        }

    def how(self) -> str:
        """The settings in words, without those that do not count."""
        words = [self.decoding.value]
        if words == ["sampled"]:
            words += [f"{w.description} {w.value:g}" for w in self.sampling.children]
        if self.has_adapter:
            words += [f"adapter {'on' if self.adapter.value else 'off'}"]
        return ", ".join(words)

    def _make_texts(self) -> None:
        wide = {"layout": widgets.Layout(width="auto"), "style": LABEL}
        names = [("your own text", OWN), *((e.name, i) for i, e in enumerate(self._offered))]
        self.examples = widgets.Dropdown(options=names, description="example", **wide)
        self.instruction = widgets.Textarea(description="instruction", rows=2, **wide)
        self.input = widgets.Textarea(description="input", rows=4, **wide)

    def _make_settings(self) -> None:
        self.decoding = widgets.ToggleButtons(
            options=["greedy", "sampled"], style={"button_width": "90px"}
        )
        self.temperature = _slider("temperature", 1.0, 0.1, 2.0)
        self.top_p = _slider("top-p", 0.9, 0.05, 1.0)
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed", style=LABEL)
        self.max_new_tokens = widgets.IntSlider(256, 1, 1024, description="new tokens", style=LABEL)
        self.adapter = widgets.Checkbox(True, description="adapter", indent=False)
        self.adapter.layout.width = "auto"

    def _arrange(self) -> widgets.VBox:
        self.sampling = widgets.VBox([self.temperature, self.top_p, self.seed])
        _show(self.sampling, False)
        _show(self.adapter, self.has_adapter)
        buttons = widgets.HBox([self.run, self.adapter, self.status])
        rows = [self.examples, self.instruction, self.input, self.decoding, self.sampling]
        rows += [self.max_new_tokens, buttons, self.answer, self.earlier]
        return widgets.VBox(rows, layout=widgets.Layout(max_width=WIDTH))

    def _connect(self) -> None:
        self.examples.observe(self._fill, "value")
        self.instruction.observe(self._edited, "value")
        self.input.observe(self._edited, "value")
        self.decoding.observe(lambda change: _show(self.sampling, change.new == "sampled"), "value")
        if self._offered:
            self.examples.value = 0

    def _fill(self, change: Any) -> None:
        if change.new != OWN:
            _, instruction, text = self._offered[change.new]
            self.instruction.value, self.input.value = instruction, text
            self.examples.value = change.new  # between the two texts it was nobody's

    def _edited(self, change: Any) -> None:
        """The list names an example only while the texts are that example's."""
        at = self.examples.value
        if at != OWN and self._offered[at][1:] != (self.instruction.value, self.input.value):
            self.examples.value = OWN


def _slider(name: str, value: float, low: float, high: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(value, min=low, max=high, step=0.05, description=name, style=LABEL)


def _html(name: str) -> widgets.HTML:
    """A place for text, with a class by which a page's style or a test can find it."""
    return widgets.HTML().add_class(f"playground-{name}")


def _show(widget: widgets.DOMWidget, visible: bool) -> None:
    widget.layout.display = None if visible else "none"
