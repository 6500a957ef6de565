"""Power Merger: merge LoRAs correctly, apply the merge live, save it.

    from lib_pm import merge, resize, convert, inspect, analyse, to_text

What is here is loaded when it is first used: torch takes a second, which `import lib_pm` need not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lib_pm.version import __version__

if TYPE_CHECKING:
    from lib_pm.api import Lora, analyse, convert, inspect, merge, resize, to_text
    from lib_pm.core.errors import MergeInputError
    from lib_pm.pipeline.apply import apply, remove
else:
    _HOMES = {
        **dict.fromkeys(("Lora", "analyse", "convert", "inspect", "merge", "resize", "to_text"), "lib_pm.api"),
        **dict.fromkeys(("apply", "remove"), "lib_pm.pipeline.apply"),
        "MergeInputError": "lib_pm.core.errors",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted([*globals(), *_HOMES])


__all__ = [
    "Lora",
    "MergeInputError",
    "__version__",
    "analyse",
    "apply",
    "convert",
    "inspect",
    "merge",
    "remove",
    "resize",
    "to_text",
]
