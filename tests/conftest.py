"""Marks by room: what is slow, and what one worker of several does by itself because it shares something dear."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
import torch

# Many small decompositions: on two threads each waits for the other, several times longer than one alone takes.
torch.set_num_threads(1)

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

TESTS = Path(__file__).parent
SLOW = (  # they start a WebUI's double, a browser, a process or a trained model, or try thousands of cases
    "host",
    "webui/test_live.py",
    "webui/test_tab.py",
    "webui/test_xyz.py",
    "webui/test_xyz_menu.py",
    "webui/test_api_whatever.py",
    "pipeline",
    "browser",
    "demo",
    "fuzz",
    "merging/test_sharing.py",
    "test_chromium.py",
    "test_cli_process.py",
    "test_laws.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        room = place.partition("/")[0]
        if room in SLOW or place in SLOW:
            item.add_marker("slow")
        if room in ("browser", "demo"):  # one server, or one model, for all of them
            parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            item.add_marker(pytest.mark.xdist_group(f"{room} {parameters.get('venv', '')}"))
