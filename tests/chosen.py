"""Modes with their options, as they are written in a tag."""

from __future__ import annotations

from lib_pm.core.registry import Choice
from lib_pm.prompt.parse import parse_pm
from lib_pm.prompt.tag import Tag


def chosen(body: str) -> Choice:
    """What `<pm:BODY>` chooses."""
    return parse_pm(Tag.of("pm", body))
