"""What a message says, without the words it says it in: names, values, places and what is allowed, in their order."""

from __future__ import annotations

import re

ANYTHING = " … "


def says(message: object, facts: str) -> bool:
    """Return whether the message has these facts, one after the other; " … " between two stands for any words.

    A fact is a whole word or number: 2 is in neither 20 nor 2.5.
    """
    return re.search(saying(facts), str(message)) is not None


def saying(facts: str) -> str:
    """Return the pattern of messages with these facts, for `pytest.raises(…, match=saying(facts))`."""
    return "(?s)" + ".*?".join(_pattern(fact) for fact in facts.split(ANYTHING))


def _pattern(fact: str) -> str:
    assert fact.strip(), "no fact: anything would have it"
    start = r"(?<![\w.])(?<!\d,)" if re.match(r"\w", fact) else ""
    end = r"(?!\w)(?!\.\d)" if re.search(r"\w$", fact) else ""
    return start + re.escape(fact) + end
