"""The demo's page: pictures from a prompt, and the tab beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")
from demo.drawing import Drawing
from demo.page import DemoWorkspace, build, launch
from demo.painter import Turns
from demo.tiny.weights import LORAS, load_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(LORAS, folder / "loras")
    return folder


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    workspace = DemoWorkspace(folder / "loras", folder / "data", "cpu")
    pipeline, turns = Future[Any](), Turns()
    pipeline.set_result(load_pipeline())
    blocks = build(pipeline, workspace, turns, Drawing(folder, workspace.folder, turns))
    launch(blocks, workspace, prevent_thread_lock=True, quiet=True)
    context = browser.new_context()
    page, complaints = context.new_page(), []
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route(lambda url: not url.startswith(blocks.local_url), lambda route: route.fulfill(body=""))
    page.goto(blocks.local_url)
    yield page
    context.close()
    blocks.close()
    assert complaints == []


def test_a_merge_is_tried_saved_and_used(page: Any, folder: Path) -> None:
    prompt, said = page.locator("#txt2img_prompt textarea"), page.locator("#demo_said")
    prompt.fill("a red heart on a white background <lora:heart:1> <lora:outline:1> <pm:concat>")
    page.locator("#txt2img_generate").click()
    said.get_by_text("Merged: <pm:concat:lambda=1>").wait_for()
    assert page.locator("#txt2img_gallery .thumbnail-item img").count() == 4
    page.locator("#txt2img_gallery .caption-label").get_by_text("red heart on white, outline").first.wait_for()

    page.get_by_role("tab", name="Power Merger").click()
    page.locator("#pm_get_txt2img").click()
    page.locator("#pm_rows .pm-row b").get_by_text("outline").wait_for()
    page.locator("#pm_save_name input, #pm_save_name textarea").first.fill("both")
    page.locator("#pm_merge").click()
    page.get_by_text("Written:").wait_for()
    assert (folder / "loras" / "both.safetensors").is_file()

    page.get_by_role("tab", name="txt2img").click()
    prompt.fill("a red heart on a white background <lora:both:1>")
    page.locator("#txt2img_generate").click()
    said.get_by_text("Nothing was merged.").wait_for()
    page.locator("#txt2img_gallery .caption-label").get_by_text("red heart on white, outline").first.wait_for()


def test_an_error_is_told_beside_the_button(page: Any) -> None:
    page.locator("#txt2img_prompt textarea").fill("a red heart <lora:heard:1>")
    page.locator("#txt2img_generate").click()
    page.locator("#demo_said [role=alert]").get_by_text("Did you mean heart").wait_for()
