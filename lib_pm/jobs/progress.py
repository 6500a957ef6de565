"""How a job tells what it is at, once per layer, and how it is told to stop."""

from __future__ import annotations

from typing import Protocol


class Cancelled(Exception):
    """Raised by a Progress to stop the job; nothing is left behind."""


class Progress(Protocol):
    def __call__(self, done: int, total: int, layer: str) -> None:
        """`done` of `total` layers are finished, the last one was `layer`. May raise Cancelled."""


def silent(done: int, total: int, layer: str) -> None:
    """A Progress that tells nobody."""
