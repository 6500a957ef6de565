"""What the user can mend ends with status 2 and one line on stderr, and leaves no file behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_pm.cli import main
from lib_pm.core.params import FACTOR
from lib_pm.core.registry import MODES
from tests.loras import make_lora, write
from tests.messages import says

MID = "lora_unet_mid_block_attentions_0_proj_in"
Fails = Callable[..., str]


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command in a folder with a few files; returns its error line."""
    monkeypatch.chdir(tmp_path)
    lora = make_lora({MID: (24, 16)}, 4)
    write(Path("a.safetensors"), lora, {"ss_base_model_version": "sd_v1"})
    write(Path("b.safetensors"), lora, {"ss_base_model_version": "flux1"})
    write(Path("xl.safetensors"), make_lora({"lora_te2_text_model_encoder_layers_0_mlp_fc1": (24, 16)}, 4))
    write(Path("nan.safetensors"), lora | {f"{MID}.lora_up.weight": torch.full((24, 4), float("nan"))})
    write(Path("conv.safetensors"), make_lora({"lora_unet_mid_block_resnets_0_conv1": (12, 8, 3, 3)}, 4))
    Path("junk.safetensors").write_bytes(b"junk")
    Path("empty.safetensors").touch()
    Path("presets.txt").write_text("MINE:1,0\n")
    before = sorted(path.name for path in tmp_path.iterdir())

    def fails(*words: str) -> str:
        status = main(words)
        printed = capsys.readouterr()
        assert (status, printed.out) == (2, "")
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        line, end, rest = printed.err.partition("\n")
        assert (end, rest) == ("\n", "")
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return fails


A, OUT = "a.safetensors", ["-o", "out.safetensors"]
HELP = "python -m lib_pm merge --help"


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], "no LoRAs"),
        (["no.safetensors"], "no.safetensors … exist … .safetensors"),
        (["junk.safetensors"], "junk.safetensors … .safetensors … damaged"),
        (["empty.safetensors"], "empty.safetensors … empty"),
        (["nan.safetensors"], f"nan.safetensors … {MID} … NaN … {MID}.lora_up.weight"),
        (
            [A, "xl.safetensors"],
            "a.safetensors … Stable Diffusion 1 … xl.safetensors … Stable Diffusion XL",
        ),
        ([A, "b.safetensors"], "base model … a.safetensors … b.safetensors"),
        ([A, "--mode", "tie"], f"mode … 'tie' … {', '.join(MODES)} … ties"),
        ([A, "--density", "0.5"], "concat … 'density' … lambda"),
        ([A, "--mode", "ties", "--density", "2"], "density … '2' … 0 … 1"),
        ([A, "--mode", "ties", "--density", "-0.1"], "density … '-0.1' … 0 … 1"),
        ([A, "--mode", "add_svd", "--svd-rank", "0"], "svd_rank … '0' … 1"),
        ([A, "--mode", "add_svd", "--svd-rank", "2.5"], "svd_rank … '2.5' … 1"),
        ([A, "--lambda", "much"], f"lambda … 'much' … {FACTOR}"),
        ([A, "--dtype", "int8"], "dtype … 'int8' … float32, float16, bfloat16, float64"),
        ([A, "--save-dtype", "int8"], "save_dtype … 'int8' … float32, float16, bfloat16, float64"),
        ([A, "--device", "npu"], "device … 'npu' … auto, cpu, cuda, mps … cuda:1"),
        ([A, "--apply", "unet"], "apply … 'unet' … model + clip, model, clip"),
        ([A, "--layers", "attn,conv"], "layers … 'conv' … attn, mlp, te, other"),
        ([A, "--layers", ""], "layers … '' … attn, mlp, te, other"),
        ([A, "--layers", "te"], "strengths, block weights or layer filters … every layer"),
        ([f"{A}:0"], "strengths, block weights or layer filters … every layer"),
        ([f"{A}:lbw=MIDDD"], "a … preset … 'MIDDD' … MIDD"),
        ([f"{A}:lbw=MINE", "--lbw-presets", "presets.txt"], "a … 2 … Stable Diffusion 1 … 17"),
        ([A, "--lbw-presets", "no.txt"], "presets in no.txt … cannot be read"),
        ([A, "--threads", "0"], "threads … 0 … 1"),
        ([A, "--threads", "x"], f"--threads … 'x' … {HELP}"),
        ([A, "--dense"], f"--dense … --density or --device or --verbose … {HELP}"),
        ([A, "--svdrank=4"], "--svdrank=4 … --svd-rank"),
        ([A, "--zzz"], f"--zzz … {HELP}"),
        ([":0.5"], "':0.5' … FILE, FILE:STRENGTH or FILE:MODEL:CLIP"),
        (
            ["<lora:a:much>", "--lora-dir", "."],
            "strength 'much' … '<lora:a:much>' … lbw=much",
        ),
        (["<lora:aa>", "--lora-dir", "."], "LoRA 'aa' … folder . … a?"),
        (["<lora:aa><lora:b>", "<lora:cc>", "--lora-dir", "."], "2 … 1. … LoRA 'aa' … 2. … LoRA 'cc'"),
        (["<lora:aa:x>", "<lora:b:y>", "<pm>", "--lora-dir", "."], "3 … 1. … 'x' … 2. … 'y' … 3. … '<pm>'"),
        (["<lora:a>", "--lora-dir", "no"], "LoRA folder no … exist"),
        (
            ["<lora:a>"],
            "'a' … .safetensors … --lora-dir",
        ),
        (
            ["<lora:a:1:pm=off>", "--lora-dir", "."],
            "a … pm=off",
        ),
        ([A, "<pm:add>", "<pm:ties>"], "2 <pm:…> tags … one"),
        ([A, "<pm:add>", "--mode", "ties"], "--mode … ties … <pm:…> … add … one"),
        ([A, "<pm:ties:density=2>"], "density … '2' … 0 … 1"),
        (
            ["conv.safetensors", "--mode", "add_svd", "--svd-conv-rank", "0"],
            "convolutions … svd_conv_rank … 0",
        ),
        ([f"{A}:0,8"], "strength '0,8' … 'a.safetensors:0,8' … 0.8"),
        ([f"{A}:x"], "strength 'x' … 'a.safetensors:x'"),
        ([f"{A}:nan"], "strength 'nan' … 'a.safetensors:nan'"),
        ([f"{A}:1:1:1"], "'a.safetensors:1:1:1' … three … FILE, FILE:STRENGTH or FILE:MODEL:CLIP"),
        ([f"{A}:te=1"], "'te=1' … 'a.safetensors:te=1' … FILE[:MODEL[:CLIP]][:lbw=…]"),
        ([f"{A}:lbw=MIDD:lbw=OUTD"], "'a.safetensors:lbw=MIDD:lbw=OUTD' … twice … MIDD … OUTD"),
        ([f"{A}:1e200"], f"strength … 'a.safetensors:1e200' … '1e200' … {FACTOR}"),
        (["<lora:a:1"], "Line 1, column 1 … '<lora:a:1' … >"),
        ([A, "<pm>"], "Line 1, column 1 … '<pm>' … <pm:MODE:option=value>"),
        (
            [A, "<pm:ties:density=0.5:density=0.9>"],
            "<pm:ties:density=0.5:density=0.9> … density … once … density=0.5 … density=0.9",
        ),
        (
            [A, "<pm:add_svd:rank=4:svd_rank=9>"],
            "<pm:add_svd:rank=4:svd_rank=9> … svd_rank … once … rank=4 … svd_rank=9",
        ),
        ([A, "--mode", "ties", "--density", "0.5", "--density", "0.9"], "--density … once … 0.5 … 0.9"),
        ([A, "--mode", "add_svd", "--rank", "4", "--svd-rank", "9"], "--rank … --svd-rank … same option"),
        ([A, "--mode", "ties", "--rank", "8"], "ties … 'svd_rank' … density, lambda"),
        ([f"{A}:1e6", "--lambda", "1e6"], f"{MID} … a.safetensors … value"),
        ([A, "--recipe", A], "a.safetensors … no Power Merger recipe"),
        ([A, "--recipe", "no.json"], "no.json … cannot be read"),
        ([A, "--recipe", "junk.safetensors"], "junk.safetensors … .safetensors … damaged"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_merge(fails: Fails, words: list[str], facts: str) -> None:
    found = fails("merge", *words, *OUT)
    assert says(found, facts), found


@pytest.mark.parametrize(
    ("target", "facts"),
    [
        ("no/out.safetensors", "output folder no … exist"),
        ("out.ckpt", "out.ckpt … .safetensors"),
        ("b.safetensors", "b.safetensors … already"),
    ],
)
@pytest.mark.parametrize("command", [["merge", A], ["resize", A, "--rank", "2"]], ids=["merge", "resize"])
def test_output(fails: Fails, command: list[str], target: str, facts: str) -> None:
    found = fails(*command, "-o", target)
    assert says(found, facts), found


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["convert", A], "--names … --save-dtype"),
        (["convert", A, "--names", "civitai"], "names … 'civitai' … kohya, comfy, diffusers, peft, onetrainer"),
        (["convert", A, "--save-dtype", "int8"], "save_dtype … 'int8' … float32"),
        (["merge", A, "--names", "civitai"], "names … 'civitai' … kohya, comfy, diffusers, peft, onetrainer"),
    ],
)
def test_names(fails: Fails, words: list[str], facts: str) -> None:
    found = fails(*words, *OUT)
    assert says(found, facts), found


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], "--rank … --dynamic … sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE"),
        (["--rank", "0"], "rank … 0 … 1"),
        (["--rank", "-4"], "rank … -4 … 1"),
        (["--rank", "4", "--conv-rank", "0"], "conv rank … 0 … 1"),
        (["--rank", "4", "--max-rank", "8"], "--max-rank … --dynamic … --rank"),
        (["--dynamic", "sv_fro=2"], "sv_fro … '2' … 0 … 1"),
        (["--dynamic", "fro=1"], "'fro' … sv_ratio=…, sv_fro=…, sv_cumulative=…"),
        (["--dynamic", "sv_fro=0.9", "--max-rank", "0"], "rank … 0 … 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_resize(fails: Fails, words: list[str], facts: str) -> None:
    found = fails("resize", A, *words, *OUT)
    assert says(found, facts), found


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", f"{LONG}.safetensors"],
        ["merge", f"{LONG}.safetensors", *OUT],
        ["merge", A, "-o", f"{LONG}.safetensors"],
        ["merge", A, "-o", f"{LONG}/out.safetensors"],
    ],
    ids=["inspect", "input", "output", "folder"],
)
def test_path_that_cannot_even_be_looked_at(fails: Fails, words: list[str]) -> None:
    """Too long, or in a folder that may not be entered: the system refuses to say whether it is there."""
    assert LONG[:40] in fails(*words)


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--mode", "ties", "--svd-rank", "4"], "--mode, --svd-rank"),
        (["--save-dtype", "fp32", "--apply", "model"], "--apply, --save-dtype"),
        (["--exact"], "--exact"),
        (["<pm:add>"], "<pm:…>"),
    ],
)
def test_a_recipe_cannot_be_changed(fails: Fails, words: list[str], flags: str) -> None:
    assert says(fails("merge", "--recipe", "r.json", *words, *OUT), f"recipe … {flags}")


@pytest.mark.parametrize("lora", [f"{A}:0.5", f"{A}:lbw=MIDD", "<lora:a:1:0.5>"])
def test_a_recipe_has_its_strengths(fails: Fails, lora: str) -> None:
    assert says(fails("merge", "--recipe", "r.json", lora, *OUT), "recipe … strengths … block weights")


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], "COMMAND … python -m lib_pm --help"),
        (["mrge"], "COMMAND … 'mrge' … merge"),
        (["resize", A, "--ranks", "4", *OUT], "--ranks 4 … --rank"),
        (["merge", A], f"-o/--output … {HELP}"),
        (["inspect"], "lora … python -m lib_pm inspect --help"),
        (["inspect", "no.safetensors"], "no.safetensors … exist … .safetensors"),
        (["inspect", "no\nsuch.safetensors"], "no such.safetensors … exist … .safetensors"),
        (["inspect", "."], ". … folder … .safetensors"),
    ],
)
def test_command(fails: Fails, words: list[str], facts: str) -> None:
    found = fails(*words)
    assert says(found, facts), found


def test_a_command_that_is_nearly_one(fails: Fails) -> None:
    assert says(fails("mrge"), "'mrge' … merge? (")
