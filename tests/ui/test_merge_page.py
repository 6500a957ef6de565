"""The page Merge: checked while it is written, exchanged with prompts, merged, watched, cancelled."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import nullcontext
from typing import Any

import gradio as gr
import pytest
from safetensors.torch import load_file

from lib_pm.ui import tab
from lib_pm.ui.save_form import ROOT, target_of
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.jobs import Target, submit_merge
from tests.chosen import chosen
from tests.messages import says
from tests.ui.page import Page
from tests.workspaces import RecordingWorkspace, done

TEXT = "<lora:style:0.8>\n<lora:char:0.6:lbw=MIDD>\n# <lora:other:1>"
MERGE = {"pm_recipe": TEXT, "pm_mode": "add", "pm_save_device": "cpu"}


def test_what_is_listed_when_it_is_opened(page: Page) -> None:
    assert page.shown["pm_add"]["choices"] == ["other", "style", "char"]
    assert page.shown["pm_save_folder"]["choices"] == [ROOT, "sub"]
    assert page.shown["pm_recipe_name"]["choices"] == []
    assert "sub" in page.values["pm_data"]
    assert "MIDD" in page.values["pm_data"]


def test_a_new_lora_is_listed_when_the_lists_are_refreshed(page: Page, workspace: RecordingWorkspace) -> None:
    (workspace.folder / "new").mkdir()
    (workspace.folder / "new" / "another.safetensors").touch()
    page.click("pm_refresh")
    assert "another" in page.shown["pm_add"]["choices"]
    assert "another" in page.shown["pm_inspect_lora"]["choices"]
    assert "another" in page.shown["pm_resize_loras"]["choices"]
    assert "new" in page.shown["pm_save_folder"]["choices"]
    assert "another" in page.values["pm_data"]


@pytest.mark.parametrize("button", ["pm_refresh", None])
def test_without_the_lora_folder_it_says_so(page: Page, workspace: RecordingWorkspace, button: str | None) -> None:
    workspace.folder.rename(workspace.folder.with_name("elsewhere"))
    if button:
        page.click(button)
    else:
        page.load()
    assert "The LoRA folder loras does not exist." in page.values["pm_check"]


def test_adding_lines(page: Page) -> None:
    page.click("pm_add_button", pm_add="style", pm_recipe="")
    assert page.values["pm_recipe"] == "<lora:style:1>"
    page.click("pm_add_button", pm_add="char")
    assert page.values["pm_recipe"] == "<lora:style:1>\n<lora:char:1>"
    page.click("pm_add_button", pm_add=None)
    assert page.values["pm_recipe"] == "<lora:style:1>\n<lora:char:1>"
    page.click("pm_add_button", pm_add="odd:name")
    assert page.values["pm_recipe"] == "<lora:style:1>\n<lora:char:1>"
    assert says(page.values["pm_check"], "&#x27;odd:name&#x27; … &lt;lora:…&gt;")


class TestCheck:
    def test_what_it_would_merge(self, page: Page, workspace: RecordingWorkspace) -> None:
        page.change("pm_recipe", TEXT)
        assert "2 LoRAs, 1 disabled." in page.values["pm_check"]
        assert page.shown["pm_save_name"]["placeholder"] == "style_char_concat"
        page.change("pm_recipe", "<lora:style:1>\n<pm:ties>")
        assert "1 LoRA, mode ties from the &lt;pm:…&gt; tag." in page.values["pm_check"]
        page.change("pm_recipe", "<lora:style:1>\n# <pm:ties>")
        assert "1 LoRA." in page.values["pm_check"], "that tag is switched off"
        page.change("pm_recipe", "")
        assert page.values["pm_check"] == ""
        assert workspace.recipes.last == Draft("", chosen("concat:lambda=1"))

    def test_a_draft_that_cannot_be_kept_is_still_checked(self, page: Page, workspace: RecordingWorkspace) -> None:
        workspace.recipes.folder.parent.mkdir(exist_ok=True)
        shutil.rmtree(workspace.recipes.folder, ignore_errors=True)
        workspace.recipes.folder.touch()  # a file where the folder should be
        try:
            page.change("pm_recipe", TEXT)
        finally:
            workspace.recipes.folder.unlink()
        assert "2 LoRAs, 1 disabled." in page.values["pm_check"]
        assert "could not be written" in page.values["pm_check"]

    def test_all_that_is_wrong_is_said_together(self, page: Page) -> None:
        page.change("pm_recipe", "<lora:style:1>\n<lora:gone:x>\n<lora:gone:1>\n<lora:char:1:lbw=NOPE>\n<lora:char:1")
        told = page.values["pm_check"]
        assert "4 problems" in told
        for text in (
            "Line 5, column 1",
            "The strength &#x27;x&#x27;",
            "no LoRA &#x27;gone&#x27;",
            "preset &#x27;NOPE&#x27;",
        ):
            assert text in told

    def test_a_pasted_prompt_is_no_error(self, page: Page) -> None:
        page.change("pm_recipe", "a (red:1.2) cat, 16:9, <3 <b>\n<lora:style:1> in [a:b:0.5]\n(masterpiece:1.1)")
        assert "1 LoRA." in page.values["pm_check"]

    @pytest.mark.parametrize(
        ("text", "facts"),
        [
            ("<lora:styl:1>", "&#x27;styl&#x27; … style"),
            ("<lora:style:strong>", "strength &#x27;strong&#x27;"),
            ("<lora:style:1:lbw=NOPE>", "block weight preset &#x27;NOPE&#x27;"),
            ("<lora:../style:1>", "LoRA &#x27;../style&#x27; … folder"),
            ("<lora:style:1:pm=off>", "pm=off"),
            ("<lora:style:1><pm:tie>", "mode &#x27;tie&#x27;"),
            ("<lora:style:1>\n<lora:char:0.7", "Line 2, column 1 … &#x27;&lt;lora:char:0.7&#x27;"),
            ("# <lora:char:1>\n<lora:style:1><pm>", "Line 2, column 15 … &#x27;&lt;pm&gt;&#x27;"),
            ("<lora:style:1>\nchar:1", "Line 2, column 1 … &#x27;char:1&#x27;"),
            ("<char:1:lbw=MIDD>", "Line 1, column 2 … &#x27;char:1:lbw=MIDD&#x27;"),
            ("<lora:style:1:lbw=1,0,0>", "3 block weights … Stable Diffusion 1"),
            (f"<lora:style:1:lbw={','.join('1' * 61)}>", "style: 61 block weights … Stable Diffusion 1"),
            ("<lora:style:1:lbw=D00=1>", "block &#x27;D00&#x27;"),
            ("<lora:style:1:lbw=IN44=1>", "block &#x27;IN44&#x27;"),
            ("# <lora:style:1>", "LoRAs to merge"),
            ("a cat", "LoRAs to merge"),
        ],
    )
    def test_what_is_wrong_is_said_at_once(
        self, page: Page, workspace: RecordingWorkspace, text: str, facts: str
    ) -> None:
        page.change("pm_recipe", text)
        assert 'role="alert"' in page.values["pm_check"]
        assert says(page.values["pm_check"], facts), page.values["pm_check"]
        assert str(workspace.folder) not in page.values["pm_check"]

    def test_the_last_draft_is_there_when_the_page_is_opened_again(
        self, page: Page, workspace: RecordingWorkspace
    ) -> None:
        page.change("pm_recipe", TEXT)
        page.values["pm_recipe"] = ""
        page.load()
        assert page.values["pm_recipe"] == TEXT
        page.values["pm_recipe"] = "<lora:typed:1>"
        page.load()
        assert page.values["pm_recipe"] == "<lora:typed:1>", "before the page was whole"
        page.values["pm_recipe"] = ""
        last = Draft("<lora:a:1>").to_json() | {"pm": "no_such_mode:t=1"}
        (workspace.recipes.folder / "last.json").write_text(json.dumps(last))
        page.load()
        assert page.values["pm_recipe"] == "", "of a version that knew other modes"


class TestPrompts:
    @pytest.mark.parametrize("where", ["txt2img", "img2img"])
    def test_getting_a_prompts_loras(self, page: Page, where: str) -> None:
        prompt = (
            "a cat <lora:style:0.8> <lora:sub/char:1:0.5> <lora:gone:1> <lora:other:1:pm=off> <pm:ties:density=0.3>"
        )
        page.click(f"pm_get_{where}", **{f"{where}_prompt": prompt})
        assert page.values["pm_recipe"].splitlines() == [
            "<lora:style:0.8>",
            "<lora:char:1:0.5>",
            "<lora:gone:1>",
            "# <lora:other:1>",
        ]
        assert (page.values["pm_mode"], page.values["pm_density"]) == ("ties", 0.3)
        page.click(f"pm_get_{where}", **{f"{where}_prompt": "a cat"})
        assert "There is no &lt;lora:…&gt; tag in the prompt." in page.values["pm_check"]

    def test_inserting_into_a_prompt(self, page: Page) -> None:
        page.click("pm_insert_img2img", img2img_prompt="a cat <lora:x:1>", **MERGE)
        assert page.values["img2img_prompt"] == "a cat <lora:style:0.8> <lora:char:0.6:lbw=MIDD> <pm:add:lambda=1>"
        assert 'data-goto="img2img"' in page.values["pm_goto"]
        page.click("pm_insert_txt2img", txt2img_prompt="a dog", pm_recipe="<lora:gone:1>")
        assert page.values["txt2img_prompt"] == "a dog"
        assert "There is no LoRA &#x27;gone&#x27;" in page.values["pm_check"]
        assert "pm_goto" not in page.shown or "img2img" in page.values["pm_goto"]


class TestMerging:
    def test_merge_and_save(self, page: Page, workspace: RecordingWorkspace) -> None:
        steps = page.click("pm_merge", pm_save_name="both", pm_save_folder="sub", pm_save_save_dtype="float32", **MERGE)
        written = load_file(str(workspace.folder / "sub" / "both.safetensors"))
        expected = submit_merge(workspace, Draft(TEXT, chosen("add")), Target("same", "", "float32"), "cpu")
        done(expected)
        assert all(
            tensor.equal(written[name])
            for name, tensor in load_file(str(workspace.folder / "same.safetensors")).items()
        )
        assert "Written: sub/both" in steps[-1]["pm_merge_status"]
        assert 'data-saved="sub/both"' in page.values["pm_saved"]
        assert page.shown["pm_merge_cancel"]["visible"] is False

    @pytest.mark.parametrize(
        ("values", "facts"),
        [
            ({"pm_recipe": "<lora:styl:1>"}, "LoRA &#x27;styl&#x27; … style"),
            ({"pm_recipe": ""}, "no LoRAs to merge"),
            ({"pm_save_name": "../both"}, "&#x27;../both&#x27; … /"),
            ({"pm_save_folder": "/tmp"}, "&#x27;/tmp&#x27; … absolute … LoRA folder"),
            ({"pm_save_folder": ".."}, "folder &#x27;..&#x27; … dot"),
            ({"pm_save_name": "style"}, "style.safetensors … already … overwriting"),
            ({"pm_lambda": None}, "lambda … None … a number"),
            (
                {"pm_recipe": "<lora:style:1>\n<lora:other:1>"},
                "different models … style.safetensors … other.safetensors",
            ),
        ],
    )
    def test_what_is_wrong_is_said_where_the_report_would_be(
        self, page: Page, workspace: RecordingWorkspace, values: dict[str, Any], facts: str
    ) -> None:
        before = sorted(workspace.folder.rglob("*"))
        page.click("pm_merge", **MERGE | values)
        said = page.values["pm_merge_status"]
        assert 'role="alert"' in said
        assert says(said, facts), said
        assert str(workspace.folder) not in said
        assert sorted(workspace.folder.rglob("*")) == before
        assert page.shown["pm_merge_cancel"]["visible"] is False

    def test_a_bug_is_said_too(
        self, page: Page, workspace: RecordingWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise ZeroDivisionError("<b>by 0")

        monkeypatch.setattr("lib_pm.workspace.jobs.merge_to_file", fail)
        page.click("pm_merge", **MERGE)
        assert "ZeroDivisionError: &lt;b&gt;by 0" in page.values["pm_merge_status"]

    def test_waiting_and_cancelling(self, page: Page, workspace: RecordingWorkspace) -> None:
        go_on = threading.Event()
        workspace.queue.submit("Something long", lambda progress: go_on.wait(30), nullcontext())
        steps = page.start("pm_merge", "click", **MERGE)
        first = next(steps)
        assert "Merging 2 LoRAs into style_char_add: waiting in the queue." in first["pm_merge_status"]
        assert page.shown["pm_merge_cancel"]["visible"] is True
        page.click("pm_merge_cancel")
        last = list(steps)[-1]
        assert "style_char_add: cancelled, nothing was written." in last["pm_merge_status"]
        assert page.shown["pm_merge_cancel"]["visible"] is False
        page.click("pm_merge_cancel")  # nothing is left to cancel
        go_on.set()
        assert not (workspace.folder / "style_char_add.safetensors").exists()

    def test_a_page_that_is_opened_meanwhile_shows_how_far_it_is(
        self, page: Page, workspace: RecordingWorkspace
    ) -> None:
        go_on = threading.Event()
        job = workspace.queue.submit("Something long", lambda progress: go_on.wait(30) and [], nullcontext())
        steps = page.start("", "load")
        for _ in range(2):
            next(steps)
        assert "Something long" in next(steps)["pm_merge_status"]
        page.click("pm_merge_cancel")
        go_on.set()
        list(steps)
        assert job.ended


def test_the_form_says_where_it_is_written() -> None:
    assert target_of("a", ROOT, "float16", "all", False, True) == Target("a", "", "float16", "all", False, True)
    assert target_of("a", "sub", "float32", "minimal", True, False) == Target("a", "sub", "float32", "minimal", True)
    assert target_of("a", "", "float32", "all", False, False, "as in the LoRAs").names == ""
    assert target_of("a", "", "float32", "all", False, False, "diffusers").names == "diffusers"
    assert target_of("a", None, "float32", "all", True, False).folder == ""  # type: ignore[arg-type]


def test_it_can_be_drawn_without_a_webui(workspace: RecordingWorkspace) -> None:
    assert isinstance(tab.build(workspace), gr.Blocks)
