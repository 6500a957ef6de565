"""The accordion: what its controls ask for, what it shows, what an image's infotext sets it to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.prompt.parse import write_pm
from lib_pm.ui import accordion
from lib_pm.ui.mode_controls import OPTIONS
from tests.chosen import chosen
from tests.messages import saying, says


@contextmanager
def open_accordion(value: bool, *, label: str, elem_id: str) -> Iterator[Any]:
    """As the WebUI's own: a checkbox that is true while its accordion is open."""
    box = gr.Checkbox(value=value, label=label, elem_id=elem_id, visible=False)
    with gr.Accordion(label, open=value):
        yield box


@pytest.fixture
def drawn() -> accordion.Accordion:
    with gr.Blocks():
        return accordion.build(open_accordion, lambda name: f"pm_{name}", "ties_svd", "Power Merger")


def pasted(drawn: accordion.Accordion, params: dict[str, str]) -> list[Any]:
    """The value that each control gets; None where it stays as it is."""
    values = [(control, set_by(params)) for control, set_by in drawn.paste_fields]
    assert [control for control, _ in values] == drawn.controls
    return [value.get("value") if isinstance(value, dict) else value for _, value in values]


def test_it_is_off_and_every_control_has_a_value(drawn: accordion.Accordion) -> None:
    values = [control.value for control in drawn.controls]
    assert values[0] is False
    assert None not in values, "the WebUI's API cannot set a control whose value is None"
    assert json.loads(json.dumps(values)) == values
    assert accordion.choice_of(*values) is None


def test_its_own_values_ask_for_the_mode_with_its_defaults(drawn: accordion.Accordion) -> None:
    values = [control.value for control in drawn.controls]
    for id, mode in MODES.items():
        assert accordion.choice_of(True, id, *values[2:]) == mode.choice()


def test_only_the_options_of_the_chosen_mode_show(drawn: accordion.Accordion) -> None:
    shown = [name for name, control in zip(OPTIONS, drawn.controls[2:], strict=True) if control.visible]
    assert shown == [name for name in OPTIONS if name in MODES["ties_svd"].options]


def test_a_bad_value_names_what_is_allowed(drawn: accordion.Accordion) -> None:
    values = [control.value for control in drawn.controls]
    values[2 + list(OPTIONS).index("svd_rank")] = "many"
    with pytest.raises(MergeInputError, match=saying("svd_rank … 'many' … a whole number … 1 … full")):
        accordion.choice_of(True, *values[1:])


def test_over_the_api_a_tags_body_is_enough() -> None:
    assert accordion.choice_of(True, "dare_ties:density=0.4:seed=7") == chosen("dare_ties:density=0.4:seed=7")
    assert accordion.choice_of(True, "concat") == chosen("concat:lambda=1")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["yes", {"mode": "ties"}], "first … Power Merger … 'yes' … true … false"),
        (["false"], "first … 'false' … true … false"),
        ([{}], "first … {} … true … false"),
        ([[True]], "first … [True] … true … false"),
        ([2], "first … 2 … true … false"),
        ([True, {"mode": "ties"}], "second … Power Merger … {'mode': 'ties'} … name of a mode"),
        ([True, ["ties"]], "second … ['ties'] … name of a mode"),
        ([True, 7], "second … 7 … name of a mode"),
        ([True, "ties", {"density": 1}], "density … {'density': 1} … a number … 0 … 1"),
    ],
)
def test_arguments_of_another_kind_are_named(arguments: list[object], facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        accordion.choice_of(*arguments)
    assert says(caught.value, facts), caught.value


@pytest.mark.parametrize("off", [False, None, 0])
def test_while_it_is_off_the_others_do_not_matter(off: object) -> None:
    assert accordion.choice_of(off, {}, "nonsense") is accordion.choice_of(off) is None


@pytest.mark.parametrize("mode", list(MODES))
def test_what_an_image_was_made_with_comes_back(drawn: accordion.Accordion, mode: str) -> None:
    values = [control.value for control in drawn.controls]
    values[:2] = [True, mode]
    for position, name in enumerate(OPTIONS, start=2):
        values[position] = {"density": 0.25, "seed": 7, "lambda": -1.5, "svd_rank": "8", "svd_conv_rank": "4"}[name]
    choice = accordion.choice_of(*values)
    assert choice
    infotext = {"Power Merger": write_pm(choice).body}
    after = [new if new is not None else old for old, new in zip(values, pasted(drawn, infotext), strict=True)]
    assert accordion.choice_of(*after) == choice


def test_an_image_without_the_key_switches_it_off(drawn: accordion.Accordion) -> None:
    enabled, *others = pasted(drawn, {"Prompt": "a cat"})
    assert enabled is False
    assert others == [None] * len(others)


def test_an_image_that_a_tag_made_is_made_by_its_tag_again(drawn: accordion.Accordion) -> None:
    params = {"Prompt": "a cat <lora:a:1><pm:ties>", "Power Merger": "ties:density=0.5:lambda=1"}
    assert pasted(drawn, params)[0] is False


def test_a_mode_of_another_version_is_passed_over(drawn: accordion.Accordion) -> None:
    assert pasted(drawn, {"Power Merger": "slerp:t=0.5"})[1:] == [None] * (len(drawn.controls) - 1)
