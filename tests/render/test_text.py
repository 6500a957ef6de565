"""Reports and inspections as text, line by line."""

from __future__ import annotations

from lib_pm import to_text
from lib_pm.files.contents import Inspection
from lib_pm.merging.report import LayerReport, LoraReport, Report
from lib_pm.render.text import inspection_text, report_text


def report() -> Report:
    return Report(
        "Add (SVD) of 3 LoRAs (svd_rank 3, lambda 1)",
        [
            LoraReport("one", 3, 2),
            LoraReport("two", 2, 1, off_by_block=["in"], without_alpha=2),
            LoraReport("three", 2, 0, without_alpha=1),
        ],
        [LayerReport("a", 3, 2, 0.75), LayerReport("b", 2, 1, 0.5), LayerReport("c", 3, 1, None)],
        {"d": "every weight is 0", "e": "every weight is 0"},
        ["on the CPU"],
        0.7,
        1.25,
        peak_memory=300 * 2**20,
        file="out.safetensors",
        size=3 * 2**19,
    )


LINES = [
    "Add (SVD) of 3 LoRAs (svd_rank 3, lambda 1)",
    "  one: 2 of 3 layers used",
    "  two: 1 of 2 layers used, 1 switched off by block weights, no alpha stored: the rank is used instead",
    "  three: 0 of 2 layers used, no alpha stored in 1 of 2 layers: the rank is used instead",
    "  result: 3 layers, rank 2 to 3",
    "  left out: 2 layers, every weight is 0 (first d)",
    "  kept energy: 70.00% overall, lowest 50.00% in b",
    "  note: on the CPU",
    "  1.25 s, peak memory 300 MB",
    "  written: out.safetensors (1.5 MB)",
]


def test_a_report() -> None:
    assert report_text(report()).splitlines() == LINES


def test_a_report_with_every_layer() -> None:
    layers = ["  a: rank 3, kept energy 75.00%", "  b: rank 2, kept energy 50.00%", "  c: rank 3"]
    assert report_text(report(), every_layer=True).splitlines() == LINES[:-2] + layers + LINES[-2:]


def test_an_inspection() -> None:
    layers = {
        name: {"shape": "24×16", "rank": rank, "alpha": alpha, "block": block, "kind": kind, "network": "LoRA"}
        for name, rank, alpha, block, kind in (
            ("one", 4, 2.0, "BASE", "te"),
            ("two", 6, 6.0, "IN03", "other"),
            ("three", 6, 6.0, "MID", "attn"),
        )
    }
    tags = {"cat": 10, "red": 9, **{f"tag{i}": 1 for i in range(10)}}
    metadata = {"ss_output_name": "style", "note": "x" * 150}
    found = Inspection(
        "style.safetensors", 2**20, "Stable Diffusion 1", "kohya", {"F16": 1, "F32": 2}, layers, tags, metadata, None, 2
    )
    assert inspection_text(found).splitlines() == [
        "style.safetensors (1.0 MB)",
        "  model: Stable Diffusion 1",
        "  format: LoRA, kohya names, F16 1, F32 2",
        "  layers: 3 (te 1, other 1, attn 1)",
        "  rank: 4 to 6, alpha: 2 to 6 (no alpha stored in 2 of 3 layers: the rank is used instead)",
        "  blocks: BASE 1, IN03 1, MID 1",
        "  tags: cat 10, red 9, " + ", ".join(f"tag{i} 1" for i in range(8)) + " …",
        f"  note: {'x' * 99}…",
        "  ss_output_name: style",
    ]
    assert to_text(found) == inspection_text(found)
