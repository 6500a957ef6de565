"""The command line in this process: what it does, what it prints, how it ends."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib_pm import __version__
from lib_pm.cli import main
from lib_pm.core.registry import MODES
from tests.layouts import Shapes
from tests.loras import deltas, make_lora, total_error, write
from tests.messages import says

TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
MID = "lora_unet_mid_block_attentions_0_proj_in"
CONV = "lora_unet_down_blocks_0_downsamplers_0_conv"
SHAPES: Shapes = {TEXT: (24, 16), MID: (24, 16), CONV: (12, 8, 3, 3)}


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a folder with two LoRAs."""
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("a", "b c")):
        write(Path(f"{name}.safetensors"), make_lora(SHAPES, 4 + index, 2.0, seed=index))

    def run(*words: str) -> Ended:
        capsys.readouterr()
        status = main(words)
        return Ended(status, *capsys.readouterr())

    return run


def summed(*uses: tuple[str, float, float]) -> dict[str, Tensor]:
    """Σ of LoRAs at (model, clip) strengths, in float64."""
    total: dict[str, Tensor] = {}
    for name, model, clip in uses:
        for layer, delta in deltas(Path(f"{name}.safetensors")).items():
            total[layer] = total.get(layer, 0) + delta * (clip if layer == TEXT else model)
    return total


@pytest.mark.parametrize(
    ("loras", "uses"),
    [
        (["a.safetensors"], [("a", 1, 1)]),
        (["a.safetensors:0.8", "b c.safetensors:-0.4:0.2"], [("a", 0.8, 0.8), ("b c", -0.4, 0.2)]),
        (["a.safetensors:2", "b c.safetensors:-1"], [("a", 2, 2), ("b c", -1, -1)]),
        (["<lora:a:0.8><lora:b c:0.6:-1>", "--lora-dir", "."], [("a", 0.8, 0.8), ("b c", -1, 0.6)]),
        (["<lora:a:2>", "b c:-1", "--lora-dir", "."], [("a", 2, 2), ("b c", -1, -1)]),
        (["a.safetensors", "a.safetensors:0.5", "--lambda", "-2"], [("a", -3, -3)]),
        (["a.safetensors", "b c.safetensors", "--apply", "model"], [("a", 1, 0), ("b c", 1, 0)]),
        (["a.safetensors:1:lbw=MID=0.5,base=0,IN03=-1", "b c.safetensors"], None),
    ],
    ids=lambda value: " ".join(value)[:60] if value and isinstance(value[0], str) else "",
)
def test_strengths(run: Run, loras: list[str], uses: list[tuple[str, float, float]] | None) -> None:
    ended = run("merge", *loras, "--mode", "concat", "--save-dtype", "float32", "-o", "out.safetensors")
    assert (ended.status, ended.err) == (0, "")
    if uses is None:
        one, two = deltas(Path("a.safetensors")), deltas(Path("b c.safetensors"))
        expected = {name: one[name] * {TEXT: 0, MID: 0.5, CONV: -1}[name] + two[name] for name in one}
    else:
        expected = {name: delta for name, delta in summed(*uses).items() if float(delta.norm())}
    assert total_error(deltas(Path("out.safetensors")), expected) < 1e-6


@pytest.mark.skipif(sys.platform == "win32", reason="no colons in names there")
def test_path_with_colons_and_spaces(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "v 1.0:2 new.safetensors"
    path.write_bytes(Path("a.safetensors").read_bytes())
    assert run("merge", f"{path}:-1", "--save-dtype", "fp32", "-o", "out.safetensors").status == 0
    assert total_error(deltas(Path("out.safetensors")), summed(("a", -1, -1))) < 1e-6


def test_tag_and_flags_say_the_same(run: Run) -> None:
    flags = "--mode dare_ties_svd --density 0.4 --svd-rank 3 --svd-conv-rank 2 --seed 9 --lambda 0.5".split()
    assert run("merge", "a.safetensors", "b c.safetensors", *flags, "-o", "flags.safetensors").status == 0
    tag = "<pm:dare_ties_svd:density=0.4:rank=3:conv_rank=2:seed=9:lambda=0.5>"
    assert run("merge", "a.safetensors", "b c.safetensors", tag, "-o", "tag.safetensors").status == 0
    one, two = load_file("flags.safetensors"), load_file("tag.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one[f"{MID}.lora_down.weight"].shape == (3, 16)
    assert one[f"{CONV}.lora_down.weight"].shape == (2, 8, 3, 3)


def test_a_flag_changes_a_tags_option(run: Run) -> None:
    run("merge", "a.safetensors", "<pm:add_svd:rank=3>", "--svd-rank", "2", "-o", "out.safetensors")
    assert load_file("out.safetensors")[f"{MID}.lora_down.weight"].shape == (2, 16)


def test_short_names_of_flags(run: Run) -> None:
    for flag in ("--rank", "--svd-rank"):
        run("merge", "a.safetensors", "--mode", "add_svd", flag, "2", "-o", f"out{flag}.safetensors")
        assert load_file(f"out{flag}.safetensors")[f"{MID}.lora_down.weight"].shape == (2, 16)
    assert run("merge", "a.safetensors", "--mode", "add_svd", "--conv-rank", "1", "-o", "out.safetensors").status == 0


def test_a_merge_that_changes_nothing_says_so(run: Run) -> None:
    nothing = "every layer … zero"
    for words in (["--mode", "ties", "--density", "0"], ["--mode", "magnitude_prune_svd", "--density", "0"]):
        out = run("merge", "a.safetensors", *words, "-o", "out.safetensors", "--overwrite").out
        assert says(out, f"note: {nothing} … density 0")
    out = run("merge", "a.safetensors", "--lambda", "0", "-o", "zero.safetensors").out
    assert says(out, f"note: {nothing} … lambda 0")
    assert says(run("merge", "zero.safetensors", "-o", "b.safetensors").out, f"note: {nothing} … changes nothing")
    assert "note: " not in run("merge", "a.safetensors", "-o", "c.safetensors").out


@pytest.mark.parametrize(("flag", "dtype"), [([], torch.float16), (["--save-dtype", "bf16"], torch.bfloat16)])
def test_dtypes(run: Run, flag: list[str], dtype: torch.dtype) -> None:
    assert run("merge", "a.safetensors", "--dtype", "float64", *flag, "-o", "out.safetensors").status == 0
    assert {tensor.dtype for tensor in load_file("out.safetensors").values()} == {dtype}


@pytest.mark.parametrize(("flag", "precision"), [([], "normal"), (["--exact"], "exact")])
def test_precision(run: Run, flag: list[str], precision: str) -> None:
    assert run("merge", "a.safetensors", "--mode", "ties_svd", *flag, "-o", "out.safetensors").status == 0
    assert json.loads(run("inspect", "out.safetensors", "--json").out)["recipe"]["precision"] == precision


def test_layers_and_presets(run: Run) -> None:
    Path("presets.txt").write_text("MINE:IN03=0.5\n")
    words = ["a.safetensors:lbw=mine", "--layers", "other,te", "--lbw-presets", "presets.txt"]
    assert run("merge", *words, "--save-dtype", "fp32", "-o", "out.safetensors").status == 0
    whole = deltas(Path("a.safetensors"))
    # proj_in is neither attention nor MLP
    expected = {TEXT: whole[TEXT], CONV: 0.5 * whole[CONV], MID: whole[MID]}
    assert total_error(deltas(Path("out.safetensors")), expected) < 1e-6


@pytest.mark.parametrize("words", [["--lora-dir", "."], ["a.safetensors", "b c.safetensors"]], ids=["names", "files"])
@pytest.mark.parametrize("source", ["first.safetensors", "recipe.json"])
def test_recipe(run: Run, source: str, words: list[str]) -> None:
    made = ["a.safetensors:0.8", "b c.safetensors:-0.4:0.2:lbw=MIDD", "--mode", "ties_svd", "--save-dtype", "fp32"]
    run("merge", *made, "-o", "first.safetensors")
    recipe = json.loads(run("inspect", "first.safetensors", "--json").out)["recipe"]
    Path("recipe.json").write_text(json.dumps(recipe))
    assert run("merge", "--recipe", source, *words, "-o", "again.safetensors").status == 0
    one, two = load_file("first.safetensors"), load_file("again.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_overwrite(run: Run) -> None:
    assert run("merge", "a.safetensors", "-o", "out.safetensors").status == 0
    before = Path("out.safetensors").read_bytes()
    ended = run("merge", "b c.safetensors", "-o", "out.safetensors")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert says(ended.err, "error: out.safetensors … already … another name … overwriting"), ended.err
    assert Path("out.safetensors").read_bytes() == before
    assert run("merge", "b c.safetensors", "-o", "out.safetensors", "--overwrite").status == 0
    assert Path("out.safetensors").read_bytes() != before


def test_what_a_merge_prints(run: Run) -> None:
    words = ["merge", "a.safetensors", "--mode", "add_svd", "--svd-rank", "2", "--overwrite", "-o", "out.safetensors"]
    text = run(*words).out
    assert text.startswith("Add (SVD) of 1 LoRA (svd_rank 2, lambda 1)\n  a: 3 of 3 layers used\n")
    assert f"  {MID}: rank 2" not in text
    assert f"  {MID}: rank 2, kept energy " in run(*words, "--verbose").out
    assert run(*words, "--quiet").out == ""
    report = json.loads(run(*words, "--json").out)
    assert json.loads(run(*words, "--json", "--quiet").out).keys() == report.keys()
    assert [layer["rank"] for layer in report["layers"]] == [2, 2, 2]
    assert report["file"] == "out.safetensors"


def test_names_there_and_back(run: Run) -> None:
    assert run("convert", "b c.safetensors", "--names", "diffusers", "-o", "there.safetensors").status == 0
    assert all(name.startswith(("unet.", "text_encoder.")) for name in load_file("there.safetensors"))
    ended = run("convert", "there.safetensors", "--names", "kohya", "--save-dtype", "fp32", "-o", "back.safetensors")
    assert (ended.status, ended.err) == (0, "")
    assert total_error(deltas(Path("back.safetensors")), deltas(Path("b c.safetensors"))) < 1e-3
    merged = run("merge", "a.safetensors", "b c.safetensors", "--names", "diffusers", "-o", "merged.safetensors")
    assert merged.status == 0
    assert load_file("merged.safetensors").keys() == load_file("there.safetensors").keys()


def test_resize(run: Run) -> None:
    ended = run("resize", "b c.safetensors", "--rank", "3", "--conv-rank", "2", "-o", "out.safetensors")
    assert (ended.status, ended.err) == (0, "")
    assert re.search(rf"^  {MID}: rank 3, kept energy \d+\.\d\d%$", ended.out, re.MULTILINE)
    tensors = load_file("out.safetensors")
    assert tensors[f"{CONV}.lora_down.weight"].shape == (2, 8, 3, 3)
    assert tensors[f"{MID}.lora_down.weight"].dtype == torch.float16
    words = ["resize", "b c.safetensors", "--dynamic", "sv_fro=0.9", "--save-dtype", "fp32", "--json"]
    report = json.loads(run(*words, "-o", "dynamic.safetensors").out)
    assert all(layer["kept_energy"] >= 0.81 for layer in report["layers"])
    limited = json.loads(run(*words, "--max-rank", "2", "-o", "limited.safetensors").out)
    assert {layer["rank"] for layer in limited["layers"]} == {2} != {layer["rank"] for layer in report["layers"]}
    assert load_file("limited.safetensors")[f"{MID}.lora_down.weight"].dtype == torch.float32


def test_inspect(run: Run) -> None:
    assert run("inspect", "a.safetensors").out.startswith("a.safetensors (0.0 MB)\n  model: Stable Diffusion 1\n")
    assert json.loads(run("inspect", "a.safetensors", "--json").out)["layers"][MID]["rank"] == 4


def test_modes(run: Run) -> None:
    listed = json.loads(run("modes", "--json").out)
    assert [mode["id"] for mode in listed] == list(MODES)
    assert all(mode["formula"] and mode["when"] and mode["source"] for mode in listed)
    density = {"default": 0.5, "low": 0, "high": 1}
    (ties,) = (mode for mode in listed if mode["id"] == "ties")
    assert density.items() <= next(option for option in ties["options"] if option["name"] == "density").items()
    text = run("modes").out
    assert all(re.search(rf"^{id}: ", text, re.MULTILINE) for id in MODES)
    assert "--svd-conv-rank: " in text
    rows = run("modes", "--markdown").out.splitlines()
    assert len(rows) == 2 + len(MODES)
    assert {row.count("|") for row in rows} == {6}


@pytest.mark.parametrize("command", [[], ["merge"], ["resize"], ["inspect"], ["modes"]], ids=" ".join)
def test_help(run: Run, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*command, "--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m lib_pm")
    if command == ["merge"]:
        options = {name for mode in MODES.values() for name in mode.options}
        assert all(f"--{name.replace('_', '-')} " in text for name in options)


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--version")
    assert (ended.value.code, capsys.readouterr().out) == (0, f"Power Merger {__version__}\n")


def test_a_pipe_that_has_no_such_letters(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, what is not a terminal gets the letters of one country."""
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", pipe)
    assert main(["modes"]) == 0
    pipe.flush()
    assert "? w?·?W?" in pipe.buffer.getvalue().decode("cp1252")


def test_progress_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("merge", "a.safetensors", "-o", "out.safetensors", "--quiet").status == 0
    assert terminal.getvalue() == ""
    assert run("merge", "a.safetensors", "-o", "out.safetensors", "--overwrite").status == 0
    assert "layer" in terminal.getvalue()
    assert run("merge", "a.safetensors:1e6", "--lambda", "1e6", "-o", "out.safetensors", "--overwrite").status == 2
    # the bar is wiped out before the error is shown
    assert terminal.getvalue().rpartition("\r")[2].startswith("error: Layer ")


def test_a_bug_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib_pm.files.contents.inspect_file", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        run("inspect", "a.safetensors")
