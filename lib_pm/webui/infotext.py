"""What an image says of its merge: in its infotext, which programs read too, in the page's comments, in the log."""

from __future__ import annotations

import logging
from typing import Any

from lib_pm.core.visible import visible
from lib_pm.prompt.infotext import first_pass, write_passes

_log = logging.getLogger(__name__)
INFOTEXT = "Power Merger"  # the key in the image's infotext
NOTE = "Power Merger note"
_ABOUT_CELL = "_power_merger_about_cell"  # on p: notes that are not of one pass


def begin(p: Any) -> None:
    """Start the first pass of a batch: nothing is known about its merge yet."""
    _write(p, INFOTEXT, "")
    _write(p, NOTE, getattr(p, _ABOUT_CELL, ""))


def record(p: Any, applied: str, hires: bool) -> None:
    """Record the merge of a pass, the body of a `<pm:…>` tag, "" for none. hires: it is the second pass."""
    first = first_pass(p.extra_generation_params.get(INFOTEXT, ""))
    _write(p, INFOTEXT, write_passes(first, applied) if hires else applied)


def warn(p: Any, text: str) -> None:
    """Show a note in the page and in the log."""
    p.comment(f"Power Merger: {text}")
    _log.warning("Power Merger: %s", visible(text))


def note(p: Any, text: str) -> None:
    """Do as `warn`, and put it into the infotext: the image may not be what the user expects."""
    warn(p, text)
    written = p.extra_generation_params.get(NOTE, "")
    if text not in written:
        _write(p, NOTE, f"{written} {text}".lstrip())


def note_of_cell(p: Any, text: str) -> None:
    """Do as `note`, for all passes and before any of them."""
    note(p, text)
    setattr(p, _ABOUT_CELL, p.extra_generation_params[NOTE])


def _write(p: Any, key: str, text: str) -> None:
    """Cells of an X/Y/Z plot share the dict with each other, so it is replaced, never changed."""
    others = {name: value for name, value in p.extra_generation_params.items() if name != key}
    p.extra_generation_params = others | ({key: text} if text else {})
