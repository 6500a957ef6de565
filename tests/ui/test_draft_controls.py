"""What the controls hold is a draft, and a draft is what they show."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from lib_pm.core.choices import APPLY
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES, Choice
from lib_pm.merging.recipe import DTYPES
from lib_pm.ui.draft_controls import DraftControls, draft_of, draft_values, draw_mode, draw_text
from lib_pm.ui.mode_controls import OPTIONS, mode_values, panel_choice
from lib_pm.workspace.draft import Draft
from tests.chosen import chosen
from tests.messages import saying


@pytest.fixture(scope="module")
def controls() -> DraftControls:
    with gr.Blocks():
        return draw_mode(draw_text(), "concat")


def held(controls: DraftControls, shown: list[Any]) -> list[Any]:
    """What the controls hold once they were shown that: those that stay keep what they hold."""
    assert len(shown) == len(controls.all)
    return [control.value if isinstance(new, dict) else new for control, new in zip(controls.all, shown, strict=True)]


@pytest.mark.parametrize("mode", list(MODES.values()), ids=lambda mode: mode.id)
@pytest.mark.parametrize("given", [{}, {"density": 0.25, "seed": 7, "lambda": -1.5, "svd_rank": 8, "svd_conv_rank": 4}])
def test_a_draft_comes_back(controls: DraftControls, mode: Any, given: dict[str, Any]) -> None:
    values = mode.values({name: value for name, value in given.items() if name in mode.options})
    for apply, dtype, precision in zip(APPLY, DTYPES, ("normal", "exact", "normal"), strict=False):
        draft = Draft("<lora:a:1>\n# <lora:b:1>", Choice(mode, values), apply, dtype, precision)
        assert draft_of(*held(controls, draft_values(draft))) == draft


@pytest.mark.parametrize("mode", list(MODES))
def test_a_mode_comes_back(controls: DraftControls, mode: str) -> None:
    shown = mode_values(MODES[mode].choice())
    assert shown[0] == mode
    assert [name for name, value in zip(OPTIONS, shown[1:], strict=True) if not isinstance(value, dict)] == [
        name for name in OPTIONS if name in MODES[mode].options
    ]
    options = [
        control.value if isinstance(new, dict) else new
        for control, new in zip(controls.mode.options, shown[1:], strict=True)
    ]
    assert panel_choice(mode, options) == MODES[mode].choice()


def test_full_rank_and_an_empty_conv_rank_come_back(controls: DraftControls) -> None:
    draft = Draft("<lora:a:1>", chosen("ties_svd:density=0.5:svd_rank=full:lambda=1"))
    assert draft_of(*held(controls, draft_values(draft))) == draft


@pytest.mark.parametrize(("name", "value"), [("density", None), ("seed", None), ("svd_rank", "many"), ("seed", 1.5)])
def test_a_bad_option_is_named(controls: DraftControls, name: str, value: Any) -> None:
    values = held(controls, draft_values(Draft("<lora:a:1>", chosen("dare_ties_svd"))))
    values[2 + list(OPTIONS).index(name)] = value
    with pytest.raises(MergeInputError, match=saying(f"{name} … {value!r} … number")):
        draft_of(*values)
