"""The controls of an event in named groups. gradio hands their values over in one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

Result = TypeVar("Result")


class Inputs:
    """Groups of controls. `controls` is what gradio is given; `call` gives a handler the values of each group."""

    def __init__(self, **groups: Sequence[Any]) -> None:
        self.controls = [control for group in groups.values() for control in group]
        self._sizes = {name: len(group) for name, group in groups.items()}

    def call(self, handler: Callable[..., Result]) -> Callable[..., Result]:
        """Return the handler for gradio: it gets a list of values for each group, by the group's name."""

        def on_event(*values: Any) -> Result:
            rest = iter(values)
            return handler(**{name: list(islice(rest, size)) for name, size in self._sizes.items()})

        return on_event
