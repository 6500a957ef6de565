"""JSON that others wrote: a value, or one kind of error, whatever is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# Metadata and settings beyond it are not read: parsed, they would take some thirty times their length in memory.
MAX_LENGTH = 4 * 2**20
_MAX_DIGITS = 1000  # Python's time for a whole number grows with their square
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(ValueError):
    """The message says why, as the end of a sentence."""


def parse_json(text: str | bytes) -> Any:
    """Return the JSON value, every text in it valid Unicode.

    NotJson if there is none: nested too deep counts as that.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        text.encode("utf-8")
        value = json.loads(text, parse_constant=_no_number, parse_int=_whole)
        # An escape can hold half a character, which nothing can write or print.
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) if _halved(text) else value
    except UnicodeError as error:
        raise NotJson("it is not UTF-8 text") from error
    except RecursionError as error:
        raise NotJson("it is nested too deeply") from error
    except ValueError as error:
        raise NotJson(str(error)) from error


def load_json(text: str) -> Any:
    """Return the JSON value, or None if the text is none or too long: metadata is written by many tools."""
    if len(text) > MAX_LENGTH:
        return None
    try:
        return parse_json(text)
    except NotJson:
        return None


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits; allowed: {_MAX_DIGITS}")
    return int(digits)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _halved(text: str) -> bool:
    return _SURROGATE.search(text) is not None
