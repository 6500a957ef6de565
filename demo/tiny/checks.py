"""What a picture shows, found by plain means: nearest colours, and the drawn shape that covers the same pixels best.

No part of it is trained, and none is told what the picture should show.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from demo.tiny.pictures import INK, SHADE, SIZE, Array, distances, texture
from demo.tiny.scenes import COLOURS, NEW_SHAPES, SHAPES, STYLES, Scene

Mask = NDArray[np.bool_]
_SHADES = (1.0, 0.75, SHADE)  # a colour in shade is still that colour
_RADII = np.arange(9.0, 23.0)
_FIT = 0.7  # a shape is one if it covers so much of what it and the picture cover together
PRESENT = 0.5  # a style is there from half its strength on


@dataclass(frozen=True)
class Seen:
    """What a picture shows. fit: share of covered pixels in common with the shape. styles: strength of each, 0..1."""

    shape: str
    fit: float
    colour: str
    background: str
    styles: dict[str, float]

    def has(self, style: str) -> bool:
        return self.styles[style] >= PRESENT

    def agrees(self, scene: Scene) -> bool:
        """Return whether the shape and its colour are those of the scene."""
        return (self.shape, self.colour) == (scene.shape, scene.colour)


def look(picture: Array) -> Seen:
    """Return what a picture (3, SIZE, SIZE), 0..1, shows. shape is "" if none fits well."""
    background = _commonest(picture, _frame(), without="")
    colour = _commonest(picture, np.ones((SIZE, SIZE), dtype=bool), without=background)
    kinds: list[Array] = [_shades(colour), _shades(background), _INK]
    kind = np.argmin([_nearest(picture, tones)[1] for tones in kinds], axis=0)
    covered, ground, ink = kind == 0, kind == 1, kind == 2
    shape, fit = _best_shape(covered, ~ink)
    styles = {
        "stripes": _stripes(_brightness(picture, background), ground),
        "outline": _outline(covered, ink),
        "twotone": _twotone(_brightness(picture, colour), covered),
    }
    return Seen(shape if fit >= _FIT else "", fit, colour, background, {style: styles[style] for style in STYLES})


_INK = np.array([INK], dtype=np.float32) / 255


def _shades(name: str) -> Array:
    """Return the tones of a colour in all shades, (tones, 3), 0..1."""
    return np.array([np.array(COLOURS[name]) * shade / 255 for shade in _SHADES], dtype=np.float32)


def _nearest(picture: Array, tones: Array) -> tuple[Array, Array]:
    """Return the index of each pixel's nearest tone and how far it is, both (SIZE, SIZE)."""
    away = np.linalg.norm(picture[None] - tones[:, :, None, None], axis=1)
    return away.argmin(axis=0), away.min(axis=0)


def _commonest(picture: Array, where: Mask, without: str) -> str:
    """Return the colour that most of these pixels have, be it in shade; no ink, and not `without`."""
    names = [name for name in COLOURS if name != without]
    tones = np.concatenate([*(_shades(name) for name in names), *([_shades(without)] if without else []), _INK])
    found = _nearest(picture, tones)[0][where] // len(_SHADES)
    return names[int(np.bincount(found, minlength=len(names))[: len(names)].argmax())]


@cache
def _frame() -> Mask:
    frame = np.ones((SIZE, SIZE), dtype=bool)
    frame[3:-3, 3:-3] = False
    return frame


@cache
def _templates() -> tuple[list[str], NDArray[np.complex128]]:
    """Return every shape in every size, centred, and the conjugate of its Fourier transform."""
    pairs = [(shape, radius) for shape in (*SHAPES, *NEW_SHAPES) for radius in _RADII]
    masks = [distances(shape, (SIZE / 2, SIZE / 2), radius) < 0 for shape, radius in pairs]
    return [shape for shape, _ in pairs], np.conj(np.fft.rfft2(np.array(masks, dtype=float)))


def _best_shape(covered: Mask, counted: Mask) -> tuple[str, float]:
    """Return the shape that fits best, at its best place and size, and its share in common with the covered pixels.

    Ink is not counted.
    """
    names, transforms = _templates()
    size = (SIZE, SIZE)
    common = np.fft.irfft2(np.fft.rfft2(covered) * transforms, size)
    area = np.fft.irfft2(np.fft.rfft2(counted) * transforms, size)
    fits = (common / np.maximum(covered.sum() + area - common, 1)).max(axis=(1, 2))
    best = int(fits.argmax())
    return names[best], float(fits[best])


def _brightness(picture: Array, name: str) -> Array:
    """Return each pixel's share of the full colour, 1 where it is not in shade."""
    colour = np.array(COLOURS[name], dtype=np.float32) / 255
    return np.asarray(np.tensordot(colour, picture, axes=1) / (colour @ colour), dtype=np.float32)


def _stripes(brightness: Array, ground: Mask) -> float:
    pattern = texture("stripes")
    return _darker(brightness, ground & (pattern < SHADE + 0.05), ground & (pattern > 0.95))


def _twotone(brightness: Array, covered: Mask) -> float:
    rows = np.arange(SIZE)[:, None] + 0.5
    middle = float((covered * rows).sum() / max(int(covered.sum()), 1))
    return _darker(brightness, covered & (rows > middle + 2), covered & (rows < middle - 2))


def _darker(brightness: Array, dark: Mask, light: Mask) -> float:
    """Return how far one part is darker than the other, as a share of what a full shade would make it."""
    if not dark.any() or not light.any():
        return 0.0
    ratio = np.median(brightness[dark]) / max(float(np.median(brightness[light])), 1e-3)
    return float(np.clip((1 - ratio) / (1 - SHADE), 0, 1))


def _outline(covered: Mask, ink: Mask) -> float:
    """Return the share of ink in what is at most two pixels outside of the shape."""
    padded = np.pad(covered, 2)
    near = np.any([padded[2 + y : 2 + y + SIZE, 2 + x : 2 + x + SIZE] for x, y in _WITHIN_TWO], axis=0) & ~covered
    return float(ink[near].mean()) if near.any() else 0.0


_WITHIN_TWO = [(x, y) for x in range(-2, 3) for y in range(-2, 3) if x * x + y * y <= 4]
