"""Any file is read or refused: a thousand damaged and hostile ones, and those that once were neither.

More of them: `python -m tests.fuzz --files 100000`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz.files import Case, case, drive, write_case, write_partner
from tests.fuzz.work import at_most

COUNT = int(os.environ.get("PM_FUZZ", "1000"))
CORPUS = json.loads((Path(__file__).parent / "corpus_files.json").read_text(encoding="utf-8"))
MOST_CALLS = 500_000  # opening, inspecting, three merges, analysing and resizing take some ten thousand


@pytest.mark.parametrize("part", range(10))
def test_any_file_is_read_or_refused(tmp_path: Path, part: int) -> None:
    partner = write_partner(tmp_path)
    outcomes = set()
    for number in range(part * COUNT // 10, (part + 1) * COUNT // 10):
        try:
            with at_most(MOST_CALLS):
                outcomes.add(drive(write_case(tmp_path, case(number)), partner, Random(number)))
        except Exception as error:
            raise AssertionError(f"case {number}: {error!r}") from error
    assert {"read", "refused: open"} <= outcomes, "files that are all refused at once would show little"


@pytest.mark.parametrize("kept", CORPUS, ids=lambda kept: kept["what"])
def test_what_once_was_neither(tmp_path: Path, kept: dict[str, Any]) -> None:
    header = kept["header"].encode("utf-8", "surrogatepass")
    file = len(header).to_bytes(8, "little") + header + bytes.fromhex(kept["data"])
    config = kept["config"].encode("utf-8", "surrogatepass") if "config" in kept else None
    partner = write_partner(tmp_path)
    for number in range(8):
        with at_most(MOST_CALLS):
            outcome = drive(write_case(tmp_path, Case(file, config)), partner, Random(number))
        assert (outcome != "refused: open") == kept["opens"]
