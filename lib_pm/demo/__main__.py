"""Merges two sample LoRAs, generates with the merge live and saved, and says whether the numbers are right."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageChops
from PIL.Image import Image
from torch import Tensor

from lib_pm.core.registry import MODES
from lib_pm.demo.grid import sheet
from lib_pm.demo.pipeline import PROMPT, build_pipeline, render
from lib_pm.demo.samples import write_samples
from lib_pm.host.diffusers import Stacked, apply, apply_stacked, remove
from lib_pm.jobs.library import Library
from lib_pm.jobs.merge import merge, merge_to_file
from lib_pm.jobs.prompt import LoraTag, parse_prompt
from lib_pm.jobs.recipe import LoraUse, Recipe, make_recipe

LORAS = "<lora:style:0.8> <lora:character:0.9:0.6>"  # as in the WebUI: a second number is the UNet's strength
DENSITIES = (0.2, 0.5, 0.8)
TOLERANCE = 1  # of 255: what rounding to 8 bits may make of the last bits of a float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib_pm.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what the demo writes")
    out: Path = parser.parse_args(arguments).out
    _quiet()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Windows pipe may lack a letter
    start = time.perf_counter()
    torch.set_num_threads(1)  # so small a model only makes the threads wait for each other

    print("A Stable Diffusion 1.x pipeline in small, with random weights (the images are patterns, not pictures):")
    pipeline = build_pipeline()
    library = Library(out / "loras")
    for path in write_samples(library.folder, pipeline):
        print(f"  {path}")
    images = stacking(pipeline, library)
    merged = out / "merged.safetensors"
    report = merge_to_file(recipe(library, "concat"), merged, overwrite=True)
    print(f"\n{LORAS} <pm:concat>\n{report.to_text()}\n")

    images["merged"] = with_lora(pipeline, merge(recipe(library, "concat"))[0])
    pipeline.load_lora_weights(str(out), weight_name=merged.name, local_files_only=True)
    images["saved"] = render(pipeline)
    pipeline.unload_lora_weights()
    images["taken off"] = render(pipeline)

    for name, image in images.items():
        image.save(out / f"{name.replace(' ', '_')}.png")
    rows = {
        "image": list(images.values()),
        "less the base": [difference(image, images["base"]) for image in images.values()],
        "less both stacked": [difference(image, images["stacked"]) for image in images.values()],
    }
    sheet(f"{PROMPT}, {LORAS}", rows, list(images)).save(out / "overview.png")
    grid(pipeline, library).save(out / "grid.png")
    print(f"Images in {out}, all of them in overview.png; every mode that has a density, in grid.png.")
    good = compare(images)
    print(f"{time.perf_counter() - start:.0f} s")
    return 0 if good else 1


def recipe(library: Library, mode: str, **options: Any) -> Recipe:
    """The recipe of the demo's two LoRAs, in float32: so no rounding to the file's dtype is in the comparison."""
    return make_recipe([use_of(tag, library) for tag in parse_prompt(LORAS).loras], mode, options, save_dtype="float32")


def use_of(tag: LoraTag, library: Library) -> LoraUse:
    return LoraUse(library.find(tag.name), tag.model, tag.clip, tag.lbw)


def stacking(pipeline: Any, library: Library) -> dict[str, Image]:
    """The base, each LoRA at its strength, and both stacked, by name: what there is without a merge."""
    images = {"base": render(pipeline)}
    tags = parse_prompt(LORAS).loras
    loras = [Stacked(read(library.find(tag.name)), tag.model, tag.clip) for tag in tags]
    for names, stack in [*(([tag.name], [lora]) for tag, lora in zip(tags, loras, strict=True)), (["stacked"], loras)]:
        applied = apply_stacked(pipeline, stack)
        images[names[0]] = render(pipeline)
        for one in applied:
            remove(pipeline, one.name)
    return images


def read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def with_lora(pipeline: Any, tensors: Mapping[str, Tensor]) -> Image:
    applied = apply(pipeline, tensors)
    image = render(pipeline)
    remove(pipeline, applied.name)
    return image


def difference(one: Image, other: Image) -> Image:
    """How far two images are apart, four times as bright as it is."""
    return ImageChops.difference(one, other).point(lambda value: 4 * value)


def grid(pipeline: Any, library: Library) -> Image:
    """Every mode that has a density, at a few densities."""
    rows = {
        id: [with_lora(pipeline, merge(recipe(library, id, density=density))[0]) for density in DENSITIES]
        for id, mode in MODES.items()
        if "density" in mode.options
    }
    return sheet(f"{PROMPT}, {LORAS}", rows, [f"density {density}" for density in DENSITIES])


def compare(images: Mapping[str, Image]) -> bool:
    """Print how far the images are from each other; True if the merge is what it should be."""
    pixels = {name: np.asarray(image).astype(int) for name, image in images.items()}

    def distance(one: str, other: str) -> int:
        return int(np.abs(pixels[one] - pixels[other]).max())

    print("\nLargest difference of a pixel, of 255:")
    for name in ("style", "character", "stacked"):
        print(f"  {distance(name, 'base'):3}  {name} and the base")
    good = True
    for one, other, allowed, why in (
        ("merged", "stacked", TOLERANCE, "the live merge and both LoRAs stacked"),
        ("saved", "merged", TOLERANCE, "the saved file, loaded by diffusers, and the live merge"),
        ("taken off", "base", 0, "the merge taken off again and the base"),
    ):
        found = distance(one, other)
        good &= found <= allowed
        print(f"  {found:3}  {why}: {'as it should be' if found <= allowed else f'WRONG, expected {allowed} at most'}")
    return good


def _quiet() -> None:
    """Keep the libraries' own remarks out of what the demo says; has to come before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"(peft|diffusers|transformers)\b")
    import transformers

    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
