"""Infotext: written with each image, read back by PNG Info, "Send to" and the API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
paste_fields: dict[str, dict[str, Any]] = {}


class PasteField(tuple):
    """A control and where its value is: an infotext key, or a function of all of them."""

    def __new__(cls, component: Any, target: str | Callable[..., Any], *, api: str | None = None) -> PasteField:
        return super().__new__(cls, (component, target))

    def __init__(self, component: Any, target: str | Callable[..., Any], *, api: str | None = None):
        self.component, self.api = component, api
        self.label = target if isinstance(target, str) else None
        self.function = target if callable(target) else None


def reset() -> None:
    paste_fields.clear()


def add_paste_fields(tabname: str, init_img: Any, fields: list[Any]) -> None:
    fields = [field if isinstance(field, PasteField) else PasteField(*field) for field in fields]
    paste_fields[tabname] = {"init_img": init_img, "fields": fields}


def quote(text: Any) -> Any:
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,\n:]", str(text)) else text


def unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_generation_parameters(x: str, skip_fields: list[str] | None = None) -> dict[str, Any]:
    *lines, last = x.strip().split("\n")
    if len(_PAIR.findall(last)) < 3:  # then it is no line of parameters
        lines, last = [*lines, last], ""
    prompt: list[str] = []
    negative: list[str] = []
    part = prompt
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            part, line = negative, line.removeprefix("Negative prompt:").strip()
        part.append(line)
    params: dict[str, Any] = {}
    for key, value in _PAIR.findall(last):
        value = unquote(value)
        size = re.fullmatch(r"(\d+)x(\d+)", value)
        params |= {f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: value}
    params |= {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    params.setdefault("Clip skip", "1")
    return params


def field_value(field: PasteField, params: dict[str, Any], target: type | None = None) -> Any:
    """What the API gives the control: of its value's own type, so that "False" in text becomes True for a checkbox."""
    value = field.function(params) if field.function else params.get(field.label)
    target = target or type(field.component.value)
    if value is None or target is type(None):
        return None
    if isinstance(value, dict) and value.get("__type__") in ("update", "generic_update"):
        value = value.get("value")
    return value if value is None or isinstance(value, target) else target(value)


def pasted(params: dict[str, Any], fields: list[PasteField]) -> dict[Any, Any]:
    """What the page's paste button sets: control -> value; a control that the infotext says nothing of is left out."""
    values = {}
    for field in fields:
        value = field.function(params) if field.function else params.get(field.label)
        if isinstance(value, dict):
            value = value.get("value")
        if value is None:
            continue
        kind = type(field.component.value)
        values[field.component] = value == "True" if kind is bool and isinstance(value, str) else kind(value)
    return values
