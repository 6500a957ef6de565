"""What the tab's JavaScript reads, and the lists of LoRAs in its dropdowns."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import gradio as gr

from lib_pm.workspace.workspace import ListedLora

# A control that shows what is in the LoRA folder, and its new state when the folder was read anew.
Listing = tuple[Any, Callable[[Sequence[ListedLora]], Any]]


def data_html(loras: Iterable[ListedLora], presets: Iterable[str]) -> str:
    """Return a hidden element with both lists as JSON."""
    values = {"loras": [asdict(lora) for lora in loras], "presets": list(presets)}
    written = {name: html.escape(json.dumps(value, ensure_ascii=False)) for name, value in values.items()}
    return f'<div hidden data-loras="{written["loras"]}" data-presets="{written["presets"]}"></div>'


def choices_of(loras: Sequence[ListedLora]) -> Any:
    return gr.update(choices=[lora.name for lora in loras])


def marker(name: str, value: str) -> str:
    """Return a hidden element, new each time, that tells the JavaScript that something was done."""
    return f'<div hidden data-{name}="{html.escape(value)}" data-at="{time.monotonic_ns()}"></div>'
