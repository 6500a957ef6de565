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
HELP = "(see python -m lib_pm merge --help)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "There are no LoRAs to merge; add at least one."),
        (["no.safetensors"], "no.safetensors does not exist; give a LoRA's .safetensors file."),
        (["junk.safetensors"], "junk.safetensors is not a .safetensors file, or is damaged or cut off: …"),
        (["empty.safetensors"], "empty.safetensors is empty."),
        (["nan.safetensors"], f"nan.safetensors: layer {MID} has a NaN or an infinity in {MID}.lora_up.weight."),
        (
            [A, "xl.safetensors"],
            "These LoRAs are for different models: a.safetensors is for Stable Diffusion 1, "
            "xl.safetensors is for Stable Diffusion XL. …",
        ),
        ([A, "b.safetensors"], "The LoRAs disagree on their base model: …"),
        ([A, "--mode", "tie"], f"There is no mode 'tie'; the modes are: {', '.join(MODES)}. Did you mean ties?"),
        ([A, "--density", "0.5"], "Mode concat has no option 'density'; its options are: lambda."),
        ([A, "--mode", "ties", "--density", "2"], "density is '2'; allowed: a number from 0 to 1."),
        ([A, "--mode", "ties", "--density", "-0.1"], "density is '-0.1'; allowed: a number from 0 to 1."),
        ([A, "--mode", "add_svd", "--svd-rank", "0"], "svd_rank is '0'; allowed: a whole number, 1 or more."),
        ([A, "--mode", "add_svd", "--svd-rank", "2.5"], "svd_rank is '2.5'; allowed: a whole number, 1 or more."),
        ([A, "--lambda", "much"], f"lambda is 'much'; allowed: {FACTOR}."),
        ([A, "--dtype", "int8"], "dtype is 'int8'; allowed: float32, float16, bfloat16, float64."),
        ([A, "--save-dtype", "int8"], "save_dtype is 'int8'; allowed: float32, float16, bfloat16, float64."),
        (
            [A, "--device", "npu"],
            "device is 'npu'; allowed: auto, cpu, cuda, mps, or one of several GPUs, such as cuda:1.",
        ),
        ([A, "--apply", "unet"], "apply is 'unet'; allowed: model + clip, model, clip."),
        ([A, "--layers", "attn,conv"], "layers is 'conv'; allowed: attn, mlp, te, other."),
        ([A, "--layers", ""], "layers is ''; allowed: attn, mlp, te, other."),
        ([A, "--layers", "te"], "Nothing is left to merge: …"),
        ([f"{A}:0"], "Nothing is left to merge: …"),
        ([f"{A}:lbw=MIDDD"], "a: there is no block weight preset 'MIDDD'. Did you mean MIDD? Allowed: a preset (…"),
        ([f"{A}:lbw=MINE", "--lbw-presets", "presets.txt"], "a: 2 block weights; allowed for Stable Diffusion 1: …"),
        ([A, "--lbw-presets", "no.txt"], "The block weight presets in no.txt cannot be read: …"),
        ([A, "--threads", "0"], "threads is 0; allowed: a whole number, 1 or more."),
        ([A, "--threads", "x"], f"argument --threads: invalid int value: 'x' {HELP}"),
        ([A, "--dense"], f"unrecognized arguments: --dense. Did you mean --density or --device or --verbose? {HELP}"),
        (
            [A, "--svdrank=4"],
            "unrecognized arguments: --svdrank=4. Did you mean --svd-rank or …",
        ),
        ([A, "--zzz"], f"unrecognized arguments: --zzz {HELP}"),
        ([":0.5"], "':0.5' names no file; write FILE, FILE:STRENGTH or FILE:MODEL:CLIP."),
        (
            ["<lora:a:much>", "--lora-dir", "."],
            "The strength 'much' in '<lora:a:much>' is not a number. To set block weights, write lbw=much.",
        ),
        (["<lora:aa>", "--lora-dir", "."], "There is no LoRA 'aa' in …"),
        (["<lora:aa><lora:b>", "<lora:cc>", "--lora-dir", "."], "There are 2 problems: 1. There is no LoRA 'aa' …"),
        (["<lora:aa:x>", "<lora:b:y>", "<pm>", "--lora-dir", "."], "There are 3 problems: 1. The strength 'x' …"),
        (["<lora:a>", "--lora-dir", "no"], "The LoRA folder no does not exist."),
        (
            ["<lora:a>"],
            "'a' is not a .safetensors file; to give a LoRA by name, set its folder with --lora-dir.",
        ),
        (
            ["<lora:a:1:pm=off>", "--lora-dir", "."],
            "a: pm=off keeps a LoRA out of the merge; remove it from the command.",
        ),
        ([A, "<pm:add>", "<pm:ties>"], "There are 2 <pm:…> tags; allowed: one."),
        ([A, "<pm:add>", "--mode", "ties"], "--mode says ties, but the <pm:…> tag says add; give only one."),
        ([A, "<pm:ties:density=2>"], "density is '2'; allowed: a number from 0 to 1."),
        (
            ["conv.safetensors", "--mode", "add_svd", "--svd-conv-rank", "0"],
            "Nothing is left to write: all layers are convolutions, and svd_conv_rank is 0.",
        ),
        ([f"{A}:0,8"], "The strength '0,8' in 'a.safetensors:0,8' is not a number. Write 0.8, with a decimal point."),
        ([f"{A}:x"], "The strength 'x' in 'a.safetensors:x' is not a number. …"),
        ([f"{A}:nan"], "The strength 'nan' in 'a.safetensors:nan' is not a number."),
        ([f"{A}:1:1:1"], "'a.safetensors:1:1:1' has three numbers; allowed: FILE, FILE:STRENGTH or FILE:MODEL:CLIP."),
        ([f"{A}:te=1"], "'te=1' in 'a.safetensors:te=1' is unknown; allowed: FILE[:MODEL[:CLIP]][:lbw=…]."),
        ([f"{A}:lbw=MIDD:lbw=OUTD"], "'a.safetensors:lbw=MIDD:lbw=OUTD' has block weights twice: MIDD and OUTD. …"),
        ([f"{A}:1e200"], f"The strength in 'a.safetensors:1e200' is '1e200'; allowed: {FACTOR}."),
        (["<lora:a:1"], "Line 1, column 1: '<lora:a:1' is not a tag: it has no > on its line; …"),
        ([A, "<pm>"], "Line 1, column 1: '<pm>' is not a tag; write <pm:MODE:option=value>."),
        (
            [A, "<pm:ties:density=0.5:density=0.9>"],
            "<pm:ties:density=0.5:density=0.9> says density more than once: density=0.5 and density=0.9. …",
        ),
        (
            [A, "<pm:add_svd:rank=4:svd_rank=9>"],
            "<pm:add_svd:rank=4:svd_rank=9> says svd_rank more than once: rank=4 …",
        ),
        ([A, "--mode", "ties", "--density", "0.5", "--density", "0.9"], "--density is given more than once: 0.5 and …"),
        ([A, "--mode", "add_svd", "--rank", "4", "--svd-rank", "9"], "--rank and --svd-rank are the same option; …"),
        ([A, "--mode", "ties", "--rank", "8"], "Mode ties has no option 'svd_rank'; its options are: density, lambda."),
        ([f"{A}:1e6", "--lambda", "1e6"], f"Layer {MID}, merged from a.safetensors, has a value of …"),
        ([A, "--recipe", A], "a.safetensors contains no Power Merger recipe."),
        ([A, "--recipe", "no.json"], "no.json contains no Power Merger recipe."),
        ([A, "--recipe", "junk.safetensors"], "junk.safetensors is not a .safetensors file, or is damaged …"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_merge(fails: Fails, words: list[str], message: str) -> None:
    found = fails("merge", *words, *OUT)
    assert found.startswith(message.removesuffix("…")) if message.endswith("…") else found == message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no/out.safetensors", "The output folder no does not exist."),
        ("out.ckpt", "The output out.ckpt should end in .safetensors."),
        ("b.safetensors", "b.safetensors already exists; choose another name or allow overwriting."),
    ],
)
@pytest.mark.parametrize("command", [["merge", A], ["resize", A, "--rank", "2"]], ids=["merge", "resize"])
def test_output(fails: Fails, command: list[str], target: str, message: str) -> None:
    assert fails(*command, "-o", target) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give --rank, or --dynamic with sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE."),
        (["--rank", "0"], "The rank is 0; allowed: a whole number, 1 or more."),
        (["--rank", "-4"], "The rank is -4; allowed: a whole number, 1 or more."),
        (["--rank", "4", "--conv-rank", "0"], "The conv rank is 0; allowed: a whole number, 1 or more."),
        (["--rank", "4", "--max-rank", "8"], "--max-rank only works with --dynamic; use --rank for a fixed rank."),
        (["--dynamic", "sv_fro=2"], "sv_fro is '2'; allowed: a number above 0 and up to 1."),
        (["--dynamic", "fro=1"], "There is no dynamic rule 'fro'; allowed: sv_ratio=…, sv_fro=…, sv_cumulative=…."),
        (["--dynamic", "sv_fro=0.9", "--max-rank", "0"], "The rank is 0; allowed: a whole number, 1 or more."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_resize(fails: Fails, words: list[str], message: str) -> None:
    assert fails("resize", A, *words, *OUT) == message


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
    assert (
        fails("merge", "--recipe", "r.json", *words, *OUT)
        == f"The recipe already says how to merge; leave out {flags}."
    )


@pytest.mark.parametrize("lora", [f"{A}:0.5", f"{A}:lbw=MIDD", "<lora:a:1:0.5>"])
def test_a_recipe_has_its_strengths(fails: Fails, lora: str) -> None:
    assert fails("merge", "--recipe", "r.json", lora, *OUT) == (
        "The recipe already has strengths and block weights; give its LoRAs without them."
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND (see python -m lib_pm --help)"),
        (["mrge"], "argument COMMAND: invalid choice: 'mrge' …"),
        (["resize", A, "--ranks", "4", *OUT], "unrecognized arguments: --ranks 4. Did you mean --rank or …"),
        (["merge", A], f"the following arguments are required: -o/--output {HELP}"),
        (["inspect"], "the following arguments are required: lora (see python -m lib_pm inspect --help)"),
        (["inspect", "no.safetensors"], "no.safetensors does not exist; give a LoRA's .safetensors file."),
        (["inspect", "no\nsuch.safetensors"], "no such.safetensors does not exist; give a LoRA's .safetensors file."),
        (["inspect", "."], ". is a folder; give a LoRA's .safetensors file."),
    ],
)
def test_command(fails: Fails, words: list[str], message: str) -> None:
    found = fails(*words)
    assert found.startswith(message.removesuffix("…")) if message.endswith("…") else found == message


def test_a_command_that_is_nearly_one(fails: Fails) -> None:
    assert "Did you mean merge? (" in fails("mrge")
