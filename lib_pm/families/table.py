"""Read a family's table: one weight a line, its name in each layout, its shape.

    double_blocks    | transformer_blocks                       | 19 D
      img_attn.qkv   | attn.to_q + attn.to_k + attn.to_v        | 3x1
      img_attn.proj  | attn.to_out.0                            | 1
    after
      final_layer.1  | swap(norm_out.linear)                    | 2x1

A line at the margin begins a stack of numbered blocks and says how many there are, with a `?` if a LoRA on the whole
model may leave them out, and what they are called in block weights: `D` for D00, D01 …, `-` for nothing. `before` and
`after` begin what is outside of them, the blocks IN and OUT. `=` is the first name once more, `-` no name.

A weight may be one in one layout and several in another: `+` puts them below each other, in equal parts unless `to_q*3`
says how many. `swap`: its halves are in the other order. A shape is (out, in), one number for a square, several where
blocks differ, `-` for any; numbers below 100 are in widths of the model. `blocks.last` is the last block, where that
differs from the rest. A name that begins with `^` is of another component and takes no prefix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lib_pm.families.layouts import AFTER, BEFORE, NUMBER, WHOLE, Layout, Part, flat, path_of

_OUTSIDE = {"before": BEFORE, "after": AFTER}
_LAST = ".last"
_IN_WIDTHS = 100  # numbers below count widths of the model
_SWAP = re.compile(r"swap\((.+)\)")


def read_table(
    table: str, prefixes: Mapping[str, str], *, width: int = 1, counts: Mapping[str, str] | None = None
) -> tuple[Layout, ...]:
    """Return the layouts of a family, one for each column of names.

    prefixes: by the layouts' names, in the table's order. width: of the model. counts: how many blocks there are, for
    stacks of which the table does not say it, by their first names.
    """
    columns = [_Column() for _ in prefixes]
    for weight, line in enumerate(table.splitlines()):
        *names, last = (cell.strip() for cell in line.split("|"))
        names = [names[0] if name == "=" else name for name in names]
        if line.strip() in _OUTSIDE:
            for column in columns:
                column.stack, column.block = "", _OUTSIDE[line.strip()]
        elif line.startswith("  "):
            shapes = [_shape(shape, width) for shape in last.split() if shape != "-"]
            _add_weight(columns, weight, names, shapes)
        elif line.strip():
            *count, block = last.split() or [""]
            for column, name in zip(columns, names, strict=True):
                column.begin(name, "".join(count) or (counts or {}).get(names[0], ""), block)
    return tuple(
        Layout(name, prefix, column.stacks, frozenset(column.optional), column.parts)
        for column, (name, prefix) in zip(columns, prefixes.items(), strict=True)
    )


@dataclass
class _Column:
    """What a layout is read into. stack: how names begin in the block of which it is the turn. block: its letters."""

    stack: str = ""
    block: str = ""
    stacks: dict[str, int] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    parts: dict[str, Part] = field(default_factory=dict)

    def begin(self, name: str, count: str, block: str) -> None:
        path = flat(name.removesuffix(_LAST))
        if name.endswith(_LAST):
            self.stack = f"{name.removesuffix(_LAST)}.{self.stacks[path] - 1}."
            return
        self.stack, self.block = f"{name}.{NUMBER}.", block.strip("-")
        self.stacks[path] = int(count.rstrip("?"))
        if count.endswith("?"):
            self.optional.add(path)


def _add_weight(
    columns: Sequence[_Column], weight: int, names: Sequence[str], shapes: Sequence[tuple[int, int]]
) -> None:
    read = [list(_pieces(name)) for name in names]
    halves = 2 if any(swapped for pieces in read for _, _, swapped in pieces) else 1
    units = math.lcm(halves, *(sum(size for _, size, _ in pieces) or 1 for pieces in read))
    for column, pieces in zip(columns, read, strict=True):
        at = 0
        for name, size, swapped in pieces:
            size *= units // sum(size for _, size, _ in pieces)
            half = size // 2
            rows = ((at + half, half), (at, half)) if swapped else ((at, size),)
            fits = frozenset((out * size // units, inner) for out, inner in shapes)
            part = Part(weight, column.stack + name if not name.startswith(WHOLE) else name, rows, fits, column.block)
            column.parts[path_of(part.name)] = part
            at += size


def _pieces(cell: str) -> Iterator[tuple[str, int, bool]]:
    """Yield name, size, and whether the halves are swapped, of what a cell puts below each other."""
    for word in cell.split(" + ") if cell != "-" else ():
        name, _, size = word.partition("*")
        swapped = _SWAP.fullmatch(name)
        yield swapped[1] if swapped else name, int(size or 1), bool(swapped)


def _shape(text: str, width: int) -> tuple[int, int]:
    out, _, inner = text.partition("x")
    return _size(out, width), _size(inner or out, width)


def _size(number: str, width: int) -> int:
    return int(number) * (width if int(number) < _IN_WIDTHS else 1)
