"""Characters that nobody sees: in names they deceive, on a terminal they are commands."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Unicode's Cc, Cf, Cs, Zl, Zp: controls, directions and other formats, halves of characters, ends of lines.
_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# What Unicode has drawn as nothing (Default_Ignorable_Code_Point) in other categories, and the empty Braille pattern.
_BLANK = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    r"\U000e0000-\U000e0fff]"
)


def unseen(text: str) -> list[str]:
    """Return the characters of a text that cannot be seen or change its direction, each once. Spaces can be seen."""
    return [char for char in dict.fromkeys(text) if unicodedata.category(char) in _CATEGORIES or _BLANK.match(char)]


def visible(text: str) -> str:
    """Return one line that can be printed anywhere: what cannot be seen is written as `\\x1b` or `\\u202e`."""
    for char in unseen(text):
        text = text.replace(char, char.encode("unicode_escape").decode())
    return text


def whole(text: str) -> str:
    """Return the text as any file can hold it: half a character, as file names may have, is written as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_lines(texts: Iterable[str]) -> str:
    """Return texts as lines, each of them `visible`, so that none can pass for two."""
    return "\n".join(map(visible, texts))


def described(char: str) -> str:
    """Return `U+202E RIGHT-TO-LEFT OVERRIDE`."""
    return f"U+{ord(char):04X} {unicodedata.name(char, '')}".rstrip()
