"""Which Chromium the browser tests run in, and whether it starts.

`python -m tests.browser.chromium` says in one line what is wrong, and ends with 1 then.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

COMMANDS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    *("chrome", "msedge", "microsoft-edge", "microsoft-edge-stable"),
)
APPLICATIONS = ("Chromium", "Google Chrome", "Microsoft Edge")  # macOS
PROGRAMS = (r"Google\Chrome\Application\chrome.exe", r"Microsoft\Edge\Application\msedge.exe")  # Windows
FOLDERS = ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
WAY_OUT = (
    "PM_CHROMIUM=/path/to/chrome names another; `playwright install --with-deps chromium` (as root) gets one with the "
    "system libraries that it needs"
)


def candidates(environ: Mapping[str, str], platform: str) -> Iterator[str]:
    """What to try, in order; "" stands for Playwright's own. platform: `sys.platform`."""
    if named := environ.get("PM_CHROMIUM"):
        yield named
        return
    for command in COMMANDS:
        if found := shutil.which(command, path=environ.get("PATH", "")):
            yield found
    places = []
    if platform == "darwin":
        places = [f"/Applications/{name}.app/Contents/MacOS/{name}" for name in APPLICATIONS]
    elif platform == "win32":
        places = [f"{environ[folder]}\\{program}" for program in PROGRAMS for folder in FOLDERS if folder in environ]
    yield from (place for place in places if Path(place).is_file())
    yield ""


@functools.cache
def usable() -> tuple[str, str]:
    """The first one that starts, and "" ; or "" and what is wrong with each."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return "", "playwright is not installed"
    problems = []
    with sync_playwright() as playwright:
        for path in candidates(os.environ, sys.platform):
            try:
                playwright.chromium.launch(executable_path=path or None).close()
            except Error as error:
                said = next(line for line in str(error).splitlines() if line.strip())
                problems.append(f"{path or 'the Chromium of Playwright'} does not start ({said.strip()})")
            else:
                return path, ""
    return "", f"{'; '.join(problems)}. {WAY_OUT}"


if __name__ == "__main__":
    problem = usable()[1]
    print(problem)
    sys.exit(1 if problem else 0)
