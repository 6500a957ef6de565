"""A user merges, watches, cancels, reads what came out, and gets the command line's file; and is told what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib_pm.cli import main
from tests.browser.conftest import OpenTab, Serve
from tests.browser.driver import Tab
from tests.host.by_hand import changed_by_hand, pixels
from tests.loras import make_lora, write
from tests.messages import says
from tests.samples import random_lora
from tests.small_pipeline import build_pipeline

RECIPE = "<lora:style:0.8>\n<lora:char:0.6:0.5>\n#<lora:char:1>\n<lora:detail:-0.4>"
LAYERS = 150


@pytest.fixture(scope="session")
def pipeline() -> Any:
    return build_pipeline()


@pytest.fixture(scope="session")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three LoRAs for one base model, one for another, and two that take long to merge."""
    folder = tmp_path_factory.mktemp("Lora")
    for name, rank, seed in (("style", 8, 1), ("char", 4, 2), ("detail", 2, 3)):
        write(folder / f"{name}.safetensors", random_lora(pipeline, rank=rank, alpha=2.0, seed=seed, size=0.1), SD1)
    write(
        folder / "other.safetensors", make_lora({"lora_unet_mid": (8, 8)}), {"ss_base_model_version": "sdxl_base_v1-0"}
    )
    shapes = {f"lora_unet_{index:03}": (1024, 1024) for index in range(LAYERS)}
    for seed in (1, 2):
        write(folder / f"slow{seed}.safetensors", make_lora(shapes, rank=16, seed=seed, dtype=torch.float16))
    return folder


SD1 = {"ss_base_model_version": "sd_v1"}


@pytest.fixture(scope="session")
def address(serve: Serve, folder: Path) -> str:
    return serve("page", folder)


@pytest.fixture(scope="session")
def by_command(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the command line makes of the same recipe."""
    out = tmp_path_factory.mktemp("by_command") / "merged.safetensors"
    tags = [line for line in RECIPE.split("\n") if not line.startswith("#")]
    options = ["--lora-dir", str(folder), "--mode", "add_svd", "--svd-rank", "6", "--device", "cpu", "--quiet"]
    assert main(["merge", *tags, *options, "-o", str(out)]) == 0
    return out.read_bytes()


def tensors_of(file: bytes) -> tuple[dict[str, Any], bytes]:
    """The header without its metadata, which say when it was made, and the bytes of all tensors."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header.pop("__metadata__")
    return header, file[8 + size :]


def fill(tab: Tab, elem_id: str, value: str) -> None:
    field = tab.page.locator(f"#{elem_id} :is(input, textarea)").first
    field.fill(value)
    field.press("Enter")


def status(tab: Tab, inside: str) -> str:
    """What is told below the button, once it is there."""
    place = tab.page.locator(f"#pm_merge_status {inside}").first
    place.wait_for(timeout=60_000)
    return str(place.inner_text())


def merge(tab: Tab) -> None:
    tab.page.locator("#pm_merge").click()


@pytest.mark.parametrize("query", ["", "plain"], ids=["rows", "no JavaScript"])
def test_three_loras_are_merged(open_tab: OpenTab, folder: Path, by_command: bytes, pipeline: Any, query: str) -> None:
    tab = open_tab(query)
    if query:
        tab.write(RECIPE)
    else:
        for name in ("style", "char", "char", "detail"):
            tab.add(name)
        tab.in_row(0, "Model strength").fill("0.8")
        tab.button(1, "Set model and clip").click()
        tab.in_row(1, "Clip strength").fill("0.6")
        tab.in_row(1, "Model strength").fill("0.5")
        tab.in_row(2, "Use char").uncheck()
        tab.in_row(3, "Model strength").fill("-0.4")
        assert tab.text() == RECIPE
    fill(tab, "pm_mode", "add_svd")
    tab.page.locator("#pm_svd_rank").wait_for()
    fill(tab, "pm_svd_rank", "6")
    fill(tab, "pm_save_name", "merged")
    file = folder / "merged.safetensors"
    try:
        merge(tab)
        report = status(tab, ".pm-report")
        assert "3 LoRAs" in report
        assert "Written: merged" in report
        assert "Kept energy" in report
        used = tab.page.locator("#pm_merge_status .pm-table").first.locator("tbody tr td:first-child").all_inner_texts()
        assert used == ["style", "char", "detail"]
        assert tensors_of(file.read_bytes()) == tensors_of(by_command)
        assert made_by_diffusers(pipeline, file, folder) <= 1
        if not query:
            tab.page.locator("#pm_refresh").click()
            tab.page.wait_for_function(
                "document.querySelector('#pm_data [data-loras]').dataset.loras.includes('merged')"
            )
            tab.add("merged")
            assert tab.names()[-1] == "merged"
    finally:
        file.unlink(missing_ok=True)


def made_by_diffusers(pipeline: Any, file: Path, folder: Path) -> int:
    """How far the image of the file, loaded by diffusers, is from that of its numbers put into the weights by hand."""
    with changed_by_hand(pipeline, (load_file(file), 1.0, 1.0)):
        by_hand = pixels(pipeline)
    plain = pixels(pipeline)
    pipeline.load_lora_weights(file)
    try:
        loaded = pixels(pipeline)
    finally:
        pipeline.unload_lora_weights()
    assert np.abs(loaded - plain).max() > 10, "the LoRA does something"
    return int(np.abs(loaded - by_hand).max())


def test_it_shows_how_far_it_is_and_stops_when_told(open_tab: OpenTab, folder: Path) -> None:
    tab = open_tab()
    tab.write("<lora:slow1:1>\n<lora:slow2:1>")
    fill(tab, "pm_mode", "ties_svd")
    tab.page.locator("#pm_density").wait_for()
    fill(tab, "pm_save_name", "never")
    merge(tab)
    tab.page.locator("#pm_merge_status").get_by_text(f"of {LAYERS} layers").wait_for()
    first = tab.page.locator("#pm_merge_status progress").get_attribute("value")
    tab.page.wait_for_function(
        "first => document.querySelector('#pm_merge_status progress').value > first", arg=float(first)
    )
    tab.page.locator("#pm_merge_cancel").click()
    tab.page.locator("#pm_merge_status").get_by_text("cancelled, nothing was written").wait_for(timeout=5_000)
    assert [path.name for path in folder.iterdir() if "never" in path.name] == []
    assert not tab.page.locator("#pm_merge_cancel").is_visible()


REFUSED = [
    ("", "x", "no LoRAs"),
    ("<lora:styl:1>", "x", "'styl' … folder"),
    ("<lora:style:much>", "x", "'much' … '<lora:style:much>' … number"),
    ("<lora:style:1:lbw=1,2,3>", "x", "style … 3 … Stable Diffusion 1 … 12"),
    ("<lora:style:1>\n<lora:char:1:start=5>", "x", "start=5 … '<lora:char:1:start=5>'"),
    ("<lora:style:1>\n<lora:other:1>", "x", "base model … style … 'sd_v1' … other"),
    ("<lora:style:1><pm:no_mode>", "x", "no_mode"),
    ("<lora:style:1>", "../outside", ".."),
    ("<lora:style:1>", "/tmp/outside", "/tmp/outside"),
    ("<lora:style:1>", "char", "char"),
]


def test_what_is_wrong_is_told_where_one_looks(open_tab: OpenTab, subtests: pytest.Subtests, folder: Path) -> None:
    tab = open_tab()
    before = {path: path.stat().st_mtime for path in folder.rglob("*")}
    for text, name, told in REFUSED:
        with subtests.test(told=told):
            tab.page.evaluate("document.querySelector('#pm_merge_status .pm-problem')?.classList.add('old')")
            tab.write(text)
            fill(tab, "pm_save_name", name)
            merge(tab)
            said = status(tab, ".pm-problem:not(.old)")
            assert says(said, told)
            assert "Traceback" not in said
            assert str(folder) not in said
            assert {path: path.stat().st_mtime for path in folder.rglob("*")} == before


def test_a_deleted_file(open_tab: OpenTab, folder: Path) -> None:
    tab = open_tab()
    gone = write(folder / "gone.safetensors", make_lora({"lora_unet_mid": (8, 8)}))
    tab.page.locator("#pm_refresh").click()
    tab.page.wait_for_function("document.querySelector('#pm_data [data-loras]').dataset.loras.includes('gone')")
    tab.add("gone")
    gone.unlink()
    merge(tab)
    assert says(status(tab, ".pm-problem"), "'gone'")
