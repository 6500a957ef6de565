"""The Python interface does what the command line does, on files and on tensors in memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lib_pm
from lib_pm import Lora, MergeInputError, analyse, inspect, merge, resize
from lib_pm.cli import main
from tests.loras import deltas, make_lora, relative_error, write
from tests.messages import saying, says

ROOT = Path(__file__).parents[1]
SHAPES = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (24, 16),
    "lora_unet_mid_block_attentions_0_proj_in": (24, 16),
    "lora_unet_down_blocks_0_attentions_0_proj_in": (24, 16, 3, 3),
}
TIMES = {"seconds", "peak_memory", "file", "modelspec.date"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the LoRAs `style` and `char` in it and in models/Lora."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "Lora").mkdir(parents=True)
    for seed, name in enumerate(("style", "char")):
        for place in (tmp_path, tmp_path / "models" / "Lora"):
            write(place / f"{name}.safetensors", make_lora(SHAPES, 4 + seed, 2.0, seed=seed))
    return tmp_path


def same(value: Any) -> Any:
    """The value without what differs from run to run."""
    return {key: part for key, part in value.items() if key not in TIMES}


def content(name: str) -> tuple[bytes, dict[str, Any]]:
    """The tensors' bytes of a file, and its header."""
    data = Path(name).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = same(header["__metadata__"])
    return data[start:], header


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return same(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({"mode": "add_svd", "rank": 3, "lambda_": 0.5}, ["--mode", "add_svd", "--rank", "3", "--lambda", "0.5"]),
        (
            {"mode": "dare_ties", "density": 0.4, "seed": 7, "save_dtype": "float32"},
            ["--mode", "dare_ties", "--density", "0.4", "--seed", "7", "--save-dtype", "float32"],
        ),
        ({"apply": "model", "metadata": "minimal"}, ["--apply", "model", "--metadata", "minimal"]),
    ],
    ids=["default", "truncated", "random", "one part"],
)
def test_a_merge_is_the_command_lines(
    options: dict[str, Any], flags: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = printed(capsys, "merge", "style.safetensors", "char.safetensors:0.6", *flags, "-o", "out.safetensors")
    theirs = content("out.safetensors")
    result = merge(
        ["style.safetensors", ("char.safetensors", 0.6)], output="out.safetensors", overwrite=True, **options
    )
    assert content("out.safetensors") == theirs
    assert same(result.report.to_json()) == report
    written = load_file("out.safetensors")
    assert result.tensors.keys() == written.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in result.tensors.items())


def test_tags_are_the_command_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a cat <lora:style:0.8> <lora:char:0.6:lbw=MIDD> <pm:ties_svd:density=0.5:rank=2>"
    printed(capsys, "merge", text, "--lora-dir", "models/Lora", "-o", "out.safetensors")
    theirs = content("out.safetensors")
    merge(text, folder="models/Lora", output="out.safetensors", overwrite=True)
    assert content("out.safetensors") == theirs
    merge(text, folder="models/Lora", svd_rank=3, output="out.safetensors", overwrite=True)
    assert content("out.safetensors") != theirs


def test_tensors_are_what_their_file_is(folder: Path) -> None:
    style, char = load_file("style.safetensors"), load_file("char.safetensors")
    ours = merge([Lora(style, name="style"), Lora(char, 0.6, 0.2, name="char")], "dare_ties", density=0.5, seed=3)
    theirs = merge(["style.safetensors", Lora("char.safetensors", 0.6, 0.2)], "dare_ties", density=0.5, seed=3)
    ours.save("a.safetensors")
    theirs.save("b.safetensors")
    assert content("a.safetensors")[0] == content("b.safetensors")[0]
    recipes = [load["__metadata__"]["power_merger_recipe"] for load in map(_header, ("a", "b"))]
    assert recipes[0] == recipes[1]
    assert same(ours.report.to_json()) | {"size": 0} == same(theirs.report.to_json()) | {"size": 0}


def _header(name: str) -> dict[str, Any]:
    return content(f"{name}.safetensors")[1]


@pytest.mark.parametrize("mode", ["concat", "add", "ties_svd", "dare_linear"])
def test_one_lora_alone_is_itself(mode: str, folder: Path) -> None:
    tensors = make_lora(SHAPES, 4, 2.0)
    neutral = {} if mode in ("concat", "add") else {"density": 1.0}
    found = deltas(merge([(tensors, -1.5)], mode, save_dtype="float32", **neutral).tensors)
    expected = deltas(tensors)
    assert found.keys() == expected.keys()
    assert all(relative_error(found[name], -1.5 * expected[name]) < 1e-5 for name in expected)


def test_given_tensors_stay_as_they_are(folder: Path) -> None:
    tensors = make_lora(SHAPES, 4, 2.0)
    shared = {name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    before = {name: tensor.clone() for name, tensor in shared.items()}
    merge([shared, (shared, 0.5)], "ties", density=0.3)
    assert all(torch.equal(shared[name], before[name]) for name in shared)


def test_a_resize_is_the_command_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = printed(
        capsys, "resize", "char.safetensors", "--dynamic", "sv_fro=0.8", "--rank", "3", "-o", "o.safetensors"
    )
    theirs = content("o.safetensors")
    result = resize("char.safetensors", 3, dynamic="sv_fro=0.8", output="o.safetensors", overwrite=True)
    assert (content("o.safetensors"), same(result.report.to_json())) == (theirs, report)
    in_memory = resize(load_file("char.safetensors"), 3, dynamic="sv_fro=0.8")
    assert all(torch.equal(tensor, result.tensors[name]) for name, tensor in in_memory.tensors.items())


def test_inspect_and_analyse_find_what_the_command_line_prints(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert same(inspect("style.safetensors").to_json()) == printed(capsys, "inspect", "style.safetensors")
    found = json.loads(json.dumps(analyse(["style.safetensors", ("char.safetensors", 0.5)]).to_json()))
    assert same(found) == printed(capsys, "analyse", "style.safetensors", "char.safetensors:0.5")
    tensors = load_file("style.safetensors")
    assert inspect(tensors).to_json()["layers"] == inspect("style.safetensors").to_json()["layers"]


@pytest.mark.parametrize(
    ("do", "facts"),
    [
        (lambda: merge([]), "no LoRAs"),
        (lambda: merge(["style.safetensors"], "nothing"), "mode 'nothing' … concat"),
        (lambda: merge(["style.safetensors"], density=0.5), "concat … 'density' … lambda"),
        (lambda: merge(["none.safetensors"]), "none.safetensors … exist"),
        (lambda: merge("<lora:style:1>"), "<lora:NAME> … folder"),
        (lambda: merge("<lora:stile:1>", folder="models/Lora"), "LoRA 'stile' … folder Lora … style"),
        (lambda: merge("<lora:style:1><pm:ties>", "add", folder="models/Lora"), "mode … add … <pm:…> … ties … one"),
        (lambda: merge("<lora:style:1:pm=off>", folder="models/Lora"), "style … pm=off"),
        (lambda: merge([{"a.lora_up.weight": torch.ones(2, 2)}]), "LoRA 1 … a … no down factor"),
        (lambda: merge([{"a.lora_up.weight": [1.0]}]), "LoRA 1 … a.lora_up.weight … list … tensors of floating point"),
        (lambda: merge([3]), "int … a file … names with tensors"),
        (lambda: merge([Lora({}, name="x"), Lora({}, name="x")]), "named x"),
        (lambda: merge(["style.safetensors"], output="style.safetensors"), "style.safetensors … already"),
        (lambda: merge(["style.safetensors"], metadata="some"), "metadata … 'some' … all, no tags, minimal"),
        (
            lambda: merge([("style.safetensors", 0)], output="new.safetensors"),
            "Nothing … strengths, block weights or layer filters … every layer",
        ),
        (
            lambda: merge(["style.safetensors"], "ties_svd", rank="full").save("new.safetensors"),
            "svd_rank … full … applied",
        ),
        (lambda: resize("style.safetensors"), "rank … dynamic … sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE"),
        (lambda: resize("style.safetensors", 0), "rank … 0 … 1"),
    ],
)
def test_what_is_wrong_is_said(do: Any, facts: str, folder: Path) -> None:
    with pytest.raises(MergeInputError) as caught:
        do()
    assert says(caught.value, facts), caught.value
    assert not Path("new.safetensors").exists()


def test_the_lines_in_the_documents_run(folder: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.M | re.S)
    first, tags, pipeline = blocks
    assert len(first.splitlines()) == 8
    for block in (first, tags):
        exec(compile(block, "docs/python.md", "exec"), {})
    assert {path.name for path in folder.glob("*.safetensors")} >= {"merged.safetensors", "small.safetensors"}
    compile(pipeline, "docs/python.md", "exec")


def test_what_is_imported_is_what_is_used() -> None:
    program = (
        "import sys, lib_pm; assert 'torch' not in sys.modules; assert 'merge' in dir(lib_pm);"
        "from lib_pm import merge; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert all(hasattr(lib_pm, name) for name in lib_pm.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        lib_pm.nothing  # noqa: B018


def test_a_merge_that_cannot_be_saved_is_refused_before_the_work(folder: Path) -> None:
    layers: list[str] = []
    with pytest.raises(MergeInputError, match=saying("svd_rank … full … applied")):
        merge(
            ["style.safetensors"],
            "ties_svd",
            rank="full",
            output="new.safetensors",
            progress=lambda done, total, name, unit="layers": layers.append(name),
        )
    assert layers == []
