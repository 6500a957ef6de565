"""A page of another origin, in a real browser, cannot write a LoRA or cancel a job over the REST interface."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.browser.conftest import Serve
from tests.loras import make_lora
from tests.workspaces import SHAPES

MERGE = {"text": "<lora:style:1>", "name": "mine", "overwrite": True, "device": "cpu"}
TRIES = {  # each is a page's script, given the address and the body
    "no type": "fetch(address, {method: 'POST', mode: 'no-cors', body: new Blob([body])})",
    "text": "fetch(address, {method: 'POST', mode: 'no-cors', body})",
    "json": "fetch(address, {method: 'POST', body, headers: {'Content-Type': 'application/json'}})",
    "buffer": "fetch(address, {method: 'POST', mode: 'no-cors', body: new TextEncoder().encode(body)})",
    "beacon": "navigator.sendBeacon(address, new Blob([body]))",
    "delete": "fetch(address, {method: 'DELETE'})",
    "form": """new Promise(done => {
        const frame = document.body.appendChild(document.createElement('iframe'))
        const form = frame.contentDocument.body.appendChild(frame.contentDocument.createElement('form'))
        const field = form.appendChild(frame.contentDocument.createElement('input'))
        Object.assign(form, {action: address, method: 'POST', enctype: 'text/plain'})
        ;[field.name, field.value] = [body.slice(0, -1) + ', "x": "', '"}']
        frame.onload = done
        form.submit()
    })""",
}


class _Page(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body></body>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The address of a page of another origin: another port of the same machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.05))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("style", "mine")):
        save_file(make_lora(SHAPES, 2, seed=seed), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def api(serve: Serve, folder: Path) -> str:
    return f"{serve('api', folder)}/power-merger/v1"


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    yield page
    page.close()


def ask(address: str, body: Any = None) -> Any:
    """As a program does."""
    request = urllib.request.Request(
        address, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def jobs_that_ended(api: str) -> list[dict[str, Any]]:
    while any(job["state"] in ("waiting", "running") for job in ask(f"{api}/jobs")):
        pass
    return list(ask(f"{api}/jobs"))


@pytest.mark.parametrize("name", TRIES)
@pytest.mark.parametrize("machine", ["127.0.0.1", "localhost"])
def test_a_page_from_elsewhere_changes_nothing(
    page: Any, elsewhere: str, api: str, folder: Path, name: str, machine: str
) -> None:
    page.goto(elsewhere.replace("127.0.0.1", machine))
    before = hashlib.sha256((folder / "mine.safetensors").read_bytes()).hexdigest()
    jobs = ask(f"{api}/jobs")
    script = f"([address, body]) => Promise.resolve({TRIES[name]}).then(() => 'sent', String)"
    path = "jobs/nothing" if name == "delete" else "merge"
    with page.expect_request(lambda request: request.url == f"{api}/{path}") as sent:
        page.evaluate(script, [f"{api}/{path}", json.dumps(MERGE)])
    assert sent.value.method == ("DELETE" if name == "delete" else "POST")
    assert jobs_that_ended(api) == jobs, "no job began"
    assert hashlib.sha256((folder / "mine.safetensors").read_bytes()).hexdigest() == before


def test_a_program_and_a_page_of_its_own_may(page: Any, api: str, folder: Path) -> None:
    """So the tests above fail for the page's sake, not for the request's."""
    page.goto(f"{api}/jobs")
    body = json.dumps(MERGE | {"name": "by a page"})
    job = page.evaluate(
        "([address, body]) => "
        "fetch(address, {method: 'POST', body, headers: {'Content-Type': 'application/json'}}).then(a => a.json())",
        [f"{api}/merge", body],
    )
    assert "into by a page" in job["what"]
    ask(f"{api}/merge", MERGE | {"name": "by a program"})
    jobs_that_ended(api)
    assert {"by a page", "by a program"} <= {file.stem for file in folder.glob("*.safetensors")}
