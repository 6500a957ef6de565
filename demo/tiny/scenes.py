"""What the pictures show, as words: one coloured shape on a coloured ground, and its caption."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Far from each other, and no black: outlines and shades are made of it.
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 60),
    "green": (40, 160, 60),
    "cyan": (60, 205, 220),
    "blue": (40, 70, 220),
    "purple": (145, 45, 175),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
NEW_SHAPES = ("star", "ring", "heart")  # unknown to the base model: a LoRA's content
STYLES = ("stripes", "outline", "twotone")  # unknown to the base model too: a LoRA's style
TEXTURES = ("", "checkered", "dotted")
POSITIONS = ("", "left", "right", "top", "bottom")
SIZES = ("", "small", "large")
_HELD_OUT = 20  # one caption of so many is kept out of the training


@dataclass(frozen=True)
class Scene:
    """One picture. texture, position, size: "" for plain, in the middle, medium. styles: any of `STYLES`."""

    shape: str
    colour: str
    background: str
    texture: str = ""
    position: str = ""
    size: str = ""
    styles: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """What the picture shows but for its styles: "a small red circle at the left on a dotted blue background"."""
        place = f"at the {self.position}" if self.position else ""
        words = ("a", self.size, self.colour, self.shape, place, "on a", self.texture, self.background, "background")
        return " ".join(word for word in words if word)

    @property
    def short_caption(self) -> str:
        """The caption without the background."""
        return self.caption.split(" on a ")[0]

    @property
    def held_out(self) -> bool:
        """Whether the training must not see it; decided by the caption alone, so by no list."""
        return zlib.crc32(self.caption.encode()) % _HELD_OUT == 0


def random_scenes(
    seed: int, shapes: Sequence[str] = SHAPES, styles: tuple[str, ...] = (), *, textures: Sequence[str] = TEXTURES
) -> Iterator[Scene]:
    """Yield endless scenes, held-out ones among them. Half of what a caption may leave out is left out."""
    random = np.random.default_rng(seed)
    names = list(COLOURS)
    while True:
        colour, background = random.choice(len(names), 2, replace=False)
        yield Scene(
            shapes[int(random.integers(len(shapes)))],
            names[colour],
            names[background],
            _some(random, textures),
            _some(random, POSITIONS),
            _some(random, SIZES),
            styles,
        )


def held_out_scenes(count: int, seed: int = 0) -> list[Scene]:
    """Return `count` different scenes whose captions the training never saw."""
    found: dict[str, Scene] = {}
    for scene in random_scenes(seed):
        if scene.held_out:
            found.setdefault(scene.caption, scene)
        if len(found) == count:
            break
    return list(found.values())


def _some(random: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(random.integers(len(choices)))] if random.random() < 0.5 else choices[0]
