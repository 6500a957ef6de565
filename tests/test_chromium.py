"""Which Chromium the browser tests look for, and what becomes of them where none starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import chromium

ROOT = Path(__file__).resolve().parent.parent


def found(environ: dict[str, str], platform: str = "linux") -> list[str]:
    return list(chromium.candidates(environ, platform))


def test_one_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    assert found({"PM_CHROMIUM": "/opt/chrome", "PATH": os.environ["PATH"]}) == ["/opt/chrome"]


@pytest.mark.skipif(os.name == "nt", reason="there a command has an ending")
@pytest.mark.parametrize("command", chromium.COMMANDS)
def test_commands_are_looked_for_and_playwrights_own_comes_last(tmp_path: Path, command: str) -> None:
    (tmp_path / command).touch(mode=0o755)
    assert found({"PATH": str(tmp_path)}) == [str(tmp_path / command), ""]


@pytest.mark.parametrize(
    ("platform", "place"),
    [
        ("darwin", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
        ("darwin", "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge"),
        ("darwin", "/Applications/Chromium.app/Contents/MacOS/Chromium"),
        ("win32", r"C:\Program Files\Google\Chrome\Application\chrome.exe"),
        ("win32", r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe"),
    ],
)
def test_where_applications_are(monkeypatch: pytest.MonkeyPatch, platform: str, place: str) -> None:
    monkeypatch.setattr(Path, "is_file", lambda path: str(path) == place)
    environ = {"PATH": "", "PROGRAMFILES": r"C:\Program Files", "PROGRAMFILES(X86)": r"C:\Program Files (x86)"}
    assert found(environ, platform) == [place, ""]
    assert found(environ) == [""]


@pytest.mark.parametrize("required", [False, True])
def test_without_a_browser_all_tests_are_left_out_or_one_fails(required: bool) -> None:
    """A whole file of them, in a browser that is none."""
    pytest.importorskip("playwright")
    environ = {name: value for name, value in os.environ.items() if name != "PM_BROWSER_TESTS"}
    environ |= {"PM_CHROMIUM": sys.executable} | ({"PM_BROWSER_TESTS": "required"} if required else {})
    command = [sys.executable, "-m", "pytest", "tests/browser/test_rows.py", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    last = ended.stdout.splitlines()[-1]
    assert ended.returncode == int(required), ended.stdout
    assert ("1 error" in last or "1 failed" in last) == required
    assert "skipped" in last
    assert "passed" not in last
    assert "NOT LOOKED AT IN A BROWSER" in ended.stdout
    assert "playwright install" in ended.stdout or "run.py test" in ended.stdout
