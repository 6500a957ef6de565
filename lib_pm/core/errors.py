"""The one error for what the user can mend, and how its messages are put together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_SHOWN = 100  # characters of a value in a message
_LISTED = 10  # of several errors; the count says the rest


class MergeInputError(ValueError):
    """Bad input: the message says what, the value, what is allowed, and which LoRA or layer.

    Everything else that is raised is a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # half a surrogate pair, as JSON and file names may have one, is no text that a page or a file could take
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class _Several(MergeInputError):
    """each: the messages that it is made of."""

    def __init__(self, each: list[str]) -> None:
        listed = [f"{number}. {text}" for number, text in enumerate(each[:_LISTED], 1)]
        rest = [f"… and {len(each) - _LISTED} more."] if len(each) > _LISTED else []
        super().__init__("\n".join([f"There are {len(each)} problems:", *listed, *rest]))
        self.each = each


class Faults:
    """The errors of several places, raised as one."""

    def __init__(self) -> None:
        self._found: dict[str, MergeInputError] = {}  # by message: what is wrong twice is told once

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep a MergeInputError that is raised inside, which ends what is inside, for `raise_all`."""
        try:
            yield
        except _Several as several:
            self._found |= {text: MergeInputError(text) for text in several.each}
        except MergeInputError as error:
            self._found.setdefault(str(error), error)

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_all(self) -> None:
        """Raise what was found as one MergeInputError; do nothing if all was right."""
        if len(self._found) > 1:
            raise _Several(list(self._found))
        for error in self._found.values():
            raise error


def quoted(value: object) -> str:
    """Return `repr`, cut short, for a message. Whole numbers that Python refuses to write out are described."""
    try:
        text = repr(value)
    except ValueError:
        return "a whole number with thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-1]} ({len(text)} characters)"


def counted(count: int, what: str) -> str:
    """Return `1 LoRA`, `2 LoRAs`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """Return ` Did you mean density?` with the names that are near, in any case; "" if there are none."""
    text = str(word).lower()
    by_lower = {name.lower(): name for name in names if len(text) <= 3 * len(name)}  # a longer text is near to no name
    near = difflib.get_close_matches(text, by_lower, n=3) if by_lower else []
    return f" Did you mean {' or '.join(by_lower[name] for name in near)}?" if near else ""
