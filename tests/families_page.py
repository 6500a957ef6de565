"""docs/families.md: the models whose LoRAs are known, from the tables and from their tests.

python -m tests.families_page    # writes it anew
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from lib_pm.families.families import SD1, SD2, SDXL, Family
from lib_pm.families.layouts import Layout, written
from lib_pm.families.transformers import TRANSFORMERS, TWINS
from tests.families.test_loaders import LOADERS
from tests.families.test_tables import CHECKPOINTS, PREFIXES, STYLES

PAGE = Path(__file__).parents[1] / "docs/families.md"
TRAINERS = {
    "kohya": "kohya's trainers and musubi",
    "comfy": "ComfyUI, ai-toolkit, diffusion-pipe",
    "diffusers": "diffusers, ai-toolkit",
    "onetrainer": "OneTrainer",
    "simpletuner": "SimpleTuner and LyCORIS",
    "peft": "PEFT",
    "checkpoint": "as in a checkpoint",
}
HEAD = f"""# Models

LoRAs of one model merge layer by layer, whoever trained them. A layer of each of these families is read under its name
in every layout below, with dots or with `_`, behind any of these prefixes or none:

{chr(10).join(f"* `{PREFIXES[style]}` ({who})" for style, who in TRAINERS.items())}

Where the LoRAs of a merge agree on their names, the result has these. Where they differ, it has those of the first
layout, unless [others](command_line.md#names) are asked for.

This page is made from the families' tables and their tests. A table has all modules of diffusers' model, and no other.
*Checkpoint*: every row of every weight goes where diffusers' conversion of a checkpoint puts it. *LoRA*: the same of
its conversion of LoRAs with these names. *Loaded*: diffusers' own loader reads what is written here under these names,
with no layer left over.

| model | layouts, by a layer of the first block | compared with diffusers' | loaded | blocks |
|---|---|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    return HEAD + "\n".join([*_unets(), *map(_row, TRANSFORMERS)]) + f"\n\n{_twins()}\n"


def _unets() -> Iterator[str]:
    for family in (SD1, SD2, SDXL):
        layer, last = ("lora_unet_input_blocks_4_1_proj_in", 8) if family is SDXL else (None, 11)
        kohya = layer or "lora_unet_down_blocks_1_attentions_0_proj_in"
        names = f"kohya `{kohya}`, diffusers `unet.down_blocks.1.attentions.0.proj_in`"
        yield f"| {family.title} | {names} | modules, LoRA | | BASE IN00…IN{last:02} MID OUT00…OUT{last:02} |"


def _row(family: Family) -> str:
    names = [f"{layout.name} `{written(_sample(layout), layout.prefix)}`" for layout in family.layouts]
    checked = ["modules", *(["checkpoint"] if family.id in CHECKPOINTS else [])]
    styles = [style.name for style in STYLES if style.family == family.id]
    checked += [f"LoRA ({', '.join(styles)})"] if styles else []
    return (
        f"| {family.title} | {', '.join(names)} | {', '.join(checked)} | {_loaded(family)} | {_blocks(family.blocks)} |"
    )


def _loaded(family: Family) -> str:
    if family.id not in LOADERS:
        return ""
    _, only = LOADERS[family.id]
    if only is None or len(family.layouts) == 1:
        return "diffusers"
    return f"diffusers, {family.layouts[0].name}{' (blocks)' if only else ''}"


def _sample(layout: Layout) -> str:
    """Return a layer that shows how attention is called: the one with the queries."""
    query = re.compile(r"\.(qkv|img_attn_qkv|to_q|q|wq|q_proj|w2q|img_attn_q)$")
    return next(part.named("0") for part in layout.parts.values() if query.search(part.name))


def _blocks(blocks: tuple[str, ...]) -> str:
    """Return the blocks with an … for those between the first and the last of a stack."""
    found = []
    for _, group in groupby(blocks, key=lambda block: block.rstrip("0123456789")):
        names = list(group)
        found += names if len(names) < 3 else [f"{names[0]}…{names[-1]}"]
    return " ".join(found)


def _twins() -> str:
    titles = {family.id: family.title for family in (SDXL, *TRANSFORMERS)}
    return "With the very layers of another, told apart by what a file says of itself alone: " + (
        ", ".join(f"{twin.title} ({titles[twin.like]})" for twin in TWINS) + "."
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
