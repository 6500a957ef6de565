"""What an image's infotext says of its merge: `ties_svd:density=0.5:…`, and of its hires pass if that has another."""

from __future__ import annotations

_OFF = "off"
_HIRES = "; hires: "


def write_passes(first: str, hires: str) -> str:
    """Return the infotext's value, "" if neither pass has a merge. first, hires: the body of each pass's tag or ""."""
    return first if first == hires else f"{first or _OFF}{_HIRES}{hires or _OFF}"


def first_pass(text: str) -> str:
    """Return what `write_passes` was given for the first pass."""
    body = text.partition(_HIRES)[0]
    return "" if body == _OFF else body
