"""A setting's pictures, and what the checks find in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from safetensors.torch import load_file

from demo.quality.settings import CONTENT_ALONE, STACKED, STYLE_ALONE, Loras, Setting
from demo.tiny.checks import Seen, look
from demo.tiny.model import render
from demo.tiny.scenes import Scene, held_out_scenes, random_scenes
from demo.tiny.weights import LORAS
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.pipeline.apply import Stacked, stacked


@dataclass(frozen=True)
class Score:
    """Shares of the pictures: the content's shape is there, all styles are, colour and background are as captioned."""

    pictures: int
    content: float
    style: float
    caption: float
    all: float


def measure(pipeline: Any, loras: Loras, setting: Setting, seeds: int) -> Score:
    """Return the score of `seeds` pictures: the content in random colours on plain grounds, the same for all."""
    scenes = list(islice(random_scenes(1, (loras.content,), textures=("",)), seeds))
    scenes = [Scene(scene.shape, scene.colour, scene.background) for scene in scenes]
    with stacked(pipeline, _used(loras, setting)):
        pictures = render(pipeline, [scene.caption for scene in scenes], list(range(seeds)))
    return score([look(picture) for picture in pictures], scenes, loras)


def captions_right(pipeline: Any, count: int) -> int:
    """Return how many of `count` captions that the training never saw give the captioned shape in its colour."""
    scenes = held_out_scenes(count)
    pictures = render(pipeline, [scene.caption for scene in scenes], list(range(count)))
    return sum(look(picture).agrees(scene) for picture, scene in zip(pictures, scenes, strict=True))


def score(seen: Sequence[Seen], scenes: Sequence[Scene], loras: Loras) -> Score:
    contents = [one.shape == loras.content for one in seen]
    styles = [all(one.has(style) for style in loras.styles) for one in seen]
    captions = [
        (one.colour, one.background) == (scene.colour, scene.background)
        for one, scene in zip(seen, scenes, strict=True)
    ]
    everything = [all(held) for held in zip(contents, styles, captions, strict=True)]
    return Score(len(seen), *(sum(held) / len(seen) for held in (contents, styles, captions, everything)))


def together(scores: Sequence[Score]) -> Score:
    """Return the score of all pictures of several scores."""
    pictures = sum(one.pictures for one in scores)
    parts = ("content", "style", "caption", "all")
    return Score(pictures, *(sum(getattr(one, part) * one.pictures for one in scores) / pictures for part in parts))


def interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count` trials."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _used(loras: Loras, setting: Setting) -> list[Stacked]:
    """Return what is on the pipeline: the LoRAs themselves, or their merge."""
    paths = {name: LORAS / f"{name}.safetensors" for name in loras.names}
    stacks = {CONTENT_ALONE: loras.names[:1], STYLE_ALONE: loras.styles, STACKED: loras.names}
    if setting.mode in stacks:
        return [Stacked(load_file(paths[name])) for name in stacks[setting.mode]]
    tensors, _ = merge(make_recipe([LoraUse(path) for path in paths.values()], setting.mode, setting.options))
    return [Stacked(tensors)]
