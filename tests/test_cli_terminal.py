"""Nothing that a file says of itself reaches the terminal as anything but letters."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from lib_pm.cli import main
from lib_pm.core.visible import unseen
from lib_pm.workspace.job_queue import Queue
from tests.loras import make_lora, write

MID = "lora_unet_mid_block_attentions_0_proj_in"
# clears the screen, sets the window's title, turns the direction, ends the line, hides
EVIL = "\x1b[2Jx\x1b]0;gotcha\x07\u202e\x9b1m\x7f\u200b"
FILE = f"{EVIL}.safetensors"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command; returns what it wrote to the terminal, of which only the ends of lines may be unseen."""
    monkeypatch.chdir(tmp_path)
    tensors = make_lora({MID: (24, 16), f"lora_unet_{EVIL}": (24, 16)}, 4)
    recipe = {"loras": [{"name": EVIL}], "mode": EVIL}
    metadata = {
        "ss_output_name": f"{EVIL}\n  forged: line",
        EVIL: "value",
        "ss_tag_frequency": json.dumps({"data": {EVIL: 3}}),
        "ss_base_model_version": EVIL,
        "power_merger_recipe": json.dumps(recipe),
    }
    write(Path(FILE), tensors, metadata)
    write(Path("other.safetensors"), make_lora({MID: (24, 16)}, 4), {"ss_base_model_version": "other"})

    def said(*words: str) -> str:
        main(words)
        ended = capsys.readouterr()
        text = ended.out + ended.err
        assert text
        assert set(unseen(text)) <= {"\n"}
        return text

    return said


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["inspect", FILE], r"ss_output_name: \x1b[2Jx\x1b]0;gotcha\x07\u202e\x9b1m\x7f\u200b\n  forged: line"),
        (["inspect", FILE, "--json"], "gotcha"),
        (["merge", FILE, "--mode", "ties", "-o", "out.safetensors", "--verbose"], r"\x1b[2Jx"),
        (["merge", FILE, "other.safetensors", "-o", "out.safetensors"], r"\x1b[2Jx"),
        (["resize", FILE, "--rank", "2", "-o", "out.safetensors"], r"\x1b[2Jx"),
        (["analyse", FILE], r"\x1b[2Jx"),
        (["merge", f"no{FILE}", "-o", "out.safetensors"], r"no\x1b[2Jx"),
        (["merge", FILE, "-o", FILE], "U+001B"),
        (["merge", FILE, f"--{EVIL}", "-o", "out.safetensors"], r"--\x1b[2Jx"),
        ([EVIL], r"\x1b[2Jx"),
    ],
    ids=lambda value: " ".join(value).replace(EVIL, "EVIL") if isinstance(value, list) else "",
)
def test_what_is_printed(said: Callable[..., str], words: list[str], seen: str) -> None:
    assert seen in said(*words)


def test_a_value_of_two_lines_forges_none(said: Callable[..., str]) -> None:
    assert "\n  forged: line" not in said("inspect", FILE)


def test_a_job_that_failed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def work(_: object) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        assert Queue().submit(f"Merging into {EVIL}", work, nullcontext()).wait(10)
    (record,) = caplog.records
    assert unseen(record.getMessage()) == []
