"""`server`: each double in turn, or the real WebUI at PM_WEBUI_URL. `double`: each double, with the probe instead.

A `server` is one for all tests of a module, as the real one is for all; a `double` is fresh in each test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.chosen import KINDS, URL
from tests.host.double import Double, nothing_swallowed, running
from tests.host.http import HttpServer
from tests.host.server import Server


@pytest.fixture(scope="module", params=["http"] if URL else KINDS)
def _server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "http":
        yield HttpServer(URL)
    else:
        with running(request.param, tmp_path_factory.mktemp(request.param)) as double:
            yield double


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    if isinstance(_server, HttpServer):
        with _server.cleaned_up() as http:
            yield http
        return
    assert isinstance(_server, Double)
    with nothing_swallowed(_server):
        yield _server


@pytest.fixture(params=KINDS)
def double(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Double]:
    probe = Path(__file__).parent / "probe"
    with running(request.param, tmp_path, extensions={"probe": probe}) as started:
        yield started


@pytest.fixture
def hooks(double: Double) -> dict[str, Any]:
    """Callback's name -> what the probe does in it."""
    return double.probe.HOOKS
