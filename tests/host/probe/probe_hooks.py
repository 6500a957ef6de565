"""What the probe's script calls: set by a test, as callback's name -> function. Imported once, whatever is reloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

HOOKS: dict[str, Callable[..., Any]] = {}
CALLS: Counter[str] = Counter()


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    CALLS[name] += 1
    if name in HOOKS:
        return HOOKS[name](*args, **kwargs)
    return None
