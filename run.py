"""Power Merger on a bare machine: makes .venv beside this file, installs requirements-dev.txt into it, runs the work.

The tests also get a Chromium if the machine has none, and .venv-gradio3 and .venv-gradio4: the gradio of each WebUI.

    python run.py demo [--no-page]      merges LoRAs on a small trained model, opens a page to try it all
    python run.py test [pytest args]    style, types, import directions, tests; with arguments only pytest
    python run.py bench [pytest args]   the benchmarks
    python run.py bench quality         how much merges keep of their LoRAs, seen in pictures; takes hours

Needs Python 3.10 and nothing else: standard library only.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements-dev.txt"
PAGES = {  # the gradio of A1111 and that of Forge, each alone: the browser tests look at a page of either
    ROOT / ".venv-gradio3": ROOT / "tests" / "browser" / "requirements-gradio3.txt",
    ROOT / ".venv-gradio4": ROOT / "tests" / "browser" / "requirements-gradio4.txt",
}
MARKER = "installed.txt"  # inside the venv, written last: says what the install that came to its end was
OLDEST = (3, 10)
NEWEST_FOR_PAGES = (3, 12)  # the WebUIs' gradio needs modules of Python's that 3.13 has no more


def main(arguments):
    if sys.version_info < OLDEST:
        return fail(f"Python {dotted(OLDEST)} or newer is needed; this is {sys.version.split()[0]}.")
    command, extra = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("", "-h", "--help"):
        print(__doc__.strip())
        return 0 if command else 2
    steps = steps_of(command, extra)
    if not steps:
        return fail(f"Unknown command {command!r}; allowed: demo, test, bench.", 2)
    problem = install(VENV, REQUIREMENTS) or (install_pages() if command == "test" else "")
    if problem:
        return fail(problem)
    for name, work in steps:
        code = subprocess.call([str(python_of(VENV, os.name)), *work], cwd=ROOT)
        if code:
            return fail(f"{name} failed (exit code {code}).", code)
    return 0


def steps_of(command, extra):
    """The work of a command as (name, arguments for Python), in order; [] for an unknown command."""
    if command == "demo":
        return [("demo", ["-m", "lib_pm.demo", *extra])]
    if command == "bench" and extra[:1] == ["quality"]:
        return [("bench quality", ["-m", "lib_pm", "bench", *extra])]
    if command == "bench":
        return [("bench", ["-m", "pytest", "tests/bench", "-o", "python_files=bench_*.py", *extra])]
    if command == "test":
        checks = [
            ("ruff", ["-m", "ruff", "check", "."]),
            ("mypy", ["-m", "mypy"]),
            ("import-linter", ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]),
        ]
        return [*([] if extra else checks), ("pytest", ["-m", "pytest", *extra])]
    return []


def dotted(version):
    return ".".join(str(number) for number in version)


def python_of(folder, os_name):
    """The Python of a venv. os_name: `os.name`, which is "nt" on Windows."""
    return folder / "Scripts" / "python.exe" if os_name == "nt" else folder / "bin" / "python"


def wanted(requirements):
    """What the marker says after a whole install: this Python, and these requirements."""
    return f"python {sys.version.split()[0]}\n{hashlib.sha256(requirements.read_bytes()).hexdigest()}\n"


def state_of(folder, requirements):
    """ "ready", "outdated" (whole, but for other requirements) or "broken" (none, half, or another Python's)."""
    marker = folder / MARKER
    if not python_of(folder, os.name).exists() or not marker.is_file():
        return "broken"
    found, want = marker.read_text(encoding="utf-8"), wanted(requirements)
    if found == want:
        return "ready"
    return "outdated" if found.splitlines()[:1] == want.splitlines()[:1] else "broken"


def install(folder, requirements):
    """Make the venv ready; returns one line that says what is wrong, or ""."""
    state = state_of(folder, requirements)
    if state == "ready":
        return ""
    if state == "broken":
        if importlib.util.find_spec("ensurepip") is None:
            return "This Python cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv."
        print(f"Making {folder} ...", flush=True)
        try:
            venv.create(folder, clear=True, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"Could not make {folder}: {error}"
    (folder / MARKER).unlink(missing_ok=True)
    print(f"Installing {requirements.name} into it, once; this takes a few minutes ...", flush=True)
    pip = [str(python_of(folder, os.name)), "-m", "pip", "install", "--disable-pip-version-check"]
    if subprocess.call([*pip, "-r", str(requirements)]):
        return "pip could not install the requirements (see above); check network and free disk space, then repeat."
    (folder / MARKER).write_text(wanted(requirements), encoding="utf-8")
    return ""


def install_pages():
    """Make ready what the browser tests need; returns as `install`. They fail from then on where they would skip."""
    if sys.version_info[:2] > NEWEST_FOR_PAGES:
        print(f"BROWSER TESTS ARE LEFT OUT: the WebUIs' gradio runs on Python {dotted(NEWEST_FOR_PAGES)} at most.")
        return ""
    for folder, requirements in PAGES.items():
        problem = install(folder, requirements)
        if problem:
            return problem
    if not chromium_of(os.environ):
        playwright = [str(python_of(VENV, os.name)), "-m", "playwright", "install", "chromium"]
        if subprocess.call(playwright):
            return "Playwright could not get its Chromium (see above); PM_CHROMIUM may name one that is there."
    os.environ["PM_BROWSER_TESTS"] = "required"
    return ""


def chromium_of(environ):
    """The Chromium that is on this machine, "" for none: Playwright then takes its own."""
    return environ.get("PM_CHROMIUM") or shutil.which("chromium", path=environ.get("PATH")) or ""


def fail(message, code=1):
    print(f"run.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
