"""The REST interface is asked whatever: each answer is what was asked for, or what is wrong with the request."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_pm.webui.api import PREFIX, add_routes
from tests.fuzz.requests import VALID, requests
from tests.workspaces import make_workspace

COUNT = int(os.environ.get("PM_FUZZ", "1000"))  # requests
JSON = {"content-type": "application/json"}


def test_every_answer_is_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace, app = make_workspace(tmp_path), FastAPI()
    add_routes(app, workspace, None)
    answers: Counter[int] = Counter()
    states: Counter[str] = Counter()
    wrong: list[str] = []
    caplog.set_level(logging.ERROR)
    with TestClient(app, raise_server_exceptions=False) as http:  # one event loop for all requests
        for number, (method, path, content) in enumerate(requests(1, COUNT)):
            answer = http.request(method, f"{PREFIX}/{path}", content=content, headers=JSON)
            answers[answer.status_code] += 1
            asked = f"{number}: {method} {path[:100]} {(content or b'')[:1000]!r} -> {answer.status_code}"
            if answer.status_code >= 500 or str(tmp_path) in answer.text:
                wrong.append(f"{asked} {answer.text[:1000]}")
                continue
            said = json.loads(answer.content, parse_constant=refuse)
            if answer.status_code == 200 and method == "POST":
                job = workspace.queue.find(said["id"])
                assert job.wait(60), asked
                states[job.state] += 1
                if caplog.records:  # it failed, and not by the user's mistake
                    wrong.append(f"{asked} {job.error}")
                    caplog.clear()
                json.loads(http.get(f"{PREFIX}/jobs/{job.id}").content, parse_constant=refuse)
        for path, body in VALID.items():  # and it still works
            job = workspace.queue.find(http.post(f"{PREFIX}/{path}", json=body).json()["id"])
            assert job.wait(60)
            assert job.state == "done"
    assert not wrong, "\n".join(wrong)
    assert answers.keys() >= {200, 400, 404, 422}, answers
    assert states["done"] > COUNT / 100, states


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")
