"""`python -m lib_pm analyse`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lib_pm.cli import main
from lib_pm.compare.analyse import analyse
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.layouts import Shapes
from tests.loras import make_lora, write
from tests.messages import says

TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
MID = "lora_unet_mid_block_attentions_0_proj_in"
SHAPES: Shapes = {TEXT: (24, 16), MID: (24, 16)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("a", "b c")):
        write(Path(f"{name}.safetensors"), make_lora(SHAPES, 4 + index, 2.0, seed=index))
    Path("mine.txt").write_text("HALF:0.5,1,1,1,1,1,1,0.5,1,1,1,1,1,1,1,1,1\n")
    return tmp_path


def expected(*uses: LoraUse, **presets: str) -> dict[str, object]:
    return analyse(make_recipe(uses, "concat", presets=presets)).to_json() | {"seconds": 0}


@pytest.mark.parametrize(
    ("words", "uses"),
    [
        (["a.safetensors", "b c.safetensors:-0.5:2"], [("a", 1, 1, ""), ("b c", -0.5, 2, "")]),
        (["<lora:a:0.5:2:lbw=HALF><lora:b c:1><pm:ties:density=0.4>"], [("a", 2, 0.5, "HALF"), ("b c", 1, 1, "")]),
        (["a.safetensors"], [("a", 1, 1, "")]),
    ],
)
def test_json_is_the_analysis(
    capsys: pytest.CaptureFixture[str], words: list[str], uses: list[tuple[str, float, float, str]]
) -> None:
    flags = ["--lora-dir", ".", "--lbw-presets", "mine.txt", "--device", "cpu", "--threads", "2", "--json"]
    assert main(["analyse", *words, *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    presets = {"HALF": Path("mine.txt").read_text().strip().removeprefix("HALF:")}
    wanted = expected(*(LoraUse(Path(f"{n}.safetensors"), m, c, lbw) for n, m, c, lbw in uses), **presets)
    assert told | {"seconds": 0} == wanted


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "a.safetensors", "b c.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "2 LoRAs for Stable Diffusion 1, 2 layers\n  a: 2 of 2 layers used, norm " in out
    assert "  a and b c: cosine " in out
    assert "    a and b c " in out  # the sentence
    assert "sign conflict by block: BASE\N{NO-BREAK SPACE}" in out


def test_plots(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyse", "a.safetensors", "b c.safetensors", "--plots", "new/plots"]
    assert main(words) == 0
    plots = Path("new/plots")
    assert sorted(path.name for path in plots.iterdir()) == ["blocks.svg", "spectrum.svg"]
    for path in plots.iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    before = (plots / "blocks.svg").read_bytes()
    assert main([*words, "--json"]) == 2
    assert says(capsys.readouterr().err, "blocks.svg … already … --overwrite")
    words[2] = "b c.safetensors:-1"
    assert main(["analyse", "b c.safetensors", *words[1:], "--overwrite"]) == 0
    assert (plots / "blocks.svg").read_bytes() != before


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], "required: LORA"),
        (["missing.safetensors"], "missing.safetensors … exist"),
        (["<lora:nobody:1>", "--lora-dir", "."], "LoRA 'nobody' … folder"),
        (["a.safetensors:lbw=MIDDD"], "a … block weight preset 'MIDDD' … MIDD"),
        (["a.safetensors", "--threads", "0"], "threads … 0 … 1"),
        (["a.safetensors", "--device", "tpu"], "device … 'tpu' … auto, cpu, cuda, mps"),
        (["<lora:a:1:pm=off>", "--lora-dir", "."], "a … pm=off"),
        (["a.safetensors", "--plots", "a.safetensors"], "a.safetensors … written"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], facts: str) -> None:
    assert main(["analyse", *words]) == 2
    ended = capsys.readouterr()
    assert ended.out == ""
    assert says(ended.err, f"error: … {facts}"), ended.err
    assert ended.err.count("\n") == 1
