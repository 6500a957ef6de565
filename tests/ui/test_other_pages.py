"""Resize, Inspect, sweeps, saved recipes and cards."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib_pm.core.registry import MODES
from lib_pm.files.metadata import RECIPE_KEY
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.jobs import Target, submit_merge
from tests.chosen import chosen
from tests.loras import make_lora, write
from tests.messages import says
from tests.ui.conftest import PLOT
from tests.ui.page import Page
from tests.workspaces import SHAPES, RecordingWorkspace, done, files

ALL_MODES = ", ".join(MODES)
EVIL = """<img src=x onerror="alert('&')">"""


class TestResize:
    def test_look_and_then_write(self, page: Page, workspace: RecordingWorkspace) -> None:
        asked = {"pm_resize_loras": ["style", "char"], "pm_resize_rank": 2, "pm_resize_device": "cpu"}
        before = files(workspace)
        page.click("pm_resize_look", **asked)
        assert page.values["pm_resize_status"].count("Nothing has been written yet") == 2
        assert files(workspace) == before
        page.click("pm_resize_go", **asked)
        assert "Written: style_resized" in page.values["pm_resize_status"]
        assert "Written: char_resized" in page.values["pm_resize_status"]
        assert {"style_resized.safetensors", "char_resized.safetensors"} <= set(files(workspace))
        assert 'data-saved="char_resized"' in page.values["pm_resized"]

    def test_a_rule_decides_alone_if_the_rank_is_empty(self, page: Page) -> None:
        page.click(
            "pm_resize_look",
            pm_resize_loras=["style"],
            pm_resize_rank=None,
            pm_resize_conv=None,
            pm_resize_rule="sv_fro",
            pm_resize_value=0.9,
        )
        assert "style.safetensors resized to sv_fro 0.9" in page.values["pm_resize_status"]

    @pytest.mark.parametrize("button", ["pm_resize_look", "pm_resize_go"])
    @pytest.mark.parametrize(
        ("values", "facts"),
        [
            ({"pm_resize_loras": []}, "LoRAs to resize"),
            ({"pm_resize_loras": None}, "LoRAs to resize"),
            ({"pm_resize_loras": ["gone"]}, "LoRA &#x27;gone&#x27;"),
            ({"pm_resize_rank": 0}, "The rank … 0 … 1 or more, or 0 with a rule"),
            ({"pm_resize_rank": None}, "The rank … 0 … 1 or more, or 0 with a rule"),
            ({"pm_resize_rank": -1}, "The rank … -1 … 1 or more"),
            ({"pm_resize_conv": -1}, "The conv rank … -1 … 1 or more"),
            ({"pm_resize_rule": "sv_fro", "pm_resize_value": 2}, "sv_fro … &#x27;2&#x27; … 0 … 1"),
            ({"pm_resize_rule": "sv_fro", "pm_resize_value": None}, "sv_fro … &#x27;None&#x27; … 0 … 1"),
        ],
    )
    def test_what_is_wrong_is_said(self, page: Page, button: str, values: dict[str, Any], facts: str) -> None:
        page.click(button, **{"pm_resize_loras": ["style"], "pm_resize_rank": 2} | values)
        assert 'role="alert"' in page.values["pm_resize_status"]
        assert says(page.values["pm_resize_status"], facts), page.values["pm_resize_status"]


class TestInspect:
    def test_a_merged_file_and_its_recipe(self, page: Page, workspace: RecordingWorkspace) -> None:
        draft = Draft("<lora:style:0.5:0.8>\n<lora:char:1>", chosen("ties:density=0.3"), "model", "float64")
        done(submit_merge(workspace, draft, Target("both"), "cpu"))
        page.change("pm_inspect_lora", "both")
        assert "both.safetensors" in page.values["pm_inspect_found"]
        assert "merged by Power Merger: ties of style, char" in page.values["pm_inspect_found"]
        assert page.shown["pm_inspect_load"]["visible"] is True
        page.click("pm_inspect_load")
        assert page.values["pm_recipe"] == draft.text
        assert (page.values["pm_mode"], page.values["pm_density"]) == ("ties", 0.3)
        assert (page.values["pm_apply"], page.values["pm_dtype"]) == ("model", "float64")
        assert page.shown["pm_pages"]["selected"] == "merge"

    def test_a_file_without_a_recipe(self, page: Page) -> None:
        page.click("pm_inspect_go", pm_inspect_lora="style")
        assert "style.safetensors" in page.values["pm_inspect_found"]
        assert page.shown["pm_inspect_load"]["visible"] is False

    @pytest.mark.parametrize("name", [None, "", "gone", "../style", "damaged"])
    def test_what_is_wrong_is_said(self, page: Page, workspace: RecordingWorkspace, name: str | None) -> None:
        (workspace.folder / "damaged.safetensors").write_bytes(b"no LoRA")
        page.click("pm_inspect_go", pm_inspect_lora=name)
        assert 'role="alert"' in page.values["pm_inspect_found"]
        assert str(workspace.folder) not in page.values["pm_inspect_found"]

    @pytest.mark.parametrize(
        "recipe",
        ["[]", "{}", '{"loras": 7}', '{"loras": ["a"]}', json.dumps({"mode": EVIL, "loras": [{"name": EVIL}]})],
    )
    def test_a_recipe_may_hold_anything(self, page: Page, workspace: RecordingWorkspace, recipe: str) -> None:
        write(workspace.folder / "evil.safetensors", make_lora(SHAPES, 1), {RECIPE_KEY: recipe, EVIL: EVIL})
        page.click("pm_inspect_go", pm_inspect_lora="evil")
        assert "evil.safetensors" in page.values["pm_inspect_found"]
        assert "<img" not in page.values["pm_inspect_found"]
        page.click("pm_inspect_load")
        assert 'role="alert"' in page.values["pm_inspect_found"]
        assert "<img" not in page.values["pm_inspect_found"]
        assert page.values.get("pm_recipe", "") == ""


class TestSweeps:
    def test_strengths(self, page: Page) -> None:
        page.click(
            "pm_fill_strengths", txt2img_prompt="a cat", pm_recipe="<lora:style:1>\n<lora:char:1>", pm_mode="add"
        )
        assert page.values["script_list"] == "X/Y/Z plot"
        plot = {name.removeprefix(PLOT): value for name, value in page.values.items() if name.startswith(PLOT)}
        assert plot == {
            "x_type": "[Power Merger] LoRA 1 strength",
            "x_values": "0-1 [4]",
            "y_type": "[Power Merger] LoRA 2 strength",
            "y_values": "0-1 [4]",
            "z_type": "Nothing",
            "z_values": "",
            "csv_mode": True,
        }
        assert page.values["txt2img_prompt"] == "a cat <lora:style:1> <lora:char:1> <pm:add:lambda=1>"
        assert 'data-goto="txt2img"' in page.values["pm_sweep_goto"]

    def test_modes_and_ranks_without_touching_the_prompt(self, page: Page) -> None:
        page.click("pm_fill_modes", txt2img_prompt="a cat", pm_sweep_insert=False, pm_recipe="<lora:style:1>")
        assert page.values[f"{PLOT}x_type"] == "[Power Merger] Mode"
        assert page.values[f"{PLOT}y_values"] == "0-1 [4]"
        page.click("pm_fill_ranks", pm_sweep_ranks_mode="ties_svd", pm_sweep_ranks_density=0.5, pm_sweep_ranks_steps=2)
        assert page.values[f"{PLOT}x_values"] == "1-64 [2]"
        assert page.values[f"{PLOT}z_values"] == "0.5"
        assert page.values["txt2img_prompt"] == "a cat"

    @pytest.mark.parametrize(
        ("button", "values", "facts"),
        [
            ("pm_fill_strengths", {"pm_sweep_strengths_steps": 0}, "0 steps … 1"),
            ("pm_fill_strengths", {"pm_sweep_strengths_low": None}, "A number is missing"),
            ("pm_fill_ranks", {"pm_sweep_ranks_steps": None}, "A number is missing"),
            ("pm_fill_modes", {"pm_sweep_modes": "add, tie"}, f"mode &#x27;tie&#x27; … {ALL_MODES} … ties?"),
            ("pm_fill_modes", {"pm_recipe": "<lora:gone:1>"}, "LoRA &#x27;gone&#x27;"),
        ],
    )
    def test_what_is_wrong_is_said(self, page: Page, button: str, values: dict[str, Any], facts: str) -> None:
        page.click(button, txt2img_prompt="a cat", **values)
        assert 'role="alert"' in page.values["pm_sweep_status"]
        assert says(page.values["pm_sweep_status"], facts), page.values["pm_sweep_status"]
        assert page.values["txt2img_prompt"] == "a cat"
        assert "script_list" not in page.values


class TestRecipes:
    def test_saved_and_loaded(self, page: Page) -> None:
        page.click("pm_recipe_save", pm_recipe_name="mine", pm_recipe="<lora:style:1>", pm_mode="ties", pm_exact=True)
        assert "Saved the recipe mine." in page.values["pm_check"]
        assert page.shown["pm_recipe_name"]["choices"] == ["mine"]
        page.values |= {"pm_recipe": "", "pm_mode": "add", "pm_exact": False}
        page.click("pm_recipe_load")
        assert (page.values["pm_recipe"], page.values["pm_mode"]) == ("<lora:style:1>", "ties")
        assert page.values["pm_exact"] is True
        page.click("pm_recipe_delete")
        assert "Deleted the recipe mine." in page.values["pm_check"]
        assert page.shown["pm_recipe_name"]["choices"] == []

    @pytest.mark.parametrize("button", ["pm_recipe_save", "pm_recipe_load", "pm_recipe_delete"])
    @pytest.mark.parametrize("name", [None, "", "../mine", EVIL])
    def test_names_that_are_none(self, page: Page, button: str, name: str | None) -> None:
        page.click(button, pm_recipe_name=name, pm_recipe="<lora:style:1>")
        assert 'role="alert"' in page.values["pm_check"]
        assert "<img" not in page.values["pm_check"]

    def test_one_of_that_name_is_there(self, page: Page) -> None:
        for _ in range(2):
            page.click("pm_recipe_save", pm_recipe_name="mine", pm_recipe="<lora:style:1>")
        assert "&#x27;mine&#x27; already exists" in page.values["pm_check"]
        page.click("pm_recipe_save", pm_recipe_overwrite=True)
        assert "Saved the" in page.values["pm_check"]


class TestCards:
    def test_offered_after_a_merge_and_saved(self, page: Page, workspace: RecordingWorkspace) -> None:
        (workspace.folder / "style.json").write_text('{"activation text": "red, cat"}')
        (workspace.folder / "sub" / "char.json").write_text('{"activation text": "cat, hat"}')
        (workspace.folder / "sub" / "char.preview.png").write_bytes(b"picture")
        page.click("pm_merge", pm_recipe="<lora:style:1>\n<lora:char:1>", pm_save_name="both", pm_save_device="cpu")
        assert page.shown["pm_card"]["visible"] is True
        assert page.values["pm_card_activation"] == "red, cat, hat"
        assert page.values["pm_card_picture"] == "char"
        page.click("pm_card_save", pm_card_activation="red cat")
        assert "Saved the card of both." in page.values["pm_card_status"]
        assert json.loads((workspace.folder / "both.json").read_text())["activation text"] == "red cat"
        assert (workspace.folder / "both.png").read_bytes() == b"picture"
        assert workspace.announced[-1] == "both.safetensors"

    def test_a_lora_that_is_gone_meanwhile(self, page: Page, workspace: RecordingWorkspace) -> None:
        page.click("pm_merge", pm_recipe="<lora:style:1>", pm_save_name="both", pm_save_device="cpu")
        (workspace.folder / "both.safetensors").unlink()
        page.click("pm_card_save")
        assert 'role="alert"' in page.values["pm_card_status"]
        assert "There is no LoRA &#x27;./both&#x27;" in page.values["pm_card_status"]

    def test_it_is_that_of_the_file_that_was_written(
        self, page: Page, workspace: RecordingWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The WebUI takes a name that several files have for the one that it read last."""
        page.click("pm_merge", pm_recipe="<lora:style:1>", pm_save_name="both", pm_mode="add", pm_save_device="cpu")
        other = workspace.folder / "sub" / "both.safetensors"
        other.touch()
        monkeypatch.setattr(workspace, "find", lambda name: other)
        page.click("pm_card_save", pm_card_activation="red cat", pm_card_picture=None)
        assert "Saved the" in page.values["pm_card_status"]
        assert (workspace.folder / "both.json").is_file()
        assert not other.with_suffix(".json").exists()
