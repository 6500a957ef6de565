"""How a transformer's layers are called and shaped: what a LoRA's layers are held against to find its model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib_pm.core.layers import LayerShape


_IN_STACK = re.compile(r"(.+?)_(\d{1,3})_(.+)")


@dataclass(frozen=True, eq=False)
class Layout:
    """One way to call a model's layers, by paths as `parse_name` gives them.

    stacks: the numbered blocks and how many there are of each. optional: those that a LoRA on the whole model may leave
    out. layers: patterns of what is inside a block, each with the (out, in) that these weights have. around: a pattern
    of the layers outside of the blocks.
    """

    stacks: Mapping[str, int]
    optional: frozenset[str]
    layers: Sequence[tuple[re.Pattern[str], frozenset[tuple[int, int]]]]
    around: re.Pattern[str]

    def explains(self, layers: Mapping[str, LayerShape]) -> bool:
        """Return whether all of these can be layers of this model. layers: by path."""
        return all(self._has(path, shape) for path, shape in layers.items())

    def _has(self, path: str, shape: LayerShape) -> bool:
        match = _IN_STACK.fullmatch(path)
        if not match or match[1] not in self.stacks:
            return bool(self.around.fullmatch(path))
        return int(match[2]) < self.stacks[match[1]] and any(
            pattern.fullmatch(match[3]) and (shape.out, shape.inner) in shapes for pattern, shapes in self.layers
        )

    def is_whole(self, layers: Mapping[str, LayerShape]) -> bool:
        """Return whether there is something in each of the model's blocks."""
        there = {(match[1], int(match[2])) for path in layers if (match := _IN_STACK.fullmatch(path))}
        return all(
            (stack, number) in there
            for stack, count in self.stacks.items()
            if stack not in self.optional
            for number in range(count)
        )


def layout(stacks: str, around: str, *layers: tuple[str, str], width: int = 1) -> Layout:
    """Return a layout from text.

    stacks: `blocks 40, refiner 2?`, the optional ones with a `?`. layers: patterns, each with its shapes, such as
    `4x1 1`, where one number stands for a square. width: what these numbers are multiples of.
    """
    counted = [stack.split(" ") for stack in stacks.split(", ")]
    return Layout(
        {name: int(count.rstrip("?")) for name, count in counted},
        frozenset(name for name, count in counted if count.endswith("?")),
        [
            (re.compile(pattern), frozenset(_shape(shape, width) for shape in shapes.split()))
            for pattern, shapes in layers
        ],
        re.compile(around),
    )


def _shape(text: str, width: int) -> tuple[int, int]:
    out, _, inner = text.partition("x")
    return int(out) * width, int(inner or out) * width
