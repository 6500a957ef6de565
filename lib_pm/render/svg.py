"""Pieces of SVG as text. Nothing has a background, and text is in the page's own colour: light and dark pages do."""

from __future__ import annotations

import html
import re

# Eight hues that can be told apart, each at least three times as bright or dark as a white and a near-black page.
COLOURS = ("#2b87d1", "#d9661f", "#2e9e6b", "#c75a9b", "#8f74d6", "#a8842c", "#d4545a", "#2a9aa8")
FONT = 12
# About how wide a letter is, against the size of its font; a little more than most are.
_LETTER = 0.58


def element(name: str, *children: str, **attributes: object) -> str:
    """Return <name attributes>children</name>. Children are SVG, attributes any value; _ in their names means -."""
    words = "".join(f' {key.replace("_", "-")}="{text(_number(value))}"' for key, value in attributes.items())
    return f"<{name}{words}>{''.join(children)}</{name}>"


def label(x: float, y: float, words: str, *, anchor: str = "start", size: float = FONT, **attributes: object) -> str:
    """Return a line of text. anchor: which part of it is at (x, y): start, middle or end."""
    return element("text", text(words), x=x, y=y, text_anchor=anchor, font_size=size, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    """Return a line, thin and grey unless the attributes say otherwise."""
    grey = {"stroke": "currentColor", "stroke_opacity": 0.35}
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **{**grey, **attributes})


def picture(identity: str, width: float, height: float, title: str, description: str, *children: str) -> str:
    """Return a whole SVG. identity: the start of its ids, unique in a page."""
    return element(
        "svg",
        element("title", text(title), id=f"{identity}-title"),
        element("desc", text(description), id=f"{identity}-desc"),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        aria_labelledby=f"{identity}-title {identity}-desc",
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        width=width,
        height=height,
        font_family="system-ui, sans-serif",
        fill="currentColor",
    )


def text(value: str) -> str:
    """Return the text escaped. Characters that XML does not allow, which a file name may have, become �."""
    return html.escape(re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", value))


def shortened(words: str, width: float, size: float = FONT) -> str:
    """Return the words shortened to a width, with … in the middle: names differ at both ends."""
    most = max(3, int(width / (size * _LETTER)))
    if len(words) <= most:
        return words
    return f"{words[: most - most // 2 - 1]}…{words[len(words) - most // 2 :]}"


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
