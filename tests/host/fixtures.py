"""`server`: each double in turn, or the real WebUI at PM_WEBUI_URL. `double`: each double, with the probe instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.chosen import KINDS, URL
from tests.host.double import Double, running
from tests.host.http import HttpServer
from tests.host.server import Server


@pytest.fixture(params=["http"] if URL else KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if request.param == "http":
        with HttpServer(URL).cleaned_up() as http:
            yield http
    else:
        with running(request.param, tmp_path) as double:
            yield double
            swallowed = [trace for trace in double.swallowed() if "lib_pm" in trace or "power_merger" in trace]
            assert not swallowed, swallowed[0]  # it would pass for an image without the merge


@pytest.fixture(params=KINDS)
def double(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Double]:
    probe = Path(__file__).parent / "probe"
    with running(request.param, tmp_path, extensions={"probe": probe}) as started:
        yield started


@pytest.fixture
def hooks(double: Double) -> dict[str, Any]:
    """Callback's name -> what the probe does in it."""
    return double.probe.HOOKS
