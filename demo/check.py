"""Two LoRAs used in every way there is, and whether the pictures agree: live and saved merge, and the stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import ImageChops
from PIL.Image import Image

from demo.grid import sheet
from demo.painter import Painter, read
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.pipeline.apply import Stacked
from lib_pm.prompt.parse import parse_prompt
from lib_pm.render.text import report_text

PROMPT = "a red star on a blue background"
TAGS = "<lora:star> <lora:stripes:0.8>"
WAYS = 7  # pictures
TOLERANCE = 1  # of 255: what rounding to 8 bits may make of the last bits of a float


def ways(painter: Painter, merged: Path) -> tuple[dict[str, Image], str]:
    """Return one picture for each way to use the two LoRAs, by name, and the merge's report.

    merged: the file that the merge is saved to.
    """
    uses = [LoraUse(painter.library.find(tag.name), tag.model, tag.clip) for tag in parse_prompt(TAGS).loras]
    images = {"base": painter.picture(PROMPT)}
    for use in uses:
        images[use.name] = painter.picture(PROMPT, read(use))
    images["stacked"] = painter.picture(PROMPT, *map(read, uses))

    # In float32, so that no rounding to the file's dtype is in the comparison
    recipe = make_recipe(uses, "concat", save_dtype="float32")
    report = merge_to_file(recipe, merged, overwrite=True)
    images["merged"] = painter.picture(PROMPT, Stacked(merge(recipe)[0]))
    images["saved"] = painter.picture(PROMPT, file=merged)
    images["taken off"] = painter.picture(PROMPT)
    return images, f"{TAGS} <pm:concat>\n{report_text(report)}"


def overview(images: Mapping[str, Image]) -> Image:
    """Return the sheet of the ways, with what each has less the base and less the stack."""
    rows = {
        "image": list(images.values()),
        "less the base": [difference(image, images["base"]) for image in images.values()],
        "less both stacked": [difference(image, images["stacked"]) for image in images.values()],
    }
    return sheet(f"{PROMPT}, {TAGS}", rows, list(images))


def difference(one: Image, other: Image) -> Image:
    """Return how far two images are apart, four times as bright as it is."""
    return ImageChops.difference(one, other).point(lambda value: 4 * value)


def compare(images: Mapping[str, Image]) -> tuple[str, bool]:
    """Return how far the images are from each other, as text, and True if the merge is what it should be."""
    pixels = {name: np.asarray(image).astype(int) for name, image in images.items()}

    def distance(one: str, other: str) -> int:
        return int(np.abs(pixels[one] - pixels[other]).max())

    lines = ["Largest difference of a pixel, of 255:"]
    alone = list(images)[1 : list(images).index("merged")]
    lines += [f"  {distance(name, 'base'):3}  {name} and the base" for name in alone]
    good = True
    for one, other, allowed, why in (
        ("merged", "stacked", TOLERANCE, "the live merge and both LoRAs stacked"),
        ("saved", "merged", TOLERANCE, "the saved file, loaded by diffusers, and the live merge"),
        ("taken off", "base", 0, "the merge taken off again and the base"),
    ):
        found = distance(one, other)
        good &= found <= allowed
        verdict = "as it should be" if found <= allowed else f"WRONG, expected {allowed} at most"
        lines.append(f"  {found:3}  {why}: {verdict}")
    return "\n".join(lines), good
