"""Which servers the tests run on."""

from __future__ import annotations

import os

import pytest

from tests.host.server import Kind

URL = os.environ.get("PM_WEBUI_URL", "")
KINDS: tuple[Kind, ...] = ("a1111", "forge")
by_double_only = pytest.mark.skipif(bool(URL), reason="cannot be asked for through the API")
