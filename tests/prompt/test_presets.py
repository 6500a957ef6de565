"""Block weight presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.families.blocks import BLOCK_LISTS, expand_preset
from lib_pm.prompt.presets import BUILT_IN, load_presets
from tests.messages import says

# The file that sd-webui-lora-block-weight starts with, its first lines.
THEIRS = """\
NONE:0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
ALL:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
INS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0
IND:1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0
INALL:1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0
MIDD:1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0
OUTD:1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0
OUTS:1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1
OUTALL:1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1
ALL0.5:0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5
"""


def test_built_in_ones_are_those_that_users_know(tmp_path: Path) -> None:
    path = tmp_path / "lbwpresets.txt"
    path.write_text(THEIRS)
    assert load_presets(path) == load_presets()
    assert {len(weights.split(",")) for weights in BUILT_IN.values()} <= BLOCK_LISTS.keys()
    assert BUILT_IN["FLUXALL"] == ",".join(["1"] * 61)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_of_the_users(tmp_path: Path, encoding: str) -> None:
    """Windows' editor puts a mark before the first name."""
    path = tmp_path / "my presets.txt"
    text = "Größer: IN04=2,MID=0.5\n# NO:1,1\n\nMIDD:0,1\njust words\nEMPTY:\n"
    path.write_text(text, encoding=encoding)
    presets = load_presets(path)
    assert presets == BUILT_IN | {"Größer": "IN04=2,MID=0.5", "MIDD": "0,1"}


def test_the_callers_copy_is_its_own() -> None:
    load_presets()["MIDD"] = "0"
    assert load_presets()["MIDD"] == BUILT_IN["MIDD"] != "0"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00M"], ids=["missing", "not UTF-8"])
def test_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "presets.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MergeInputError) as caught:
        load_presets(path)
    assert says(caught.value, "presets in presets.txt … read"), caught.value
    assert str(tmp_path) not in str(caught.value), "the REST interface shows it"


def test_unknown_name_hints_at_near_ones() -> None:
    with pytest.raises(MergeInputError) as caught:
        expand_preset("mid", load_presets(), "a")
    lengths = "12 (SDXL LoRA), 17 (SD1 LoRA), 20 (SDXL LoCon), 26 (SD1 LoCon), 61 (Flux)"
    assert says(caught.value, f"a … block weight preset 'mid' … MIDD or IND? … {lengths}"), caught.value
