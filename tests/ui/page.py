"""A page of the tab without a browser: its handlers are called with what its controls hold, and change what they show.

Only what is gradio's to promise is used: events are methods of the controls, handlers return values or `gr.update`s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

Handler = tuple[Callable[..., Any], Sequence[Any], Sequence[Any]]


class Page:
    """values: what a control holds, by its elem_id. shown: what else it was told, `visible` or `choices` say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._handlers: dict[tuple[str, str], list[Handler]] = {}
        self.open()
        changing = (gr.Dropdown, gr.Textbox)
        for kind, event in ((gr.Button, "click"), (gr.Blocks, "load"), *((kind, "change") for kind in changing)):
            monkeypatch.setattr(kind, event, self._recorder(event))

    def open(self) -> None:
        """As it was drawn."""
        self.values: dict[str, Any] = {}
        self.shown: dict[str, dict[str, Any]] = {}
        self._states: dict[int, Any] = {}

    def _recorder(self, event: str) -> Callable[..., Any]:
        def record(control: Any, fn: Any, inputs: Any = (), outputs: Any = (), **how: Any) -> Any:
            name = getattr(control, "elem_id", None) or ""
            self._handlers.setdefault((name, event), []).append((fn, inputs or (), outputs or ()))
            return SimpleNamespace(then=partial(record, control))  # what follows is called after it

        return record

    @property
    def handlers(self) -> Collection[tuple[str, str]]:
        """Which control has a handler of which event."""
        return self._handlers.keys()

    def inputs(self, name: str, event: str) -> list[Any]:
        """The controls that a handler is told of."""
        return [control for _, inputs, _ in self._handlers[name, event] for control in inputs]

    def click(self, name: str, **values: Any) -> list[dict[str, Any]]:
        """Press a button when the controls hold these values. Returns all that was shown in the course of it."""
        return list(self.start(name, "click", **values))

    def change(self, name: str, value: Any) -> list[dict[str, Any]]:
        return list(self.start(name, "change", **{name: value}))

    def load(self) -> None:
        list(self.start("", "load"))

    def start(self, name: str, event: str, **values: Any) -> Iterator[dict[str, Any]]:
        """The values of all controls after each step of the handlers."""
        self.values |= values
        for fn, inputs, outputs in self._handlers[name, event]:
            result = fn(*map(self._value, inputs))
            for step in result if inspect.isgenerator(result) else [result]:
                self._show(outputs, step)
                yield dict(self.values)

    def _value(self, control: Any) -> Any:
        if control.elem_id:
            return self.values.get(control.elem_id, control.value)
        return self._states.get(id(control), control.value)

    def _show(self, outputs: Sequence[Any], result: Any) -> None:
        results = result if isinstance(result, list) else [result] if outputs else []
        for control, new in zip(outputs, results, strict=True):
            changes = new if isinstance(new, dict) and "__type__" in new else {"value": new}
            if "value" in changes and control.elem_id:
                self.values[control.elem_id] = changes["value"]
            elif "value" in changes:
                self._states[id(control)] = changes["value"]
            if control.elem_id:
                self.shown.setdefault(control.elem_id, {}).update(changes)
