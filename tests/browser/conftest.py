"""A page that shows the tab, under the gradio of A1111 and under that of Forge, in a Chromium."""

from __future__ import annotations

import functools
import os
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.browser.chromium import usable
from tests.browser.driver import Tab
from tests.browser.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent
OpenTab = Callable[..., Tab]
Serve = Callable[[str, Path], str]


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


@pytest.fixture(scope="session", params=VENVS)
def venv(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def serve(venv: str) -> Iterator[Serve]:
    """Serves a "page" or an "api" for a folder of LoRAs, all in one process; returns the address."""
    here = sysconfig.get_paths()["purelib"]
    command = [python_of(venv), ROOT / "tests" / "browser" / "server.py", "--packages", here]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def serve(what: str, folder: Path) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            print(what, folder, file=process.stdin, flush=True)
            lines = (line.split() for line in process.stdout)
            address = next((words[1] for words in lines if words[:1] == ["ready"]), "")
            assert address, f"the server ended before its {what} was up"
            return address

        try:
            yield serve
        finally:
            process.terminate()


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
def address(serve: Serve, loras: Path) -> str:
    return serve("page", loras)


@pytest.fixture(scope="package")  # not longer: while it is up, no other test can have an event loop
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=usable()[0] or None)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser: Any, address: str) -> Iterator[OpenTab]:
    """Opens the page; what its console says in complaint fails the test."""
    pages: list[Page] = []

    def open(query: str = "", *, at: str = address, width: int = 1280, script: str = "") -> Tab:
        pages.append(Page(browser, at, query, width=width, script=script))
        return pages[-1].tab

    yield open
    for page in pages:
        page.close()
    assert [page.complaints for page in pages if page.complaints] == []


@pytest.fixture(scope="package")
def kept(browser: Any, venv: str) -> Iterator[dict[str, Page]]:
    """By address, a page that the next test can have as if it were new: to open one takes longer than most tests."""
    pages: dict[str, Page] = {}
    yield pages
    for page in pages.values():
        page.close()


@pytest.fixture
def tab(request: pytest.FixtureRequest, browser: Any, address: str, kept: dict[str, Page]) -> Iterator[Tab]:
    """An empty draft in a page that looks as if it were new, and is not after a test that failed.

    A test that leaves in the page what cannot be put back, as the report of a merge, takes `open_tab`.
    """
    page = kept.pop(address, None)
    if page is None:
        page = Page(browser, address)
        page.remember()
    page.tab.page.bring_to_front()  # behind another page, a click waits for a frame for a second
    failed = request.session.testsfailed
    yield page.tab
    if request.session.testsfailed == failed and page.renew() and not page.complaints:
        kept[address] = page
    else:
        page.close()
    assert page.complaints == []
