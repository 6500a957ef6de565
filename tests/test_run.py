"""run.py's own logic; the installs themselves are what CI does first."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_under_test", Path(__file__).parent.parent / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text("one==1\n")
    return path


@pytest.fixture
def whole_venv(run: ModuleType, tmp_path: Path, requirements: Path) -> Path:
    folder = tmp_path / ".venv"
    python = run.python_of(folder, os.name)
    python.parent.mkdir(parents=True)
    python.touch()
    (folder / run.MARKER).write_text(run.wanted(requirements))
    return folder


def test_python_path_on_each_system(run: ModuleType) -> None:
    assert run.python_of(PureWindowsPath("C:/x/.venv"), "nt") == PureWindowsPath("C:/x/.venv/Scripts/python.exe")
    assert run.python_of(PurePosixPath("/x/.venv"), "posix") == PurePosixPath("/x/.venv/bin/python")


def test_a_whole_install_is_left_alone(
    run: ModuleType, whole_venv: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.subprocess, "call", lambda *_, **__: pytest.fail("ran pip"))
    assert run.state_of(whole_venv, requirements) == "ready"
    assert run.install(whole_venv, requirements) == ""


def test_changed_requirements_are_installed_on_top(
    run: ModuleType, whole_venv: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(run.subprocess, "call", lambda command: calls.append(command) or 0)
    monkeypatch.setattr(run.venv, "create", lambda *_, **__: pytest.fail("made the venv anew"))
    requirements.write_text("one==2\n")
    assert run.state_of(whole_venv, requirements) == "outdated"
    assert run.install(whole_venv, requirements) == ""
    assert calls[0][1:4] == ["-m", "pip", "install"]
    assert run.state_of(whole_venv, requirements) == "ready"


@pytest.mark.parametrize("damage", ["no folder", "no marker", "no python", "another python"])
def test_a_broken_install_is_redone(
    run: ModuleType, whole_venv: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    if damage == "no folder":
        whole_venv = whole_venv / "elsewhere"
    elif damage == "no marker":
        (whole_venv / run.MARKER).unlink()
    elif damage == "no python":
        run.python_of(whole_venv, os.name).unlink()
    else:
        (whole_venv / run.MARKER).write_text(run.wanted(requirements).replace("python 3", "python 2"))
    assert run.state_of(whole_venv, requirements) == "broken"
    made: list[Path] = []

    def create(folder: Path, clear: bool, with_pip: bool) -> None:
        assert clear
        assert with_pip
        made.append(folder)
        folder.mkdir(exist_ok=True)

    monkeypatch.setattr(run.venv, "create", create)
    monkeypatch.setattr(run.subprocess, "call", lambda command: 0)
    assert run.install(whole_venv, requirements) == ""
    assert made == [whole_venv]


def test_a_failed_pip_is_told_and_leaves_no_marker(
    run: ModuleType, whole_venv: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements.write_text("one==2\n")
    monkeypatch.setattr(run.subprocess, "call", lambda command: 1)
    assert run.install(whole_venv, requirements).startswith("pip could not install")
    assert run.state_of(whole_venv, requirements) == "broken"


def test_without_ensurepip(
    run: ModuleType, tmp_path: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    assert "apt install python3-venv" in run.install(tmp_path / "none", requirements)


def test_a_folder_that_cannot_be_written(
    run: ModuleType, tmp_path: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(folder: Path, clear: bool, with_pip: bool) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(run.venv, "create", create)
    assert run.install(tmp_path / "none", requirements) == f"Could not make {tmp_path / 'none'}: not yours"


def test_unknown_command(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["tset"]) == 2
    assert capsys.readouterr().err == "run.py: Unknown command 'tset'; allowed: demo, test, bench.\n"


def test_no_command_shows_the_help(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([]) == 2
    assert run.main(["--help"]) == 0
    assert "python run.py demo" in capsys.readouterr().out


def test_old_python(run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert run.main(["test"]) == 1
    assert "Python 3.10 or newer is needed" in capsys.readouterr().err


def test_the_first_failing_step_is_named_and_ends_the_run(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def call(command: list[str], cwd: Path) -> int:
        ran.append(command[2])
        return 3 if command[2] == "mypy" else 0

    monkeypatch.setattr(run, "install", lambda *_: "")
    monkeypatch.setattr(run, "install_pages", lambda: "")
    monkeypatch.setattr(run.subprocess, "call", call)
    assert run.main(["test"]) == 3
    assert ran == ["ruff", "mypy"]
    assert capsys.readouterr().err == "run.py: mypy failed (exit code 3).\n"


def test_extra_arguments_go_to_pytest_alone(run: ModuleType) -> None:
    assert [name for name, _ in run.steps_of("test", [])] == ["ruff", "mypy", "import-linter", "pytest"]
    assert run.steps_of("test", ["-k", "x"]) == [("pytest", ["-m", "pytest", "-k", "x"])]
    assert run.steps_of("bench", ["-k", "x"])[0][1][-2:] == ["-k", "x"]


def test_bench_quality_is_the_score_in_pictures(run: ModuleType) -> None:
    assert run.steps_of("bench", ["quality", "--seeds", "4"]) == [
        ("bench quality", ["-m", "lib_pm", "bench", "quality", "--seeds", "4"])
    ]
    assert run.steps_of("bench", ["-k", "ties"])[0][1][:2] == ["-m", "pytest"]


@pytest.fixture
def pages(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Nothing is installed and no Chromium is there; what would have been run, in order."""
    ran: list[list[str]] = []
    monkeypatch.setattr(run.os, "environ", {"PATH": ""})
    monkeypatch.setattr(run.sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(run, "install", lambda folder, requirements: ran.append([folder.name, requirements.name]) or "")
    monkeypatch.setattr(run.subprocess, "call", lambda command: ran.append(command[1:]) or 0)
    return ran


def test_each_gradio_gets_a_venv_and_playwright_its_chromium(run: ModuleType, pages: list[list[str]]) -> None:
    assert run.install_pages() == ""
    assert pages == [
        [".venv-gradio3", "requirements-gradio3.txt"],
        [".venv-gradio4", "requirements-gradio4.txt"],
        ["-m", "playwright", "install", "chromium"],
    ]
    assert run.os.environ["PM_BROWSER_TESTS"] == "required"
    assert all(requirements.is_file() for requirements in run.PAGES.values())


def test_a_chromium_that_is_there_is_taken(run: ModuleType, pages: list[list[str]]) -> None:
    run.os.environ["PM_CHROMIUM"] = "/somewhere/chrome"
    assert run.install_pages() == ""
    assert ["-m", "playwright", "install", "chromium"] not in pages


def test_without_any_chromium(run: ModuleType, pages: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.subprocess, "call", lambda command: 1)
    assert "PM_CHROMIUM" in run.install_pages()
    assert "PM_BROWSER_TESTS" not in run.os.environ


def test_a_python_that_no_webui_runs_on_has_no_browser_tests_and_says_so(
    run: ModuleType, pages: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.sys, "version_info", (3, 13, 0))
    assert run.install_pages() == ""
    assert pages == []
    assert "BROWSER TESTS ARE LEFT OUT: the WebUIs' gradio runs on Python 3.12 at most" in capsys.readouterr().out
