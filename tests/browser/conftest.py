"""A page that shows the tab, under the gradio of A1111 and under that of Forge, in a Chromium."""

from __future__ import annotations

import functools
import os
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.browser.chromium import usable
from tests.browser.driver import Tab

ROOT = Path(__file__).resolve().parent.parent.parent
OpenTab = Callable[..., Tab]


VENVS = (".venv-gradio3", ".venv-gradio4")
_told: list[str] = []  # what is missing, once a test has said so


@functools.cache
def what_is_missing() -> str:
    """What the tests need and do not find, and the way out; "" if all is there."""
    gone = [name for name in VENVS if not python_of(name).exists()]
    if gone:
        return f"{' and '.join(gone)} missing; `python run.py test` makes them"
    return usable()[1]


def pytest_runtest_setup() -> None:
    """Without a browser all tests are skipped before anything is started; where it is required, the first one fails."""
    problem = what_is_missing()
    if not problem:
        return
    first = not _told
    _told.append(problem)
    if first and os.environ.get("PM_BROWSER_TESTS") == "required":
        pytest.fail(f"The tests in a browser cannot run: {problem}.", pytrace=False)
    pytest.skip(f"NOT LOOKED AT IN A BROWSER: {problem}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _told:
        terminalreporter.section("NOT LOOKED AT IN A BROWSER", yellow=True)
        terminalreporter.write_line(f"{len(_told)} tests were left out: {_told[0]}.")


def python_of(venv: str) -> Path:
    return ROOT / venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@contextmanager
def serving(venv: str, loras: Path, script: str = "page.py") -> Iterator[str]:
    """The address of what a script of this folder serves with the Python of that venv."""
    here = sysconfig.get_paths()["purelib"]
    command = [python_of(venv), ROOT / "tests" / "browser" / script, "--packages", here, "--loras", loras]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = (line.split() for line in process.stdout)
            address = next((words[1] for words in lines if words[:1] == ["ready"]), "")
            assert address, f"{script} ended before it was up"
            yield address.rstrip("/")
        finally:
            process.terminate()


@pytest.fixture(scope="session", params=VENVS)
def venv(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few LoRAs in folders, one with a preview."""
    folder = tmp_path_factory.mktemp("Lora")
    for name in ("char/miku", "char/asuka", "style/watercolor_v2", "style/oil_paint", "detail"):
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"weight": torch.zeros(1)}, path, {"ss_output_name": "Hatsune" if path.stem == "miku" else path.stem})
    red_dot = "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003"
    (folder / "char" / "miku.png").write_bytes(bytes.fromhex(red_dot + "010100c9fe92ef0000000049454e44ae426082"))
    return folder


@pytest.fixture(scope="session")
def address(venv: str, loras: Path) -> Iterator[str]:
    with serving(venv, loras) as address:
        yield address.rstrip("/")


@pytest.fixture(scope="module")  # not longer: while it is up, no other test can have an event loop
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=usable()[0] or None)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser: Any, address: str) -> Iterator[OpenTab]:
    """Opens the page; what its console says in complaint fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open(query: str = "", *, at: str = address, width: int = 1280, script: str = "") -> Tab:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.add_init_script(script)
        page.set_default_timeout(10_000)
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        # gradio asks the network for fonts and the like, which a test must not depend on
        page.route(lambda url: not url.startswith(at), lambda route: route.fulfill(body=""))
        page.goto(f"{at}/?{query}")
        tab = Tab(page)
        page.wait_for_function("document.querySelector('#pm_recipe textarea')?.value === '# loaded'")
        page.locator("#pm_data [data-loras]").wait_for(state="attached")
        tab.write("")
        return tab

    yield open
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def tab(open_tab: OpenTab) -> Tab:
    return open_tab()
