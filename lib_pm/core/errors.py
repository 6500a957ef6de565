"""The one error for what the user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MergeInputError(ValueError):
    """Bad input: the message says what, the value, what is allowed, and which LoRA or layer.

    Everything else that is raised is a bug and keeps its traceback.
    """


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """Return ` Did you mean density?` with the names that are near, in any case; "" if there are none."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=3)
    return f" Did you mean {' or '.join(by_lower[name] for name in near)}?" if near else ""
