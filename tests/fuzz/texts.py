"""Texts that nobody meant, put into everything that reads what a user types."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from lib_pm.cli.arguments import request_of
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.core.visible import visible
from lib_pm.families.blocks import check_block_weights, expand_preset, parse_block_weights, read_presets
from lib_pm.families.families import SD1
from lib_pm.files.file_names import check_folder, check_name
from lib_pm.files.json_text import load_json
from lib_pm.merging.resize import parse_dynamic
from lib_pm.prompt import edit as rewrite
from lib_pm.prompt.parse import parse_file, parse_lora, parse_prompt
from lib_pm.prompt.presets import BUILT_IN
from lib_pm.prompt.tag import Tag, check_text, split_text
from lib_pm.sweep.axes import LoraLookup, make_axes
from lib_pm.workspace.draft import Draft, from_json, from_prompt, from_recipe
from tests.chosen import chosen
from tests.fuzz.junk import changed_json, check_message, junk_json
from tests.fuzz.near import near
from tests.fuzz.samples import RECIPE

WORDS = (
    *"< > : = , # lora <lora: <lora:x:1 <lora:x:1> <pm: <pm:ties_svd: <pm:concat> <lyco:y <lyco:y:0.5> pm off".split(),
    *"pm=off te unet= te=0.5 lbw= w= MIDD 1,0,0 IN04= mlp= density= rank= svd_rank= seed= lambda= full x a=b".split(),
    *"0.5 1 -2 1e6 1e200 1e308 -1e-320 1e-200 nan inf 0,8 concat ties a.safetensors .safetensors: C:\\ { } ( [".split(),
    *("\n", " ", "\r", "\t", "\0", "\x1b[2J", '"', "\ud800", "\udce9", "\u202e", "\u2028", "é", "٣", "²", "１", "："),
    ",".join("1" * 17),
    "9" * 310,
    "9" * 4400,
    f"-{'9' * 5000}",
    f"IN{'9' * 4400}=1",
    " " * 5000,
    "<pm" * 1000,
    ":" * 1000,
)
HUGE: tuple[Any, ...] = (10**400, -(10**5000), 1e308, float("nan"), float("inf"), None, True, [], {}, b"x")


def case(number: int) -> str:
    """The text of that number: near to what is meant, or words of tags and now and then any characters before them."""
    random = Random(number)
    if random.random() < 0.5:
        return near(random)
    text = "".join(random.choices(WORDS, k=random.randint(1, 14)))
    if random.random() < 0.3:
        blocks = ((0, 128), (128, 0x3000), (0xD800, 0xE000), (0x10000, 0x10FFFF))
        text = "".join(chr(random.randrange(*random.choice(blocks))) for _ in range(random.randint(0, 30))) + text
    return text


def drive(number: int) -> str:
    """Give the case of that number to every reader. Return how many of them read it; the others refused."""
    return run(case(number), Random(number))


def run(text: str, random: Random) -> str:
    read = 0
    for reader in (*READERS, *(partial(some, random) for some in RANDOM_READERS)):
        try:
            reader(text)
            read += 1
        except MergeInputError as error:
            check_message(str(error), text)
    return f"{read:2} readers read it"


def _find(name: str) -> Path:
    if name not in ("x", "y"):
        raise MergeInputError(f"There is no LoRA {name!r}.")
    return Path(name)


def _lossless(text: str) -> None:
    assert "".join(map(str, split_text(text))) == text


def _edit(random: Random, text: str) -> None:
    edits: tuple[Callable[[rewrite.Tags], rewrite.Tags], ...] = (
        partial(rewrite.scale_strengths, factor=0.5),
        partial(rewrite.balance, share=0.3),
        partial(rewrite.apply_to, part="clip"),
        partial(rewrite.set_mode, id=random.choice([*MODES, text])),
        partial(rewrite.set_option, name="density", text="0.5"),
        partial(rewrite.set_block_weights, number=1, lbw=random.choice(["MIDD", text])),
        partial(rewrite.set_name, number=1, name=random.choice(["y", text])),
        partial(rewrite.set_strength, number=1, model=random.choice([0.5, 1e200, float("inf")])),
    )
    rewrite.rewrite(text, [random.choice(edits)], random.choice([None, chosen("ties")]))


def _option(random: Random, text: str) -> None:
    mode = MODES[random.choice(list(MODES))]
    name = random.choice([*mode.options, "rank", "conv_rank", text])
    mode.values({name: random.choice([text, *HUGE])})


def _axis(random: Random, text: str) -> None:
    axis = random.choice(AXES)
    for value in axis.split(text):
        try:
            typed = axis.type(value)
        except ValueError:  # a range, which the plot reads
            continue
        axis.check(typed)


def _recipe(random: Random, text: str) -> None:
    lora = {"name": text, "model": random.choice([1.0, text, *HUGE]), "clip": 1.0, "lbw": "", "content": "00"}
    value: dict[str, Any] = {
        "loras": [lora | {"lbw": random.choice(["", "MIDD", text])}],
        "mode": random.choice(["concat", text]),
        "options": random.choice([{}, {"lambda": random.choice([text, *HUGE])}]),
        "apply": "model + clip",
        "layers": ["attn", "mlp", "te", "other"],
        "dtype": "float32",
        "save_dtype": "float16",
    }
    from_recipe(value)


def _json(random: Random, text: str) -> None:
    written = changed_json(random, json.dumps(random.choice((RECIPE, Draft(text).to_json()))))
    from_json(random.choice((written, junk_json(random))), "It")
    if (value := load_json(written)) is not None:
        from_recipe(value)


AXES = make_axes(LoraLookup(lambda: ["x"], _find, lambda: BUILT_IN))
READERS: tuple[Callable[[str], object], ...] = (
    _lossless,
    check_text,
    parse_prompt,
    chosen,
    lambda text: parse_lora(Tag.of("lora", text)),
    parse_file,
    lambda text: request_of([text, "x.safetensors"]),
    lambda text: Draft(text).recipe(_find, lambda: BUILT_IN),
    lambda text: Draft("<lora:x:1>", chosen(text)).recipe(_find, lambda: BUILT_IN),
    lambda text: Draft("<lora:x:1>").insert_into(text),
    lambda text: from_prompt(text, lambda name: name),
    lambda text: from_json(text, "It"),
    lambda text: check_block_weights(text, BUILT_IN, "x"),
    read_presets,
    parse_dynamic,
    check_name,
    check_folder,
    lambda text: visible(text).encode(),
    lambda text: load_json(text),
    lambda text: expand_preset(text, read_presets(text), "x"),
    lambda text: parse_block_weights(text, SD1, "x"),
)
RANDOM_READERS: tuple[Callable[[Random, str], object], ...] = (_edit, _option, _axis, _recipe, _json)
