"""PEFT's `alpha_pattern`: alphas of single layers, by what their names end with.

PEFT runs each key as a regular expression, `(.*\\.)?(key)$`. A file may come from anybody, and some expressions take
for ever. So the forms that are written are understood as what they mean, and looked up:

| key | layers | written by |
|---|---|---|
| `attn.to_q` | that name, and those that end with `.attn.to_q` | PEFT, diffusers, users |
| `^attn.to_q` | that name alone | PEFT's documentation, diffusers |
| `.*\\.attn\\.to_q` | those that end with `.attn.to_q` | PEFT, for models whose layers were renamed |

A `$` at the end and a backslash before a `.`, `-` or `_` change nothing. Any other expression is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lib_pm.families.names import bare_names

_KEY = re.compile(r"(\^|(?:\.\*\\?\.))?((?:[\w./-]|\\[._-])+)\$?")
FORMS = "a layer's name or its end, such as attn.to_q, ^mid_block.attn.to_q or .*\\.to_q"


class NotUnderstood(ValueError):
    """The message is the key."""


@dataclass(frozen=True)
class AlphaPatterns:
    """ends, whole: name -> (place among the keys, alpha). The first key that fits a layer counts, as in PEFT."""

    ends: Mapping[str, tuple[int, float]]
    whole: Mapping[str, tuple[int, float]]

    @classmethod
    def of(cls, alphas: Mapping[str, float]) -> AlphaPatterns:
        """Return the patterns of alphas by key. NotUnderstood names a key that is none of the forms above."""
        ends: dict[str, tuple[int, float]] = {}
        whole: dict[str, tuple[int, float]] = {}
        for place, (key, alpha) in enumerate(alphas.items()):
            found = _KEY.fullmatch(key)
            if not found:
                raise NotUnderstood(key)
            table = whole if found[1] == "^" else ends
            table.setdefault(found[2].replace("\\", ""), (place, alpha))
        return cls(ends, whole)

    def alpha(self, name: str) -> float | None:
        """Return the alpha of a layer by its name as it is written in the file, None if no key fits it."""
        bare = bare_names(name)
        fits = [self.whole[each] for each in bare if each in self.whole]
        start = 0
        while start >= 0:
            if name[start:] in self.ends:
                fits.append(self.ends[name[start:]])
            dot = name.find(".", start)
            start = dot + 1 if dot >= 0 else -1
        return min(fits)[1] if fits else None
