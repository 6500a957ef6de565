"""What a page says, as HTML: problems, notes, tables; every name escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

from lib_pm.core.visible import visible, whole


def problem_html(text: str) -> str:
    """Return the message of a user's error."""
    return f'<p class="pm-problem" role="alert">{html.escape(visible(text))}</p>'


def note_html(text: str) -> str:
    """Return a sentence that is no problem."""
    return f'<p class="pm-note" role="status">{html.escape(visible(text))}</p>'


def table_html(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table. head, rows: any values, as text."""

    def row(cells: Iterable[object], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(whole(str(cell)))}</{tag}>' for cell in cells)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<table class="pm-table"><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table>'


def seconds_text(seconds: float) -> str:
    """Return `0.4 s`, `12 s` or `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
