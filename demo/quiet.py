"""Keeps the libraries' own remarks out of what a command says."""

from __future__ import annotations

import os
import warnings


def hush_libraries() -> None:
    """Has to come before diffusers and transformers are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"(peft|diffusers|transformers)\b")
    import transformers

    transformers.logging.disable_progress_bar()
