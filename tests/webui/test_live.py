"""The live flow inside: what is read for a second image, and that the tests notice each known wrong way.

What images show of it is in test_contract.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lib_pm.merging.cache
from tests.host.chosen import KINDS, by_double_only
from tests.host.double import Double, nothing_swallowed, running
from tests.host.merging import PLAIN, TIES, A, B, make_ab, saved
from tests.host.server import HIRES, Server, same

pytestmark = by_double_only

STACK = f"<lora:{A}:0.8><lora:{B}:0.6>"
MERGED = f"{PLAIN}{STACK}{TIES}"


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Double]:
    """Fresh in each test: the wrong ways leave it wrong."""
    with running(request.param, tmp_path) as double, nothing_swallowed(double):
        yield double


@pytest.fixture(autouse=True)
def loras(server: Server) -> None:
    assert isinstance(server, Double)
    make_ab(server)


def live() -> Any:
    """The module that the double has imported; it is not the one that this process has otherwise."""
    return importlib.import_module("lib_pm.webui.live")


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """The first arguments of all calls from now on."""
    calls: list[Any] = []
    original = getattr(owner, name)

    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(first)
        return original(first, *args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("payload", [{}, {"n_iter": 2}, HIRES], ids=["txt2img", "batches", "hires"])
def test_a_second_image_reads_no_lora_file(
    server: Double, monkeypatch: pytest.MonkeyPatch, payload: dict[str, Any]
) -> None:
    """Neither we nor the host."""
    first = server.txt2img(MERGED, **payload).images
    ours = counted(monkeypatch, lib_pm.merging.cache, "open_plan")
    networks = importlib.import_module("networks")
    if server.kind == "a1111":
        hosts, built = counted(monkeypatch, networks.sd_models, "read_state_dict"), []
    else:
        hosts = counted(monkeypatch, networks, "load_torch_file")
        built = counted(monkeypatch, networks, "load_lora_for_models")
    second = server.txt2img(MERGED, seed=6, **payload).images
    assert len(second) == len(first)
    assert (ours, hosts) == ([], [])
    if not payload:
        assert len(built) <= 1, "the host's own patched model is used again, only the merge is put on"


def test_what_the_host_had_loaded_is_back_afterwards(server: Double) -> None:
    networks, shared = importlib.import_module("networks"), server.module("shared")

    def loaded() -> Any:
        names = [net.name for net in networks.loaded_networks]
        return names if server.kind == "a1111" else (names, shared.sd_model.current_lora_hash)

    server.txt2img(PLAIN + STACK)
    before = loaded()
    server.txt2img(MERGED)
    assert loaded() == before


Replacing = Callable[..., Any]
PANEL = {"alwayson_scripts": {"Power Merger": {"args": [True, "ties_svd:density=0.5:rank=4"]}}}
OTHER = f"<lora:{A}:0.3><lora:{B}:0.9>"


def story(server: Server) -> None:
    """Images in a row, all of them right."""
    plain, stack = (server.txt2img(prompt).image for prompt in (PLAIN, PLAIN + STACK))
    merged, other = (server.txt2img(PLAIN + saved(server, tags + TIES)).image for tags in (STACK, OTHER))
    server.txt2img(PLAIN + STACK)
    assert same(server.txt2img(PLAIN + STACK, **PANEL).image, merged)
    assert same(server.txt2img(PLAIN + OTHER + TIES).image, other)
    assert same(server.txt2img(PLAIN + STACK + TIES).image, merged)
    assert same(server.txt2img(PLAIN + STACK).image, stack)
    assert same(server.txt2img(PLAIN).image, plain)


def test_the_story(server: Double) -> None:
    story(server)


def one_name_for_all(original: Replacing) -> Replacing:
    """Weights are applied again when a name changes, not when its content does."""
    return lambda networks, model, name, *rest: original(networks, model, "merge", *rest)


def hash_of_the_hosts(original: Replacing) -> Replacing:
    """Forge then believes that the prompt's stack is still there."""

    def changed(networks: Any, model: Any, *rest: Any) -> Any:
        own = model.current_lora_hash
        placed = original(networks, model, *rest)
        model.current_lora_hash = own
        return replace(placed, undo=lambda: None)

    return changed


@pytest.mark.parametrize(
    ("server", "wrong"),
    [("a1111", one_name_for_all), ("forge", one_name_for_all), ("forge", hash_of_the_hosts)],  # A1111 has no such hash
    indirect=["server"],
)
def test_a_wrong_way_to_replace_the_stack_is_noticed(
    server: Double, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Replacing], Replacing]
) -> None:
    right = live().find_host
    monkeypatch.setattr(live(), "find_host", lambda model, networks: wrong(right(model, networks)))
    with pytest.raises(AssertionError):
        story(server)


def test_conds_without_a_key_are_noticed(server: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the prompt's encoding was before, with the same tags, is then used again."""
    original = live().Live.activate

    def activate(self: Any, p: Any, panel: Any, data: dict[str, Any]) -> None:
        original(self, p, panel, data)
        data.pop("power_merger", None)

    monkeypatch.setattr(live().Live, "activate", activate)
    with pytest.raises(AssertionError):
        story(server)


def of_page(server: Double, prompt: str, **fields: Any) -> Any:
    """What the page gets that asks for an image."""
    processing, runner = server.module("processing"), server.module("scripts").scripts_txt2img
    p = processing.StableDiffusionProcessingTxt2Img(prompt=prompt, width=64, height=64, steps=2, seed=5, **fields)
    p.scripts = runner
    p.script_args = tuple(server.module("api.api").Api(None)._default_args(runner))
    return processing.process_images(p)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": f"{PLAIN}{STACK}<pm:tiess>"},
        {"prompt": f"{PLAIN}{STACK}<pm:tiess>", "n_iter": 2},
        {"prompt": MERGED, "enable_hr": True, "hr_prompt": f"{PLAIN}<pm:tiess>"},
        {"prompt": MERGED, "negative_prompt": "<pm:tiess>"},
    ],
    ids=["prompt", "batches", "hires", "negative"],
)
def test_the_page_shows_what_is_written_wrong_and_the_console_no_traceback(
    server: Double, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    """The WebUI prints one for every error that reaches it."""
    before = of_page(server, MERGED)
    assert len(before.images) == 1
    caplog.clear()
    result = of_page(server, **fields)
    assert result.images == []
    assert "Power Merger: " in result.comments
    assert "pm:tiess" in result.comments or "'tiess'" in result.comments
    assert ["Power Merger" in record.message for record in caplog.records] == [True]
    assert not any(record.exc_info for record in caplog.records)
    assert "Traceback" not in capsys.readouterr().err
    after = of_page(server, MERGED)
    assert bytes(after.images[0].tobytes()) == bytes(before.images[0].tobytes())
    assert after.infotexts == before.infotexts


def test_a_script_of_the_page_gets_an_error(server: Double) -> None:
    """It would take an image that is not there."""
    refusal = importlib.import_module("lib_pm.webui.refusal")
    processing, runner = server.module("processing"), server.module("scripts").scripts_txt2img
    for script in (0, 1):
        p = processing.StableDiffusionProcessingTxt2Img(prompt=PLAIN)
        p.scripts, p.script_args = runner, (script,)
        assert refusal.in_page(p) == (script == 0)
