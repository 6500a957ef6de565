"""The ways to call a transformer's weights: what a LoRA's layers are held against to find its model, and what tells
that layers from different trainers are of one weight. `table.py` reads them from a family's table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from lib_pm.core.rows import Rows

if TYPE_CHECKING:
    from lib_pm.core.layers import LayerShape

_IN_STACK = re.compile(r"(.+?)_(\d{1,3})_(.+)")
NUMBER = "#"  # in a name: that of its block
BEFORE, AFTER = "IN", "OUT"  # the blocks of what is outside of the stacks
WHOLE = "^"  # before a name that takes no prefix


@dataclass(frozen=True)
class Part:
    """A layer of a layout: these rows of that weight of the model, in this order, in units of which it has `size`.

    name: dotted, with `#` for the number of its block. shapes: the (out, in) that it may have; none: any. block: what
    its blocks are called in block weights, without the number.
    """

    weight: int
    name: str
    rows: tuple[tuple[int, int], ...]
    shapes: frozenset[tuple[int, int]]
    block: str

    @property
    def size(self) -> int:
        return sum(count for _, count in self.rows)

    def named(self, number: str) -> str:
        return self.name.replace(NUMBER, number)


@dataclass(frozen=True, eq=False)
class Layout:
    """One way to call a model's layers. Paths are those that `parse_name` gives: without a prefix, with `_` for dots.

    name: whose it is. prefix: what its names are written with. stacks: the numbered blocks and how many there are of
    each. optional: those that a LoRA on the whole model may leave out. parts: by path.
    """

    name: str
    prefix: str
    stacks: Mapping[str, int]
    optional: frozenset[str]
    parts: Mapping[str, Part] = field(repr=False)

    def find(self, path: str) -> tuple[Part, str] | None:
        """Return the part that a layer is, and the number of its block; None for a layer that is not in the table."""
        match = _IN_STACK.fullmatch(path)
        if not match or match[1] not in self.stacks:
            part = self.parts.get(path)
            return (part, "") if part else None
        if int(match[2]) >= self.stacks[match[1]]:
            return None
        part = self.parts.get(path) or self.parts.get(f"{match[1]}_{NUMBER}_{match[3]}")
        return (part, match[2]) if part else None

    def block(self, path: str) -> str:
        """Return the block that a layer is in, as block weights call it: D03, IN, OUT; "" for none."""
        found = self.find(path)
        if not found or not found[0].block:
            return ""
        part, number = found
        return _numbered(part.block, int(number)) if number else part.block

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Return all blocks in their order: those before the stacks, the stacks, those after them."""
        names: dict[str, list[str]] = {}
        for path, part in self.parts.items():
            if NUMBER in path:
                count = self.stacks[path.partition(f"_{NUMBER}_")[0]]
                names[part.block] = [_numbered(part.block, number) for number in range(count)]
            elif part.block in (BEFORE, AFTER):
                names[part.block] = [part.block]
        order = sorted(filter(None, names), key=lambda block: (block != BEFORE, block == AFTER))
        return tuple(name for block in order for name in names[block])

    def explains(self, layers: Mapping[str, LayerShape]) -> bool:
        """Return whether all of these can be layers of this model. layers: by path."""
        return all(self._has(path, shape) for path, shape in layers.items())

    def _has(self, path: str, shape: LayerShape) -> bool:
        match = _IN_STACK.fullmatch(path)
        if not match or match[1] not in self.stacks:
            return path in self.parts or path.startswith(self._beginnings)
        found = self.find(path)
        return found is not None and (shape.out, shape.inner) in found[0].shapes

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        """Return how layers outside of the blocks begin: not all of them are in the table."""
        starts = {flat(part.name.partition(".")[0]) for part in self.parts.values() if "." in part.name}
        return tuple({f"{start}_" for start in starts if not any(stack.startswith(start) for stack in self.stacks)})

    @cached_property
    def weights(self) -> Mapping[int, tuple[Part, ...]]:
        """Return the parts that each weight of the model consists of here."""
        found: dict[int, list[Part]] = {}
        for part in self.parts.values():
            found.setdefault(part.weight, []).append(part)
        return {weight: tuple(parts) for weight, parts in found.items()}

    def is_whole(self, layers: Mapping[str, LayerShape]) -> bool:
        """Return whether there is something in each of the model's blocks."""
        there = {(match[1], int(match[2])) for path in layers if (match := _IN_STACK.fullmatch(path))}
        return all(
            (stack, number) in there
            for stack, count in self.stacks.items()
            if stack not in self.optional
            for number in range(count)
        )

    def place(self, part: Part) -> Iterator[tuple[Part, tuple[Rows, ...]]]:
        """Yield what a part of another layout is here: of which part, and which of its rows go where, in units."""
        for other in self.weights.get(part.weight, ()):
            rows = tuple(_common(part.rows, other.rows))
            if rows:
                yield other, rows


def written(name: str, prefix: str) -> str:
    """Return a dotted name as it is written behind this prefix."""
    if prefix.endswith("_"):
        return prefix + flat(name)
    return name[1:] if name.startswith(WHOLE) else prefix + name


def flat(name: str) -> str:
    """Return a dotted name with `_` for dots."""
    return name.removeprefix(WHOLE).replace(".", "_")


def path_of(name: str) -> str:
    """Return the path of a dotted name, as `parse_name` gives it."""
    path = flat(name)
    return path + "_0" if path.endswith("_to_out") else path


def _numbered(block: str, number: int) -> str:
    return f"{block}{number:02}"


def _common(ones: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> Iterator[Rows]:
    """Yield the rows that both have, by where they are in each."""
    at = 0
    for one, count in ones:
        to = 0
        for other, length in others:
            first, end = max(one, other), min(one + count, other + length)
            if first < end:
                yield Rows(at + first - one, end - first, to + first - other)
            to += length
        at += count
