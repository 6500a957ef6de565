"""run.py's own logic; the installs themselves are what CI does first."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any

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
    path = tmp_path / "requirements-dev.txt"
    path.write_text("one==1\n")
    return path


@pytest.fixture
def whole_venv(run: ModuleType, tmp_path: Path, requirements: Path) -> Path:
    folder = tmp_path / ".venv"
    python = run.python_of(folder, os.name)
    python.parent.mkdir(parents=True)
    python.touch()
    (folder / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {sys.version.split()[0]}\n")
    (folder / run.MARKER).write_text(run.wanted(requirements))
    return folder


@pytest.fixture
def pip(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Nothing is installed; what would have been run. pip is there, and whatever it is asked to do succeeds."""
    calls: list[list[str]] = []
    monkeypatch.setattr(run.subprocess, "call", lambda command, **_: calls.append(command[1:]) or 0)
    monkeypatch.setattr(run.venv, "create", lambda *_, **__: pytest.fail("made the venv anew"))
    return calls


def installs(calls: list[list[str]]) -> int:
    return sum(call[:3] == ["-m", "pip", "install"] for call in calls)


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
    run: ModuleType, whole_venv: Path, requirements: Path, pip: list[list[str]]
) -> None:
    requirements.write_text("one==2\n")
    assert run.state_of(whole_venv, requirements) == "unfinished"
    assert run.install(whole_venv, requirements) == ""
    assert installs(pip) == 1
    assert run.state_of(whole_venv, requirements) == "ready"


def test_the_demo_is_content_with_more_than_it_needs(
    run: ModuleType, whole_venv: Path, requirements: Path, pip: list[list[str]], tmp_path: Path
) -> None:
    demo = tmp_path / "requirements-demo.txt"
    demo.write_text("two==1\n")
    requirements.write_text("-r requirements-demo.txt\none==1\n")
    assert run.files_of(requirements) == [demo, requirements]
    assert run.install(whole_venv, demo) == ""
    assert run.state_of(whole_venv, demo) == "ready"
    assert run.state_of(whole_venv, requirements) == "unfinished", "that has the demo's only"
    assert run.install(whole_venv, requirements) == ""
    assert [run.state_of(whole_venv, file) for file in (demo, requirements)] == ["ready", "ready"]
    assert installs(pip) == 2
    demo.write_text("two==2\n")  # is in both
    assert [run.state_of(whole_venv, file) for file in (demo, requirements)] == ["unfinished", "unfinished"]


@pytest.mark.parametrize(("command", "file"), [("demo", "requirements-demo.txt"), ("bench", "requirements-dev.txt")])
def test_each_command_installs_what_it_needs(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, command: str, file: str
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(run, "install", lambda _, requirements: asked.append(requirements) or "enough")
    assert run.main([command]) == 1
    assert [path.name for path in asked] == [file]
    assert asked[0].is_file()


def test_a_patch_release_of_python_goes_on_with_what_is_there(
    run: ModuleType, whole_venv: Path, requirements: Path, pip: list[list[str]]
) -> None:
    marker = whole_venv / run.MARKER
    older = ".".join(map(str, sys.version_info[:2])) + ".0"
    marker.write_text(marker.read_text().replace(run.version(), f"python {older}"))  # as earlier ones were written
    (whole_venv / "pyvenv.cfg").write_text(f"version = {older}\n")
    assert run.state_of(whole_venv, requirements) == "ready"
    assert run.install(whole_venv, requirements) == ""
    assert pip == []


@pytest.mark.parametrize("fault", [1, KeyboardInterrupt])
def test_a_failed_or_stopped_update_goes_on_from_what_is_there(
    run: ModuleType,
    whole_venv: Path,
    requirements: Path,
    pip: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
) -> None:
    old = requirements.read_text()
    requirements.write_text("one==2\n")

    def call(command: list[str], **_: Any) -> int:
        if "install" in command and fault is KeyboardInterrupt:
            raise fault
        return int("install" in command)

    with monkeypatch.context() as patch:
        patch.setattr(run.subprocess, "call", call)
        if fault is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                run.install(whole_venv, requirements)
        else:
            assert run.install(whole_venv, requirements).startswith("pip could not install")
    requirements.write_text(old)  # nor is a half update what there was before
    assert run.state_of(whole_venv, requirements) == "unfinished"
    assert run.install(whole_venv, requirements) == ""
    assert installs(pip) == 1
    assert run.state_of(whole_venv, requirements) == "ready"


def made(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
    calls: list[tuple[Path, bool]] = []

    def create(folder: Path, clear: bool, with_pip: bool) -> None:
        assert with_pip
        calls.append((folder, clear))
        folder.mkdir(exist_ok=True)

    monkeypatch.setattr(run.venv, "create", create)
    return calls


@pytest.mark.parametrize("damage", ["no folder", "nothing in it", "another python"])
def test_a_venv_that_this_python_cannot_use_is_made_anew(
    run: ModuleType,
    whole_venv: Path,
    requirements: Path,
    pip: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    if damage == "no folder":
        whole_venv = whole_venv.with_name("elsewhere") / ".venv"
        whole_venv.parent.mkdir()
    elif damage == "nothing in it":
        (whole_venv / "pyvenv.cfg").unlink()
    else:
        (whole_venv / "pyvenv.cfg").write_text("version = 3.9.1\n")
    assert run.state_of(whole_venv, requirements) == "none"
    calls = made(run, monkeypatch)
    assert run.install(whole_venv, requirements) == ""
    assert calls == [(whole_venv, True)]
    assert installs(pip) == 1


@pytest.mark.skipif(os.name == "nt", reason="a venv has links to Python only elsewhere")
@pytest.mark.parametrize("damage", ["no python", "python that does not run", "no pip"])
def test_a_damaged_venv_is_mended_and_keeps_its_packages(
    run: ModuleType, whole_venv: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """As when the Python that it was made with has given way to its next patch release, elsewhere."""
    python = run.python_of(whole_venv, os.name)
    python.unlink()
    if damage == "python that does not run":
        python.symlink_to(whole_venv / "gone")
    elif damage == "no pip":
        python.symlink_to(sys.executable)
        (whole_venv / run.MARKER).unlink()
        monkeypatch.setattr(run, "runs", lambda *_: False)
    monkeypatch.setattr(run.subprocess, "call", lambda command, **_: 0 if "install" in command else 1)
    package = whole_venv / "lib" / "package.py"
    package.parent.mkdir()
    package.touch()
    create = run.venv.create
    monkeypatch.setattr(run.venv, "create", lambda folder, clear, with_pip: create(folder, clear=clear))
    assert run.state_of(whole_venv, requirements) == "damaged"
    assert run.install(whole_venv, requirements) == ""
    assert run.subprocess.run([python, "-c", ""], check=True)
    assert package.exists()
    assert run.state_of(whole_venv, requirements) == "ready"


def test_sizes_are_told_before_anything_is_downloaded(
    run: ModuleType,
    whole_venv: Path,
    requirements: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    requirements.write_text("one==2\n")
    said: list[str] = []

    def call(command: list[str], **_: Any) -> int:
        said.append(capsys.readouterr().out)
        return 0

    monkeypatch.setattr(run.subprocess, "call", call)
    monkeypatch.setattr(run, "VENV", whole_venv)
    monkeypatch.setattr(run.sys, "platform", "linux")
    assert run.install(whole_venv, requirements) == ""
    assert "0.7 GB to download and 2.2 GB of disk" in "".join(said)
    assert "CUDA build" in "".join(said)


def test_a_disk_without_room(
    run: ModuleType, tmp_path: Path, requirements: Path, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = run.shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage)
    assert "2.2 GB" in run.install(tmp_path / ".venv", requirements)
    assert pip == []


def test_without_ensurepip(
    run: ModuleType, tmp_path: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    assert "apt install python3-venv" in run.install(tmp_path / ".venv", requirements)


def test_a_folder_that_cannot_be_written(
    run: ModuleType, tmp_path: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(folder: Path, clear: bool, with_pip: bool) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(run.venv, "create", create)
    assert run.install(tmp_path / ".venv", requirements) == f"Could not make {tmp_path / '.venv'}: not yours"


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


def test_fast_is_everything_without_the_slow_tests(run: ModuleType) -> None:
    *checks, (_, whole) = run.steps_of("test", [])
    assert run.steps_of("test", ["--fast"]) == [*checks, ("pytest", [*whole, "-m", "not slow"])]


def test_bench_quality_is_the_score_in_pictures(run: ModuleType) -> None:
    assert run.steps_of("bench", ["quality", "--seeds", "4"]) == [
        ("bench quality", ["-m", "demo.quality", "--seeds", "4"])
    ]
    assert run.steps_of("bench", ["-k", "ties"])[0][1][:2] == ["-m", "pytest"]


@pytest.fixture
def pages(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Nothing is installed, and no Chromium starts until Playwright gets one; what would have been run, in order."""
    ran: list[list[str]] = []
    monkeypatch.setattr(run.os, "environ", {"PATH": ""})
    monkeypatch.setattr(run.sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(run, "install", lambda folder, requirements: ran.append([folder.name, requirements.name]) or "")
    monkeypatch.setattr(run.subprocess, "call", lambda command: ran.append(command[1:]) or 0)
    got = ["-m", "playwright", "install", "chromium"]
    monkeypatch.setattr(run, "chromium_problem", lambda: "" if got in ran else "chrome does not start (no libnss3)")
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


def test_a_chromium_that_starts_is_taken(
    run: ModuleType, pages: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "chromium_problem", lambda: "")
    assert run.install_pages() == ""
    assert ["-m", "playwright", "install", "chromium"] not in pages
    assert run.os.environ["PM_BROWSER_TESTS"] == "required"


@pytest.mark.parametrize("environ", [{}, {"PM_CHROMIUM": "/opt/chrome"}, {"PM_BROWSER_TESTS": "required"}])
def test_where_no_chromium_starts_the_tests_are_left_out_with_a_word_or_are_a_problem(
    run: ModuleType,
    pages: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
) -> None:
    run.os.environ.update(environ)
    monkeypatch.setattr(run, "chromium_problem", lambda: "chrome does not start (no libnss3)")
    problem, told = run.install_pages(), capsys.readouterr().out
    if "PM_BROWSER_TESTS" in environ:
        assert "chrome does not start" in problem
    else:
        assert problem == ""
        assert "BROWSER TESTS ARE LEFT OUT: chrome does not start (no libnss3)" in told
        assert "PM_BROWSER_TESTS" not in run.os.environ
    assert (["-m", "playwright", "install", "chromium"] in pages) == ("PM_CHROMIUM" not in environ), "that was chosen"


def test_the_problem_is_what_the_tests_own_look_finds(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright")
    monkeypatch.setattr(run, "python_of", lambda *_: Path(sys.executable))
    monkeypatch.setenv("PM_CHROMIUM", sys.executable)  # which starts, and is no browser
    assert f"{sys.executable} does not start" in run.chromium_problem()
    assert "playwright install" in run.chromium_problem()


def test_a_python_that_no_webui_runs_on_has_no_browser_tests_and_says_so(
    run: ModuleType, pages: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.sys, "version_info", (3, 13, 0))
    assert run.install_pages() == ""
    assert pages == []
    assert "BROWSER TESTS ARE LEFT OUT: the WebUIs' gradio runs on Python 3.12 at most" in capsys.readouterr().out
