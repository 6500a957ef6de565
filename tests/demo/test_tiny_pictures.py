"""Drawn pictures, and that the checks find in them what was drawn."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from demo.tiny.checks import look
from demo.tiny.pictures import draw
from demo.tiny.scenes import NEW_SHAPES, SHAPES, STYLES, Scene, held_out_scenes, random_scenes

PLAIN = ("",)


def test_captions() -> None:
    scene = Scene("circle", "red", "blue", "dotted", "left", "small")
    assert scene.caption == "a small red circle at the left on a dotted blue background"
    assert scene.short_caption == "a small red circle at the left"
    assert Scene("ring", "cyan", "white").caption == "a cyan ring on a white background"


def test_one_caption_in_twenty_is_held_out() -> None:
    scenes = list(islice(random_scenes(3), 4000))
    assert 0.03 < sum(scene.held_out for scene in scenes) / len(scenes) < 0.07
    held_out = held_out_scenes(200)
    assert len({scene.caption for scene in held_out}) == 200
    assert all(scene.held_out for scene in held_out)


def test_a_picture_follows_from_scene_and_seed() -> None:
    scene = Scene("star", "red", "white", styles=STYLES)
    one, two, other = (draw(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (3, 64, 64)
    assert one.dtype == np.float32
    assert 0 <= one.min() < one.max() <= 1
    assert (one == two).all()
    assert (one != other).any()


@pytest.mark.parametrize("styles", [(), *((style,) for style in STYLES), STYLES], ids=" ".join)
def test_checks_find_what_is_drawn(styles: tuple[str, ...]) -> None:
    random = np.random.default_rng(0)
    scenes = list(islice(random_scenes(0, SHAPES + NEW_SHAPES, styles, textures=PLAIN), 60))
    seen = [look(draw(scene, random)) for scene in scenes]
    assert [(one.colour, one.background) for one in seen] == [(scene.colour, scene.background) for scene in scenes]
    # A small shape with a thick outline may be taken for another: at most one
    assert sum(one.shape != scene.shape for one, scene in zip(seen, scenes, strict=True)) <= bool(styles)
    for style in STYLES:
        assert [one.has(style) for one in seen] == [style in styles] * len(seen)


def test_textures_are_no_stripes() -> None:
    random = np.random.default_rng(0)
    for texture in ("checkered", "dotted"):
        assert not look(draw(Scene("circle", "red", "cyan", texture), random)).has("stripes")


def test_noise_is_no_shape() -> None:
    assert look(np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)).shape == ""
