"""The axes in the plot's menu: there once, of the plot's own class, each with what the plot asks of it."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.host.chosen import KINDS
from tests.host.double import EXTENSION, REPOSITORY, Double, running
from tests.host.merging import PLAIN, TIES, A, B, make_ab
from tests.host.plotting import NOTHING, PM, TITLE, make_plot, pm
from tests.host.server import Kind

pytest_plugins = ("tests.host.fixtures",)

PROMPT = f"{PLAIN}<lora:{A}:0.8><lora:{B}:0.6>{TIES}"


def plot_module(double: Double) -> Any:
    return next(d.module for d in double.module("scripts").scripts_data if Path(d.path).name == "xyz_grid.py")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_changes_nothing_that_it_shares(kind: Kind, tmp_path: Path) -> None:
    """Neither a dict nor a list: all cells are shallow copies of one object, which may have values already."""
    with running(kind, tmp_path) as double:
        make_ab(double)
        options = {option.label: option for option in plot_module(double).axis_options}
        prompts = [PROMPT, PROMPT]
        p = SimpleNamespace(all_prompts=prompts, all_hr_prompts=prompts, main_prompt=PROMPT)
        options[f"{PM}Mode"].apply(p, "concat", ["concat"])
        shared = {name: copy(value) for name, value in vars(p).items()}
        cell = copy(p)
        options[f"{PM}LoRA 1 strength"].apply(cell, 0.5, [0.5])
        (script,) = (s for s in double.module("scripts").scripts_txt2img.scripts if s.title() == "Power Merger")
        script.process(cell, False)
        assert vars(p) == shared
        written = f"{PLAIN}<lora:{A}:0.5><lora:{B}:0.6><pm:concat>"
        assert cell.main_prompt == written  # of which the WebUI makes the infotext of a batch's grid
        assert cell.all_prompts == cell.all_hr_prompts == [written, written]


@pytest.mark.parametrize("kind", KINDS)
def test_costly_axes_are_the_outer_loops(kind: Kind, tmp_path: Path) -> None:
    axes = pm("SVD rank", "1, 2"), pm("Mode", "ties_svd, add_svd"), pm("LoRA 1 strength", "0.1, 0.2")
    with running(kind, tmp_path) as double:
        make_ab(double)
        make_plot(double, PROMPT, *axes)
        made = plot_module(double).made
    assert [y for _, y, _ in made] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [z for _, _, z in made] == [0, 0, 1, 1] * 2
    assert [x for x, _, _ in made] == [0, 1] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_each_axis_is_there_once_also_after_reload_ui(kind: Kind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as double:
        for _ in range(3):
            for tab in ("txt2img", "img2img"):
                ours = [label for label in double.axes(tab) if label.startswith(PM)]
                assert len(ours) == len(set(ours)) == 49
                assert {f"{PM}Mode", f"{PM}SVD conv rank", f"{PM}LoRA 8 lbw"} <= set(ours)
            assert plot_module(double).AxisOption is type(plot_module(double).axis_options[-1])
            double.reload_ui()


@pytest.mark.parametrize("kind", KINDS)
def test_axes_without_the_page(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under --nowebui the API reads the plot's menu before `on_before_ui` is called."""
    with running(kind, tmp_path, extensions={}) as double:
        callbacks = double.module("script_callbacks")
        monkeypatch.setattr(callbacks, "before_ui_callback", lambda: None)
        double.start({EXTENSION: REPOSITORY})
        assert f"{PM}Mode" in double.axes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_webui_without_a_plot(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(kind, tmp_path, extensions={}) as double:
        scripts = double.module("scripts")
        listed = scripts.list_scripts
        monkeypatch.setattr(scripts, "list_scripts", lambda: [f for f in listed() if f.filename != "xyz_grid.py"])
        double.start({EXTENSION: REPOSITORY})
        assert any(script.title() == "Power Merger" for script in scripts.scripts_txt2img.scripts)
        assert not double.swallowed()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_on_the_grid(kind: Kind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as double:
        make_ab(double)
        make_plot(double, PROMPT, pm("LoRA 1 strength", "0.75"), pm("SVD rank", "16, full"), pm("Density", "0.5"))
        assert plot_module(double).labels == [[f"{A}: 0.75"], ["rank 16", "rank full"], ["density 0.50"]]
        make_plot(double, PROMPT, pm("Balance", "0.25"), pm("Mode", "ties"), NOTHING)
        assert plot_module(double).labels[:2] == [[f"{A}: 0.75, {B}: 0.25"], ["ties"]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_dropdown_and_its_fill_button_offer(kind: Kind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as double:
        make_ab(double)
        typed = make_plot(double, PROMPT, pm("Mode", "concat, ties"))  # by then the WebUI knows the new files
        options = {option.label: option for option in plot_module(double).axis_options}
        choices = {
            label: options[f"{PM}{label}"].choices() for label in ("Mode", "LoRA 1 name", "LoRA 2 lbw", "Apply to")
        }
        assert choices["Mode"][:2] == ["concat", "add"]
        assert choices["LoRA 1 name"] == [A, B]
        assert "MIDD" in choices["LoRA 2 lbw"]
        assert choices["Apply to"] == ["model + clip", "model", "clip"]
        args = [double.axes().index(f"{PM}Mode"), "", ["concat", "ties"], 0, "", [], 0, "", []]
        payload = {"script_name": TITLE, "script_args": [*args, *[False] * 7, 0, False]}
        chosen = double.txt2img(PROMPT, **payload)
        assert chosen.infotexts[1:] == typed.infotexts
