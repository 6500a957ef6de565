"""Power Merger on a bare machine: makes .venv beside this file, installs what a command needs into it, runs the work.

The demo needs requirements-demo.txt, the others requirements-dev.txt.
The tests also get a Chromium if the machine has none, and .venv-gradio3 and .venv-gradio4: the gradio of each WebUI.

    python run.py demo [--no-page]      a page on which LoRAs are merged on a small trained model
    python run.py test                  style, types, import directions, tests, on two cores
    python run.py test --fast           the same without the slow tests: what one runs while working
    python run.py test [pytest args]    only pytest, with these arguments
    python run.py bench [pytest args]   the benchmarks
    python run.py bench quality         how much merges keep of their LoRAs, seen in pictures; takes hours

Needs Python 3.10 and nothing else: standard library only.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
DEMO = ROOT / "requirements-demo.txt"
REQUIREMENTS = ROOT / "requirements-dev.txt"  # has those of the demo in it
PAGES = {  # the gradio of A1111 and that of Forge, each alone: the browser tests look at a page of either
    ROOT / ".venv-gradio3": ROOT / "tests" / "browser" / "requirements-gradio3.txt",
    ROOT / ".venv-gradio4": ROOT / "tests" / "browser" / "requirements-gradio4.txt",
}
MARKER = "installed.txt"  # inside the venv: says which requirements are there, or that an install did not end
SIZES = {  # GB: to download, on disk
    "requirements-demo.txt": (0.3, 1.5),
    "requirements-dev.txt": (0.7, 2.2),
    "requirements-gradio3.txt": (0.1, 0.4),
    "requirements-gradio4.txt": (0.1, 0.4),
}
CUDA_BUILD = (
    "If torch comes as its CUDA build, as by itself on Linux, it is 2.5 GB more to download and 5 GB more on disk; "
    "CONTRIBUTING.md says how to get the CPU build."
)
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
    problem = install(VENV, DEMO if command == "demo" else REQUIREMENTS)
    if not problem and command == "test" and extra != ["--fast"]:
        problem = install_pages()
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
        return [("demo", ["-m", "demo", *extra])]
    if command == "bench" and extra[:1] == ["quality"]:
        return [("bench quality", ["-m", "demo.quality", *extra[1:]])]
    if command == "bench":
        return [("bench", ["-m", "pytest", "bench", "-o", "python_files=bench_*.py", *extra])]
    if command == "test":
        checks = [
            ("ruff", ["-m", "ruff", "check", "."]),
            ("mypy", ["-m", "mypy"]),
            ("import-linter", ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]),
        ]
        whole = ["-n", "2", "--no-loadscope-reorder"]
        if extra in ([], ["--fast"]):
            return [*checks, ("pytest", ["-m", "pytest", *whole, *(["-m", "not slow"] if extra else [])])]
        return [("pytest", ["-m", "pytest", *extra])]
    return []


def dotted(version):
    return ".".join(str(number) for number in version)


def python_of(folder, os_name):
    """The Python of a venv. os_name: `os.name`, which is "nt" on Windows."""
    return folder / "Scripts" / "python.exe" if os_name == "nt" else folder / "bin" / "python"


def wanted(requirements):
    """Return the marker's text after a whole install: this Python, and each file of requirements with its hash."""
    lines = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files_of(requirements)]
    return "\n".join([version(), *lines, ""])


def files_of(requirements):
    """Return the files of requirements that one includes, and itself last."""
    included = re.findall(r"^-r +(\S+)", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return [*(file for name in included for file in files_of(requirements.parent / name)), requirements]


def version():
    """This Python's, without the third number: all releases of 3.11 go on with the packages of one."""
    return f"python {dotted(sys.version_info[:2])}"


def state_of(folder, requirements):
    """ "ready", "unfinished" (pip can go on), "damaged" (its Python or pip does not run), "none" (for this Python)."""
    config = folder / "pyvenv.cfg"
    made_by = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", text_of(config), re.MULTILINE)
    if not made_by or f"python {made_by[1]}" != version():
        return "none"
    python = python_of(folder, os.name)
    found = re.sub(r"^(python \d+\.\d+)\S*", r"\1", text_of(folder / MARKER))  # older ones have all three numbers
    if python.exists() and set(wanted(requirements).splitlines()) <= set(found.splitlines()):  # more may be there
        return "ready"
    return "unfinished" if runs(python, "-c", "import pip") else "damaged"


def text_of(path):
    """The text of a file, none where there is no such file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def runs(python, *arguments):
    try:
        return not subprocess.call([str(python), *arguments], stderr=subprocess.DEVNULL)
    except OSError:
        return False


def install(folder, requirements):
    """Make the venv ready; returns one line that says what is wrong, or "".

    What a stopped or failed install got is kept: the next one goes on from there.
    """
    state = state_of(folder, requirements)
    if state == "ready":
        return ""
    download, disk = SIZES[requirements.name]
    if state == "none" and shutil.disk_usage(folder.parent).free < disk * 10**9:
        return f"{folder} needs about {disk} GB, which this disk does not have free."
    if state in ("none", "damaged"):
        if importlib.util.find_spec("ensurepip") is None:
            return "This Python cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv."
        print(f"Making {folder} ...", flush=True)
        try:
            make(folder, anew=state == "none")
        except (OSError, subprocess.CalledProcessError) as error:
            return f"Could not make {folder}: {error}"
    (folder / MARKER).write_text(f"{version()}\nunfinished\n", encoding="utf-8")
    print(f"Installing {requirements.name} into it, once; this takes a few minutes.", flush=True)
    print(f"All of it is about {download} GB to download and {disk} GB of disk. What is there is used.", flush=True)
    if folder == VENV and sys.platform == "linux":
        print(CUDA_BUILD, flush=True)
    pip = [str(python_of(folder, os.name)), "-m", "pip", "install", "--disable-pip-version-check"]
    if subprocess.call([*pip, "-r", str(requirements)]):
        return "pip could not install the requirements (see above); check network and disk, then repeat: it goes on."
    (folder / MARKER).write_text(wanted(requirements), encoding="utf-8")
    return ""


def make(folder, anew):
    """A venv with pip. anew: without what is there; else the packages stay."""
    if not anew:  # links to a Python that is gone would stay
        for link in python_of(folder, os.name).parent.glob("python*"):
            link.unlink()
    venv.create(folder, clear=anew, with_pip=True)


def install_pages():
    """Make ready what the browser tests need; returns as `install`.

    Where no Chromium starts, they are left out with a word, or it is a problem if PM_BROWSER_TESTS is "required".
    """
    if sys.version_info[:2] > NEWEST_FOR_PAGES:
        print(f"BROWSER TESTS ARE LEFT OUT: the WebUIs' gradio runs on Python {dotted(NEWEST_FOR_PAGES)} at most.")
        return ""
    for folder, requirements in PAGES.items():
        problem = install(folder, requirements)
        if problem:
            return problem
    problem = chromium_problem()
    if problem and "PM_CHROMIUM" not in os.environ:
        print("Getting Playwright's Chromium, about 0.2 GB to download and 0.4 GB of disk ...", flush=True)
        if not subprocess.call([str(python_of(VENV, os.name)), "-m", "playwright", "install", "chromium"]):
            problem = chromium_problem()
    if not problem:
        os.environ["PM_BROWSER_TESTS"] = "required"
    elif os.environ.get("PM_BROWSER_TESTS") == "required":
        return f"No Chromium starts for the tests in a browser: {problem}"
    else:
        print(f"BROWSER TESTS ARE LEFT OUT: {problem}", flush=True)
    return ""


def chromium_problem():
    """What keeps every Chromium of this machine from starting, "" if one does."""
    command = [str(python_of(VENV, os.name)), "-m", "tests.browser.chromium"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (found.stdout + found.stderr).strip().splitlines()
    return lines[-1] if found.returncode and lines else ""


def fail(message, code=1):
    print(f"run.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
