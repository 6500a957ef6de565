"""The demo's sheets of pictures: contents and styles merged, and what strengths, densities and ranks do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from demo.grid import sheet
from demo.quality.settings import DENSITIES, FULL_RANK
from demo.tiny.model import render
from demo.tiny.scenes import NEW_SHAPES, STYLES
from lib_pm.core.registry import MODES
from lib_pm.files.library import Library
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.pipeline.apply import Stacked, stacked

SEED = 1
STRENGTHS = (0.0, 0.3, 0.6, 0.9, 1.2)
RANKS = (1, 2, 4, 8)


def picture(pipeline: Any, prompt: str, *loras: Stacked) -> Image.Image:
    """The picture of a prompt with the LoRAs stacked."""
    with stacked(pipeline, loras):
        pixels = render(pipeline, [prompt], [SEED])[0]
    return Image.fromarray((pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8))


def read(use: LoraUse) -> Stacked:
    """The LoRA by itself, as the WebUI stacks it."""
    return Stacked(load_file(use.path), use.model, use.clip)


def pairs(pipeline: Any, library: Library) -> Image.Image:
    """Rows are contents, columns styles, cells their merge; the first row and column have only one of both."""
    rows = {"": [picture(pipeline, _prompt("circle"))]}
    rows[""] += [_merged(pipeline, "circle", library, [style]) for style in STYLES]
    for content in NEW_SHAPES:
        merges = [[content], *([content, style] for style in STYLES)]
        rows[content] = [_merged(pipeline, content, library, names) for names in merges]
    return sheet("concat: each LoRA alone, and content and style merged", rows, ["", *STYLES])


def strengths(pipeline: Any, library: Library) -> Image.Image:
    """A content's strength against a style's."""
    rows = {
        f"heart {content}": [
            _merged(pipeline, "heart", library, ["heart", "outline"], strengths=(content, style)) for style in STRENGTHS
        ]
        for content in STRENGTHS
    }
    return sheet("concat: strengths", rows, [f"outline {style}" for style in STRENGTHS])


def densities(pipeline: Any, library: Library) -> Image.Image:
    """Every mode that has a density, at a few densities."""
    rows = {
        id: [
            _merged(pipeline, "star", library, ["star", "stripes"], id, _full_rank(id) | {"density": density})
            for density in DENSITIES
        ]
        for id, mode in MODES.items()
        if "density" in mode.options
    }
    return sheet("star and stripes: modes and densities", rows, [f"density {density}" for density in DENSITIES])


def ranks(pipeline: Any, library: Library) -> Image.Image:
    """Every mode that cuts off, at a few ranks."""
    rows = {
        id: [
            _merged(pipeline, "ring", library, ["ring", "twotone"], id, {"svd_rank": rank, "svd_conv_rank": rank})
            for rank in RANKS
        ]
        for id, mode in MODES.items()
        if "svd_rank" in mode.options
    }
    return sheet("ring and two-tone: modes and ranks", rows, [f"rank {rank}" for rank in RANKS])


def _merged(
    pipeline: Any,
    shape: str,
    library: Library,
    names: Sequence[str],
    mode: str = "concat",
    options: Mapping[str, Any] | None = None,
    strengths: Sequence[float] = (),
) -> Image.Image:
    uses = [
        LoraUse(library.find(name), strength, strength)
        for name, strength in zip(names, strengths or [1.0] * len(names), strict=True)
    ]
    tensors, _ = merge(make_recipe(uses, mode, options))
    return picture(pipeline, _prompt(shape), *([Stacked(tensors)] if tensors else []))


def _prompt(shape: str) -> str:
    return f"a red {shape} on a yellow background"


def _full_rank(id: str) -> dict[str, Any]:
    return {"svd_rank": FULL_RANK} if "svd_rank" in MODES[id].options else {}
