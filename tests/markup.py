"""HTML as a browser sees it, and a name that wants to be more than a name."""

from __future__ import annotations

from html.parser import HTMLParser

EVIL = """<img src=x onerror="alert('&')">"""


class Parsed(HTMLParser):
    """The tags, attributes and text that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def is_text(html: str) -> bool:
    """Return whether EVIL is in the HTML, and only as a text."""
    parsed = Parsed(html)
    harmless = "img" not in parsed.tags and not any(name.startswith("on") for name in parsed.attributes)
    return harmless and (EVIL in parsed.text or any("onerror" in (value or "") for value in parsed.attributes.values()))
