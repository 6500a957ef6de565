"""What an image's infotext says of its merge: `ties_svd:density=0.5:…`, and of its hires pass if that has another."""

from __future__ import annotations

_OFF = "off"
_HIRES = "; hires: "


def write_passes(first: str, hires: str) -> str:
    """first, hires: the body of a `<pm:…>` tag for each pass, "" for one without a merge; "" if neither has one."""
    return first if first == hires else f"{first or _OFF}{_HIRES}{hires or _OFF}"


def first_pass(text: str) -> str:
    """What `write_passes` was given for the first pass."""
    body = text.partition(_HIRES)[0]
    return "" if body == _OFF else body
