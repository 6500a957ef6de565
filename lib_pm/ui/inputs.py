"""The controls of an event in named groups. gradio hands their values over in one row."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

Result = TypeVar("Result")


class Inputs:
    """Lists of controls, and single ones, by name. `controls` is what gradio is given."""

    def __init__(self, **groups: Any) -> None:
        self._groups = groups
        self.controls: list[Any] = []
        for group in groups.values():
            self.controls += group if isinstance(group, list) else [group]

    def call(self, handler: Callable[..., Result]) -> Callable[..., Result]:
        """Return the handler for gradio: it gets values by name, a list of them for a list of controls."""

        def on_event(*values: Any) -> Result:
            rest = iter(values)
            return handler(
                **{
                    name: list(islice(rest, len(group))) if isinstance(group, list) else next(rest)
                    for name, group in self._groups.items()
                }
            )

        return on_event
