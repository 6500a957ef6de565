"""How a job tells what it is at, once per file, layer or call of a model, and how it is told to stop."""

from __future__ import annotations

from typing import Literal, Protocol

Unit = Literal["files", "layers", "calls"]


class Cancelled(Exception):
    """Raised by a Progress to stop the job; nothing is left behind."""


class Progress(Protocol):
    def __call__(self, done: int, total: int, name: str, unit: Unit = "layers", /) -> None:
        """`done` of `total` layers are finished, the last one was `name`; or of files read, the next one is `name`; or
        of a model's calls, in what `name` says.

        The files come first, the calls next. May raise Cancelled.
        """


def silent(done: int, total: int, name: str, unit: Unit = "layers", /) -> None:
    """A Progress that tells nobody."""
