"""Marks what is slow, and says what one worker of several does by itself because its tests share something dear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

# Many small decompositions: on two threads each waits for the other, several times longer than one alone takes.
torch.set_num_threads(1)

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

TESTS = Path(__file__).parent
SLOW = (  # they start a WebUI's double, a browser, a process or a trained model, or try thousands of cases
    "browser",
    "demo",
    "host",
    "pipeline",
    "webui/test_live.py",
    "webui/test_tab.py",
    "webui/test_xyz.py",
    "webui/test_xyz_menu.py",
    "webui/test_api_whatever.py",
    "fuzz",
    "merging/test_sharing.py",
    "test_chromium.py",
    "test_cli_process.py",
    "test_laws.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _rank(item) < len(SLOW):
            item.add_marker("slow")
    items.sort(key=_rank)  # long ones first, so that two workers end at the same time


def _rank(item: pytest.Item) -> int:
    """Return the number of the item's row in SLOW, its length for a quick one."""
    place = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
    return next((rank for rank, slow in enumerate(SLOW) if place.startswith(slow)), len(SLOW))


class ByWhatTheyShare(LoadScopeScheduling):
    """One worker gets all tests of a file, all of the trained model, or all of a browser and one gradio."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        room = file.split("/")[1]
        if room == "browser":
            return next((f"{room} {venv}" for venv in ("gradio3", "gradio4") if venv in test), file)
        return room if room == "demo" else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    # pytest 9.2 does not see the groups of xdist 3.8's own --dist loadgroup
    return ByWhatTheyShare(config, log)
