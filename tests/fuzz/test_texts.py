"""Any text is read or refused: a thousand that nobody meant, and those that once were neither.

More of them: `python -m tests.fuzz --texts 100000`.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.fuzz.texts import drive, run
from tests.fuzz.work import at_most

COUNT = int(os.environ.get("PM_FUZZ", "1000"))
MOST_CALLS = 3_000_000  # of all readers together, for the longest text
# What raised something else, or took longer than anybody waits, before it was mended.
CORPUS = {
    "a rank of 310 digits": f"<lora:x:1><pm:add_svd:rank={'9' * 310}>",
    "a rank of 4,400 digits": f"<pm:ties_svd:rank={'9' * 4400}",
    "a strength of 5,000 digits and a letter": f"<lora:x:{'9' * 5000}x>",
    "such a file": f"a.safetensors:-{'9' * 5000}x",
    "a line break on an axis": "1\n2\r3",
    "half a character in a name": "<lora:\ud800:1>",
    "half a character in a list": "<lora:x:1:1,0,\udce9>",
    "a line of spaces": f"<lora:x:1>\n{' ' * 20000}:",
    "thousands of broken tags": "<pm" * 20000,
    "tabs and <": "\t<" * 10000,
    "lists nested too deep": "[" * 3000,
    "objects nested too deep": '{"a":' * 3000,
    "a number of 4,400 digits": "9" * 4400,
    "block weights of 1e200": ",".join(["1e200"] * 17),
    "a block number of 4,400 digits": f"IN{'9' * 4400}=1",
    "a rule that is no number": "sv_ratio=nan",
    "a recipe that is null": "null",
    "thousands of items": f"<lora:x{':1' * 20000}>",
}


@pytest.mark.parametrize("part", range(10))
def test_any_text_is_read_or_refused(part: int) -> None:
    outcomes = set()
    for number in range(part * COUNT // 10, (part + 1) * COUNT // 10):
        try:
            with at_most(MOST_CALLS):
                outcomes.add(drive(number))
        except Exception as error:
            raise AssertionError(f"case {number}: {error!r}") from error
    assert len(outcomes) > 5, "texts that all readers treat alike would show little"


@pytest.mark.parametrize("text", CORPUS.values(), ids=list(CORPUS))
def test_what_once_was_neither(text: str) -> None:
    for number in range(8):
        with at_most(MOST_CALLS):
            run(text, Random(number))
