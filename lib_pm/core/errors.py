"""The one error for what the user can mend."""

from __future__ import annotations


class MergeInputError(ValueError):
    """Bad input: the message says what, the value, what is allowed, and which LoRA or layer.

    Everything else that is raised is a bug and keeps its traceback.
    """
