"""Takes the documents' pictures of the tab, on the demo's page: `python -m tests.browser.pictures [FOLDER]`.

Writes tab.png and analyse.png, into docs/images by default.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tests.browser.chromium import usable

DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"
PROMPT = "a red star <lora:star:0.8> <lora:stripes:0.6:0.9:lbw=MIDD> <pm:ties_svd:density=0.4:rank=8>"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DOCS)
    folder = parser.parse_args(arguments).folder
    with tempfile.TemporaryDirectory() as data:
        take(folder, Path(data))
    return 0


def take(folder: Path, data: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = usable()[0] or None  # before the other Playwright is there
    page = serve(data)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        tab = browser.new_page(viewport={"width": 1100, "height": 900})
        tab.set_default_timeout(60_000)
        tab.route(lambda url: not url.startswith(page.local_url), lambda route: route.fulfill(body=""))
        tab.goto(page.local_url)
        tab.locator("#txt2img_prompt textarea").fill(PROMPT)
        tab.get_by_role("tab", name="Power Merger").click()
        tab.locator("#pm_get_txt2img").click()
        tab.locator("#pm_rows .pm-row b").get_by_text("stripes").wait_for()
        tab.locator("#pm_save_name input, #pm_save_name textarea").first.fill("striped_star")
        tab.locator("#pm_merge").click()
        tab.get_by_text("Written:").wait_for()
        tab.locator("#pm_card").wait_for()
        tab.mouse.move(0, 0)
        tab.locator("#pm_tab").screenshot(path=folder / "tab.png", animations="disabled")
        tab.locator("#pm_analyse").click()
        tab.get_by_text("Energy that a rank keeps").wait_for()
        tab.locator("#pm_saved").screenshot(path=folder / "analyse.png", animations="disabled")
        browser.close()
    page.close()


def serve(data: Path) -> Any:
    """Return the demo's page, served from a copy of its LoRAs with their pictures; it draws nothing more."""
    from demo.drawing import Drawing
    from demo.page import DemoWorkspace, build, launch
    from demo.painter import Painter, Turns
    from demo.quiet import hush_libraries
    from demo.tiny.weights import LORAS, load_pipeline
    from lib_pm.files.library import Library

    hush_libraries()
    workspace = DemoWorkspace(data / "loras", data / "data", "cpu")
    shutil.copytree(LORAS, workspace.folder)
    drawing = Drawing(data, workspace.folder, Turns())
    drawing.thumbs(Painter(load_pipeline(), Library(LORAS)))
    drawing.what = ""
    page = build(Future(), workspace, Turns(), drawing)
    launch(page, workspace, prevent_thread_lock=True, quiet=True)
    return page


if __name__ == "__main__":
    sys.exit(main())
