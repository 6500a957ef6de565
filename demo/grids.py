"""The demo's sheets of pictures, as data: contents and styles merged, what strengths, densities and ranks do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo.quality.settings import DENSITIES, FULL_RANK
from demo.tiny.scenes import NEW_SHAPES, STYLES
from lib_pm.core.registry import MODES

SEED = 1
STRENGTHS = (0.0, 0.3, 0.6, 0.9, 1.2)
RANKS = (1, 2, 4, 8)
STACKED = ""  # in a cell in place of a mode


@dataclass(frozen=True)
class Cell:
    """A picture. loras: (name, strength) of each. mode: its id, or STACKED."""

    prompt: str
    loras: Sequence[tuple[str, float]] = ()
    mode: str = "concat"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = SEED


@dataclass(frozen=True)
class Sheet:
    """rows: label -> one cell for each column."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]


def pairs() -> Sheet:
    """Return rows of contents, columns of styles, and their merges; the first row and column have only one of both."""
    rows = {"": [Cell(_prompt("circle")), *(Cell(_prompt("circle"), _full(style)) for style in STYLES)]}
    for content in NEW_SHAPES:
        merges = [[content], *([content, style] for style in STYLES)]
        rows[content] = [Cell(_prompt(content), _full(*names)) for names in merges]
    return Sheet("concat: each LoRA alone, and content and style merged", ["", *STYLES], rows)


def strengths() -> Sheet:
    """Return the sheet of a content's strength against a style's."""
    rows = {
        f"heart {content}": [Cell(_prompt("heart"), [("heart", content), ("outline", style)]) for style in STRENGTHS]
        for content in STRENGTHS
    }
    return Sheet("concat: strengths", [f"outline {style}" for style in STRENGTHS], rows)


def densities() -> Sheet:
    """Return the sheet of every mode that has a density, at a few densities."""
    loras = _full("star", "stripes")
    rows = {
        id: [Cell(_prompt("star"), loras, id, _full_rank(id) | {"density": density}) for density in DENSITIES]
        for id in _modes_with("density")
    }
    return Sheet("star and stripes: modes and densities", [f"density {density}" for density in DENSITIES], rows)


def ranks() -> Sheet:
    """Return the sheet of every mode that cuts off, at a few ranks."""
    loras = _full("ring", "twotone")
    rows = {
        id: [Cell(_prompt("ring"), loras, id, {"svd_rank": rank, "svd_conv_rank": rank}) for rank in RANKS]
        for id in _modes_with("svd_rank")
    }
    return Sheet("ring and two-tone: modes and ranks", [f"rank {rank}" for rank in RANKS], rows)


def stacked_and_merged() -> Sheet:
    """Return one prompt with its LoRAs stacked and merged; columns are the first six seeds, none left out."""
    prompt, loras = "a red star on a blue background", _full("star", "stripes")
    ways: dict[str, Cell] = {
        "no LoRA": Cell(prompt),
        "stacked": Cell(prompt, loras, STACKED),
        "concat": Cell(prompt, loras, "concat"),
        "ties_svd": Cell(prompt, loras, "ties_svd", {"density": 0.5, "svd_rank": 32}),
        "dare_linear_svd": Cell(prompt, loras, "dare_linear_svd", {"density": 0.5, "svd_rank": 32}),
    }
    seeds = range(1, 7)
    rows = {
        name: [Cell(cell.prompt, cell.loras, cell.mode, cell.options, seed) for seed in seeds]
        for name, cell in ways.items()
    }
    words = " ".join(f"<lora:{name}:1>" for name, _ in loras)
    return Sheet(f"{prompt} {words}", [f"seed {seed}" for seed in seeds], rows)


def cells(sheet: Sheet) -> Iterable[Cell]:
    """Return all cells of a sheet, row by row."""
    return (cell for row in sheet.rows.values() for cell in row)


def _full(*names: str) -> list[tuple[str, float]]:
    return [(name, 1.0) for name in names]


def _prompt(shape: str) -> str:
    return f"a red {shape} on a yellow background"


def _modes_with(option: str) -> list[str]:
    return [id for id, mode in MODES.items() if option in mode.options]


def _full_rank(id: str) -> dict[str, Any]:
    return {"svd_rank": FULL_RANK} if "svd_rank" in MODES[id].options else {}


SHEETS = {
    "stacked-merged": stacked_and_merged(),
    "pairs": pairs(),
    "strengths": strengths(),
    "densities": densities(),
    "ranks": ranks(),
}
