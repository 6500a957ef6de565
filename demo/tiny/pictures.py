"""The pictures, drawn from signed distances: in pixels, negative inside the shape, so that every edge is smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.tiny.scenes import COLOURS, Scene

Array = NDArray[Any]  # float32 throughout
SIZE = 64  # pixels, both ways
RADIUS = {"small": 11.0, "": 15.0, "large": 20.0}
_CENTRE = {"": (0, 0), "left": (-12, 0), "right": (12, 0), "top": (0, -12), "bottom": (0, 12)}
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
INK = (20, 20, 20)
OUTLINE = 3.5  # pixels
STRIPE = 16  # pixels from stripe to stripe, along each axis
SHADE = 0.55  # the darker tone of stripes and of two-tone shapes


def draw(scene: Scene, random: np.random.Generator) -> Array:
    """Return a picture (3, SIZE, SIZE), 0..1. Place, size and colours vary by a little."""
    names = scene.colour, scene.background
    colours = [np.clip(np.array(COLOURS[name]) + random.uniform(-8, 8, 3), 0, 255) for name in names]
    return paint(scene, colours, random)


def paint(scene: Scene, colours: Sequence[Array], random: np.random.Generator) -> Array:
    """Return what `draw` does, with the shape's and the background's colours (0..255) given."""
    dx, dy = _CENTRE[scene.position] + random.uniform(-2, 2, 2)
    centre = SIZE / 2 + dx, SIZE / 2 + dy
    distance = distances(scene.shape, centre, RADIUS[scene.size] + random.uniform(-1, 1))
    colour, background = (one.astype(np.float32)[:, None, None] / 255 for one in colours)
    tone = colour * (np.where(centre[1] < _Y, SHADE, 1) if "twotone" in scene.styles else 1)
    picture = background * texture("stripes" if "stripes" in scene.styles else scene.texture)
    if "outline" in scene.styles:
        picture = _over(picture, np.array(INK, dtype=np.float32)[:, None, None] / 255, distance - OUTLINE)
    return np.asarray(_over(picture, tone, distance), dtype=np.float32)


def distances(shape: str, centre: tuple[float, float], radius: float) -> Array:
    """Return the signed distance of every pixel to the shape's edge, (SIZE, SIZE), in pixels."""
    x, y = (_X - centre[0]) / radius, (_Y - centre[1]) / radius
    distance: Array = np.float32(radius) * _SHAPES[shape](x, y)
    return distance


def _over(picture: Array, colour: Array, distance: Array) -> Array:
    covered: Array = np.clip(0.5 - distance, 0, 1)
    mixed: Array = picture * (1 - covered) + colour * covered
    return mixed


def texture(name: str) -> Array:
    """Return the brightness of the background, (SIZE, SIZE), SHADE..1."""
    bright: Array = np.ones((SIZE, SIZE), dtype=np.float32)
    if name == "checkered":
        bright[(_X // 16 + _Y // 16) % 2 == 1] = 0.75
    if name == "dotted":
        away = np.hypot(_X % 16 - 8, _Y % 16 - 8) - 3.5
        bright -= 0.4 * np.clip(0.5 - away, 0, 1)
    if name == "stripes":
        # Distance to the nearest edge of a diagonal stripe, in pixels
        phase = (_X + _Y) % STRIPE
        away = (np.abs(phase - STRIPE / 2) - STRIPE / 4) / np.sqrt(2)
        bright -= (1 - SHADE) * np.clip(0.5 - away, 0, 1)
    return bright


def _box(x: Array, y: Array, width: float, height: float) -> Array:
    box: Array = np.maximum(np.abs(x) - width, np.abs(y) - height)
    return box


def _star(x: Array, y: Array) -> Array:
    """Return the distance to a star: the edge from a tip (radius 1.15) to a notch (radius 0.5), five times by angle."""
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)
    length = np.hypot(x, y)
    px, py = length * np.sin(angle), length * np.cos(angle)
    notch = 0.5 * np.sin(fifth / 2), 0.5 * np.cos(fifth / 2)
    edge = np.hypot(notch[0], notch[1] - 1.15)
    away: Array = ((1.15 - notch[1]) * px + notch[0] * (py - 1.15)) / edge
    return away


def _heart(x: Array, y: Array) -> Array:
    """Return the distance to a heart: a square on its corner with a half disc on each upper side."""
    half = 0.88
    square: Array = (np.abs(x) + np.abs(y - 0.1) - half) / np.sqrt(2)
    discs: Array = np.hypot(np.abs(x) - half / 2, y - 0.1 + half / 2) - half / np.sqrt(2)
    heart: Array = np.minimum(square, discs)
    return heart


_SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "square": lambda x, y: _box(x, y, 0.88, 0.88),
    "triangle": lambda x, y: np.maximum(y - 0.75, (2 * np.abs(x) - y - 1.15) / np.float32(np.sqrt(5))),
    "diamond": lambda x, y: (np.abs(x) + np.abs(y) - 1.15) / np.float32(np.sqrt(2)),
    "cross": lambda x, y: np.minimum(_box(x, y, 1.05, 0.33), _box(x, y, 0.33, 1.05)),
    "star": _star,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.85) - 0.2,
    "heart": _heart,
}
