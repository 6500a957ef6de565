"""The demo's generate panel: what the prompt's tags do there, and what it says."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")
from demo.generate import Generator, Made
from demo.painter import Turns
from demo.tiny.weights import LORAS, load_pipeline
from lib_pm.core.errors import MergeInputError
from lib_pm.workspace.workspace import Workspace
from tests.chosen import chosen
from tests.messages import saying

WORDS = "a red star on a blue background"
TAGS = "<lora:star:1> <lora:stripes:0.8>"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_pipeline()


@pytest.fixture
def generator(pipeline: Any, tmp_path: Path) -> Generator:
    loaded = Future[Any]()
    loaded.set_result(pipeline)
    return Generator(loaded, Workspace(LORAS, tmp_path), Turns())


def made(generator: Generator, text: str, panel: str = "", seeds: tuple[int, ...] = (1,)) -> Made:
    return generator.generate(text, chosen(panel) if panel else None, seeds, steps=5, guidance=4.0)


def test_tags_are_stacked_without_a_mode_and_merged_with_one(generator: Generator) -> None:
    base, stacked = made(generator, WORDS), made(generator, f"{WORDS} {TAGS}")
    assert (base.merged, stacked.merged) == ("", "")
    assert np.abs(stacked.pictures - base.pictures).max() > 0.1
    by_tag = made(generator, f"{TAGS} {WORDS} <pm:concat>")
    assert by_tag.merged == "concat:lambda=1"
    assert np.abs(by_tag.pictures - stacked.pictures).max() <= 1 / 255  # float16 factors
    by_panel = made(generator, f"{WORDS} {TAGS}", "concat:lambda=0.5")
    assert by_panel.merged == "concat:lambda=0.5"
    assert np.abs(by_panel.pictures - stacked.pictures).max() > 0.02
    assert np.array_equal(made(generator, f"{WORDS} {TAGS} <pm:concat>", "concat:lambda=0.5").pictures, by_tag.pictures)
    assert np.array_equal(made(generator, WORDS).pictures, base.pictures)


def test_one_can_be_left_out_of_the_merge(generator: Generator) -> None:
    stacked = made(generator, f"{WORDS} {TAGS}")
    half = made(generator, f"{WORDS} <lora:star:1> <lora:stripes:0.8:pm=off> <pm:concat>")
    assert half.merged
    assert np.abs(half.pictures - stacked.pictures).max() <= 1 / 255


def test_each_seed_has_its_picture(generator: Generator) -> None:
    two = made(generator, WORDS, seeds=(4, 5)).pictures
    assert two.shape == (2, 3, 64, 64)
    assert np.abs(two[0] - two[1]).max() > 0.1
    assert np.abs(two[1] - made(generator, WORDS, seeds=(5,)).pictures[0]).max() < 1e-3


def test_it_says_what_did_nothing(generator: Generator) -> None:
    assert made(generator, f"{WORDS} <pm:ties>").notes == ("there is no <lora:…> in the prompt to merge",)
    assert made(generator, f"{TAGS} <pm:concat:density=0.5>").notes == ("density does nothing in mode concat",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<lora:start:1>", "'start' … star"),
        ("<lora:star:1> <pm:tie>", "'tie' … ties"),
        ("<lora:star:1:lbw=MIDD>", "lbw=MIDD … star … merge"),
        ("<lora:star:1> <pm:ties:density=2>", "density … 2 … 0 … 1"),
    ],
)
def test_what_is_wrong_is_told_and_leaves_nothing_behind(generator: Generator, text: str, told: str) -> None:
    base = made(generator, WORDS)
    with pytest.raises(MergeInputError, match=saying(told)):
        made(generator, text)
    assert np.array_equal(made(generator, WORDS).pictures, base.pictures)
