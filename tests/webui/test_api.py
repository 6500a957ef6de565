"""The REST interface on an application of its own: every route, what is refused, no path in any answer."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, ClassVar

import pytest

pytest.importorskip("httpx")
from fastapi import FastAPI
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from lib_pm.core.registry import MODES
from lib_pm.webui.api import NO_OTHERS, PREFIX, add_routes
from lib_pm.webui.origin import Origins
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.job_queue import KEPT, MOST_WAITING
from lib_pm.workspace.jobs import Target, submit_merge
from tests.chosen import chosen
from tests.messages import says
from tests.workspaces import RecordingWorkspace, done, files, make_workspace

MERGE = {"text": "<lora:style:0.8>\n<lora:char:0.6>", "mode": "add", "device": "cpu"}


class Client:
    """Every answer is looked through for the path of the LoRA folder."""

    def __init__(self, workspace: RecordingWorkspace, logins: str | None = None, origins: Origins = NO_OTHERS) -> None:
        app = FastAPI()
        add_routes(app, workspace, logins, origins)
        self.http = TestClient(app, raise_server_exceptions=False)
        self._secret = str(workspace.folder.parent)

    def __call__(self, method: str, path: str, status: int = 200, **request: Any) -> Any:
        answer = self.http.request(method, f"{PREFIX}/{path}", **request)
        assert answer.status_code == status, answer.text
        assert self._secret not in answer.text
        return answer.json()

    def finished(self, job: dict[str, Any]) -> dict[str, Any]:
        for _ in range(3000):
            job = self("GET", f"jobs/{job['id']}")
            if job["state"] not in ("waiting", "running"):
                return job
            time.sleep(0.01)
        raise AssertionError(job)


@pytest.fixture
def workspace(tmp_path: Any) -> RecordingWorkspace:
    return make_workspace(tmp_path)


@pytest.fixture
def client(workspace: RecordingWorkspace) -> Client:
    return Client(workspace)


def test_loras(client: Client) -> None:
    assert client("GET", "loras") == [
        {"name": "other", "folder": "", "title": ""},
        {"name": "style", "folder": "", "title": ""},
        {"name": "char", "folder": "sub", "title": ""},
    ]
    for name in ("sub/char", "char"):
        found = client("GET", f"loras/{name}")
        assert found["file"] == "char.safetensors"
        assert {layer["rank"] for layer in found["layers"].values()} == {3}


def test_without_the_lora_folder(client: Client, workspace: RecordingWorkspace) -> None:
    workspace.folder.rename(workspace.folder.with_name("elsewhere"))
    assert says(client("GET", "loras", 400)["detail"], "LoRA folder … exist")


def test_modes(client: Client) -> None:
    modes = client("GET", "modes")
    assert [mode["id"] for mode in modes] == list(MODES)


def test_recipes(client: Client, workspace: RecordingWorkspace) -> None:
    assert client("GET", "recipe") == []
    draft = Draft("<lora:style:1>", chosen("ties:density=0.5"), "model")
    workspace.recipes.save("my own", draft)
    assert client("GET", "recipe") == ["my own"]
    assert client("GET", "recipe/my own") == draft.to_json()
    assert says(client("GET", "recipe/gone", 400)["detail"], "recipe 'gone' … my own")
    assert says(client("GET", "recipe/..%2e", 400)["detail"], "recipe name '...' … dot")


def test_a_merge_is_the_tabs(client: Client, workspace: RecordingWorkspace) -> None:
    request = MERGE | {"mode": "ties_svd", "options": {"density": 0.3, "rank": 2}, "apply": "model", "name": "both"}
    job = client.finished(client("POST", "merge", json=request | {"folder": "made", "save_dtype": "float32"}))
    assert (job["state"], job["error"], job["what"]) == ("done", "", "Merging 2 LoRAs into both")
    assert job["done"] == job["total"] > 0
    (report,) = job["result"]
    assert report["file"] == "made/both"
    same = Draft(MERGE["text"], chosen("ties_svd:density=0.3:rank=2"), "model")
    done(submit_merge(workspace, same, Target("same", save_dtype="float32"), "cpu"))
    written, expected = load_file(str(workspace.find("both"))), load_file(str(workspace.find("same")))
    assert written.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in written.items())


def test_names(client: Client, workspace: RecordingWorkspace) -> None:
    job = client.finished(client("POST", "merge", json=MERGE | {"name": "named", "names": "diffusers"}))
    assert (job["state"], job["error"]) == ("done", "")
    assert {key.partition(".")[0] for key in load_file(str(workspace.find("named")))} <= {"unet", "text_encoder"}
    refused = client("POST", "merge", 400, json=MERGE | {"name": "no", "names": "civitai"})
    assert says(refused["detail"], "names … 'civitai' … kohya, comfy, diffusers, peft, onetrainer")


def test_resizing(client: Client, workspace: RecordingWorkspace) -> None:
    request = {"loras": ["style", "sub/char"], "rank": 2, "device": "cpu", "name": "_small"}
    before = files(workspace)
    looked = client.finished(client("POST", "resize", json=request | {"preview": True}))
    assert files(workspace) == before
    written = client.finished(client("POST", "resize", json=request))
    assert [report["file"] for report in written["result"]] == ["style_small", "char_small"]
    for look, report in zip(looked["result"], written["result"], strict=True):
        assert look["kept_energy"] == report["kept_energy"]
    ruled = client.finished(client("POST", "resize", json={"loras": ["style"], "rule": "sv_fro=0.9"}))
    assert ruled["result"][0]["what"] == "style.safetensors resized to sv_fro 0.9"


def test_analysing(client: Client) -> None:
    job = client.finished(client("POST", "analyse", json=MERGE))
    assert job["state"] == "done"
    assert len(job["result"]) == 1


def test_jobs_are_listed_and_cancelled(client: Client, workspace: RecordingWorkspace) -> None:
    first = client.finished(client("POST", "merge", json=MERGE))
    assert client("GET", "jobs") == [first]
    assert client("DELETE", f"jobs/{first['id']}")["state"] == "done"
    lock = workspace.queue.submit("waits", lambda progress: time.sleep(0.5), workspace.turn("cpu"))
    waiting = client("POST", "merge", json=MERGE | {"name": "never"})
    assert waiting["state"] == "waiting"
    assert client("DELETE", f"jobs/{waiting['id']}")["state"] == "cancelled"
    done(lock)
    assert "never.safetensors" not in files(workspace)
    for method in ("GET", "DELETE"):
        assert says(client(method, "jobs/nope", 404)["detail"], "job 'nope'")


def test_too_many_jobs_are_refused_for_now(client: Client, workspace: RecordingWorkspace) -> None:
    go_on = threading.Event()
    first = workspace.queue.submit("waits", lambda progress: go_on.wait(30), workspace.turn("cpu"))
    while first.state == "waiting":
        time.sleep(0.01)
    try:
        jobs = [client("POST", "analyse", json=MERGE) for _ in range(MOST_WAITING)]
        for path, body in (("analyse", MERGE), ("merge", MERGE), ("resize", {"loras": ["style"], "rank": 2})):
            assert says(client("POST", path, 429, json=body)["detail"], f"{MOST_WAITING} jobs … {MOST_WAITING}")
        assert len(client("GET", "jobs")) == MOST_WAITING + 1
        for job in jobs:
            assert client("DELETE", f"jobs/{job['id']}")["state"] == "cancelled"
        assert len(client("GET", "jobs")) == KEPT + 1
        assert says(client("GET", f"jobs/{jobs[0]['id']}", 404)["detail"], f"job '{jobs[0]['id']}' … last {KEPT}")
    finally:
        go_on.set()


@pytest.mark.parametrize(
    ("path", "request_", "facts"),
    [
        ("merge", {"text": "<lora:styl:1>"}, "LoRA 'styl' … style"),
        ("merge", {"text": "<lora:../../etc/passwd:1>"}, "LoRA '../../etc/passwd'"),
        ("merge", {"text": ""}, "no LoRAs to merge"),
        ("merge", {"mode": "tie"}, "mode 'tie' … concat, add"),
        ("merge", {"options": {"density": 0.5}}, "add … 'density' … lambda"),
        ("merge", {"options": {"lambda": [1]}}, "lambda … [1] … a number"),
        ("merge", {"apply": "unet"}, "apply … 'unet' … model + clip, model, clip"),
        ("merge", {"dtype": "int8"}, "dtype … 'int8' … float32, float16, bfloat16, float64"),
        ("merge", {"mode": "ties_svd", "precision": "most"}, "precision … 'most' … normal, exact"),
        ("merge", {"name": "../both"}, "'../both' … /"),
        ("merge", {"name": ".."}, "'..' … dot"),
        ("merge", {"folder": "../x"}, "folder '..' … dot"),
        ("merge", {"folder": "/tmp"}, "'/tmp' … absolute … LoRA folder"),
        ("merge", {"name": "style"}, "style.safetensors … already … overwriting"),
        ("merge", {"metadata": "some"}, "metadata … 'some' … all, no tags, minimal"),
        ("merge", {"device": "tpu"}, "device … 'tpu' … auto, cpu, cuda, mps"),
        ("resize", {"loras": []}, "no LoRAs to resize"),
        ("resize", {"loras": ["gone"]}, "LoRA 'gone'"),
        ("resize", {"rank": 0}, "rank … 0 … 1"),
        ("resize", {"rank": 2, "rule": "best=1"}, "dynamic rule 'best' … sv_ratio=…, sv_fro=…, sv_cumulative=…"),
        ("resize", {"rank": 2, "folder": ".."}, "folder '..' … dot"),
        ("analyse", {"text": "<lora:styl:1>"}, "LoRA 'styl' … style"),
    ],
)
def test_what_is_wrong_is_said(
    client: Client, workspace: RecordingWorkspace, path: str, request_: dict[str, Any], facts: str
) -> None:
    before = files(workspace)
    whole = MERGE if path != "resize" else {"loras": ["style"], "rank": 2, "device": "cpu"}
    detail = client("POST", path, 400, json=whole | request_)["detail"]
    assert says(detail, facts), detail
    assert files(workspace) == before
    assert client("GET", "jobs") == []


def test_a_lora_that_is_not_there(client: Client, workspace: RecordingWorkspace) -> None:
    (workspace.folder.parent / "secret.safetensors").write_bytes(b"")
    for written, name in (("gone", "gone"), ("..%2Fsecret", "../secret"), ("%2Fetc%2Fpasswd", "/etc/passwd")):
        assert says(client("GET", f"loras/{written}", 400)["detail"], f"no LoRA '{name}'")


def test_a_job_that_fails_says_why(client: Client, workspace: RecordingWorkspace) -> None:
    job = client.finished(client("POST", "merge", json=MERGE | {"text": "<lora:style:1><lora:other:1>"}))
    assert (job["state"], job["result"]) == ("failed", None)
    assert says(job["error"], "different models … style.safetensors … other.safetensors")


class TestLogins:
    """`--api-auth name:password,…`, as the WebUI's own routes have it."""

    def test_nothing_without_one(self, workspace: RecordingWorkspace) -> None:
        client = Client(workspace, "me:secret,you:other")
        routes = client.http.get("/openapi.json").json()["paths"]
        for path, methods in routes.items():
            for method in methods:
                answer = client.http.request(method, path)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Basic"

    @pytest.mark.parametrize("login", [("me", "other"), ("me", ""), ("", ""), ("nobody", "secret"), ("me", "sëcret")])
    def test_a_wrong_one(self, workspace: RecordingWorkspace, login: tuple[str, str]) -> None:
        Client(workspace, "me:secret,you:other")("GET", "loras", 401, auth=login)

    def test_a_wrong_one_beside_letters_that_are_not_ascii(self, workspace: RecordingWorkspace) -> None:
        Client(workspace, "me:sëcret")("GET", "loras", 401, auth=("me", "secret"))

    @pytest.mark.parametrize("login", [("me", "secret"), ("you", "o:ther")])
    def test_a_right_one(self, workspace: RecordingWorkspace, login: tuple[str, str]) -> None:
        assert len(Client(workspace, "me:secret,you:o:ther")("GET", "loras", auth=login)) == 3


def test_the_documentation_lists_every_route(client: Client) -> None:
    assert client.http.get("/docs").status_code == 200
    paths = client.http.get("/openapi.json").json()["paths"]
    assert {path.removeprefix(PREFIX): sorted(methods) for path, methods in paths.items()} == {
        "/loras": ["get"],
        "/loras/{name}": ["get"],
        "/modes": ["get"],
        "/recipe": ["get"],
        "/recipe/{name}": ["get"],
        "/merge": ["post"],
        "/resize": ["post"],
        "/analyse": ["post"],
        "/jobs": ["get"],
        "/jobs/{id}": ["delete", "get"],
    }


class TestSenders:
    """What browsers say of the page that asks; `tests/browser/test_origin.py` has real ones."""

    OWN: ClassVar = {"origin": "http://testserver"}

    @pytest.mark.parametrize(
        "headers",
        [
            {},  # a program
            OWN,
            {"origin": "http://testserver:80"},
            {"origin": "http://TestServer"},
            OWN | {"sec-fetch-site": "same-origin"},
            {"origin": "https://behind.a.proxy", "sec-fetch-site": "same-origin"},
            {"origin": "https://pm.example", "x-forwarded-host": "pm.example"},
            {"origin": "https://pm.example", "x-forwarded-host": "pm.example:443"},
            {"origin": "https://pm.example:8443", "x-forwarded-host": "inner, pm.example:8443"},
            {"origin": "http://[::1]:7860", "host": "[::1]:7860"},
            {"origin": "https://listed.example", "sec-fetch-site": "cross-site"},
            {"origin": "https://a.pattern.example", "sec-fetch-site": "same-site"},
        ],
    )
    def test_they_may(self, workspace: RecordingWorkspace, headers: dict[str, str]) -> None:
        origins = Origins("https://listed.example,https://other.example", r"https://\w+\.pattern\.example")
        client = Client(workspace, origins=origins)
        client.finished(client("POST", "merge", json=MERGE, headers=headers))
        client("DELETE", "jobs/nope", 404, headers=headers)

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": ""},
            {"origin": "http://testserver:7861"},  # another port of the same machine
            {"origin": "http://testserver:7861", "sec-fetch-site": "same-site"},
            {"origin": "http://testserver.evil.example"},
            {"origin": "http://testserver@evil.example"},
            {"origin": "http://[::1"},
            {"origin": "http://testserver:port"},
            OWN | {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": "https://listed.example.evil.example"},
        ],
    )
    def test_they_may_not(self, workspace: RecordingWorkspace, headers: dict[str, str]) -> None:
        client = Client(workspace, origins=Origins("https://listed.example", r"https://listed\.example"))
        before = files(workspace)
        for path in ("merge", "resize", "analyse"):
            detail = client("POST", path, 403, json=MERGE, headers=headers)["detail"]
            assert repr(headers.get("origin") or "elsewhere") in detail
            assert "--cors-allow-origins" in detail
        client("DELETE", "jobs/nope", 403, headers=headers)
        assert client("GET", "jobs", headers=headers) == []
        assert files(workspace) == before

    def test_any_origin_may_if_the_webui_is_told_so(self, workspace: RecordingWorkspace) -> None:
        client = Client(workspace, origins=Origins("*"))
        client.finished(client("POST", "merge", json=MERGE, headers={"origin": "null", "sec-fetch-site": "cross-site"}))

    @pytest.mark.parametrize(
        "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
    )
    def test_json_is_taken(self, client: Client, kind: str) -> None:
        content = json.dumps(MERGE)
        client.finished(client("POST", "merge", content=content, headers={"content-type": kind}))

    @pytest.mark.parametrize(
        "kind",
        [
            None,
            "",
            "text/plain",
            "text/plain;charset=application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "json",
            "application/ld+json",
        ],
    )
    def test_nothing_else_is(self, client: Client, workspace: RecordingWorkspace, kind: str | None) -> None:
        """A page can send all but the last without the browser asking the WebUI first."""
        before = files(workspace)
        headers = {} if kind is None else {"content-type": kind}
        for path in ("merge", "resize", "analyse"):
            detail = client("POST", path, 415, content=json.dumps(MERGE).encode(), headers=headers)["detail"]
            assert repr(kind or "") in detail
            assert "application/json" in detail
        assert (files(workspace), client("GET", "jobs")) == (before, [])
