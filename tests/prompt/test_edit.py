"""Prompts with other strengths, LoRAs, modes and options."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.prompt import edit as edits
from lib_pm.prompt.edit import Edit, read_tags, rewrite
from lib_pm.prompt.parse import parse_prompt
from tests.chosen import chosen
from tests.messages import says

PROMPT = "a <b> cat, <lora:sub/style:0.8> (red:1.2) <lyco:char:0.6:lbw=MIDD>, <lora:lcm:1:pm=off> <pm:ties_svd:rank=16>"


def after(text: str, *made: Edit, asked: str = "") -> str:
    return rewrite(text, made, chosen(asked) if asked else None)


def strength(number: int, **parts: float) -> Edit:
    return lambda tags: edits.set_strength(tags, number, **parts)


def mode(id: str) -> Edit:
    return lambda tags: edits.set_mode(tags, id)


def option(name: str, text: str) -> Edit:
    return lambda tags: edits.set_option(tags, name, text)


def test_tags() -> None:
    tags = read_tags(PROMPT)
    assert [str(tag) for tag in tags.loras] == [
        "<lora:sub/style:0.8>",
        "<lyco:char:0.6:lbw=MIDD>",
        "<lora:lcm:1:pm=off>",
    ]
    assert str(tags.pm) == "<pm:ties_svd:rank=16>"
    assert tags.merged == [1, 2]


@pytest.mark.parametrize(
    ("body", "parts", "expected"),
    [
        ("style", {"model": 0.5, "clip": 0.5}, "style:0.5"),
        ("style:0.8", {"model": 0.0, "clip": 0.0}, "style:0"),
        ("style:0.8", {"model": -1.0}, "style:0.8:-1"),
        ("style:0.8", {"clip": 0.25}, "style:0.25:0.8"),
        ("style:te=0.8:unet=0.5", {"clip": 1.0}, "style:te=1:unet=0.5"),
        ("style:0.8:0.4:lbw=MIDD", {"clip": 0.4}, "style:0.4:0.4:lbw=MIDD"),
        (
            "style:0.8:lbw=IN04=0.5,MID=0:start=3:pm=off",
            {"model": 2.0},
            "style:0.8:2:lbw=IN04=0.5,MID=0:start=3:pm=off",
        ),
        ("style:0.8:0.6:4", {"model": 1.0, "clip": 1.0}, "style:1:1:4"),  # the third one is the WebUI's dyn
        ("style:0.80:unet=0.80", {"model": 0.8, "clip": 0.8}, "style:0.80:unet=0.80"),  # no change, no other spelling
        ("style", {"model": 1 / 3, "clip": 0.1 + 0.2}, "style:0.3:0.33333333"),
    ],
)
def test_strengths_of_one_lora(body: str, parts: dict[str, float], expected: str) -> None:
    assert after(f"a <lora:{body}> b", strength(1, **parts)) == f"a <lora:{expected}> b"


numbers = st.floats(-4, 4).map(lambda number: round(number, 6))


@given(numbers, numbers, numbers, numbers)
def test_what_is_written_is_read_as_those_strengths(old: float, older: float, model: float, clip: float) -> None:
    text = after(f"<lora:x:{old!r}:{older!r}:lbw=MIDD>", strength(1, model=model, clip=clip))
    (tag,) = parse_prompt(text).loras
    assert (tag.model, tag.clip, tag.lbw) == (model, clip, "MIDD")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (strength(2, model=1.0), PROMPT.replace("char:0.6", "char:0.6:1")),
        (strength(4, model=1.0), PROMPT),  # there is no fourth LoRA
        (partial(edits.set_name, number=2, name="sub/other"), PROMPT.replace("char", "sub/other")),
        (partial(edits.set_block_weights, number=2, lbw="OUTALL"), PROMPT.replace("MIDD", "OUTALL")),
        (partial(edits.set_block_weights, number=2, lbw=""), PROMPT.replace(":lbw=MIDD", "")),
        (partial(edits.set_block_weights, number=1, lbw="1,0,0.5"), PROMPT.replace("0.8", "0.8:lbw=1,0,0.5")),
        (partial(edits.scale_strengths, factor=0.5), PROMPT.replace("0.8", "0.4").replace("0.6", "0.3")),
        (partial(edits.scale_strengths, factor=0.0), PROMPT.replace("0.8", "0").replace("0.6", "0")),
        (partial(edits.balance, share=0.3), PROMPT.replace("0.8", "0.7").replace("0.6", "0.3")),
        (partial(edits.apply_to, part="model + clip"), PROMPT),
        (partial(edits.apply_to, part="model"), PROMPT.replace("0.8", "0:0.8").replace("0.6", "0:0.6")),
        (partial(edits.apply_to, part="clip"), PROMPT.replace("0.8", "0.8:0").replace("0.6", "0.6:0")),
        (mode("ties"), PROMPT.replace("ties_svd:rank=16", "ties")),
        (mode("add_svd"), PROMPT.replace("ties_svd", "add_svd")),
        (option("svd_rank", "full"), PROMPT.replace("=16", "=full")),
        (option("svd_rank", ""), PROMPT.replace(":rank=16", "")),
        (option("density", "0.5"), PROMPT.replace("=16", "=16:density=0.5")),
        (option("seed", "7"), PROMPT),  # this mode has none
    ],
)
def test_nothing_else_changes(made: Edit, expected: str) -> None:
    assert after(PROMPT, made) == expected


def test_balance_is_for_two() -> None:
    for text in ("<lora:a:0.8>", "<lora:a:0.8><lora:b:0.6><lora:c:0.4>"):
        assert after(text, partial(edits.balance, share=0.3)) == text


def test_what_is_asked_for_beside_the_prompt_becomes_its_tag() -> None:
    assert after("a cat <lora:a:1>", asked="ties:density=0.5") == "a cat <lora:a:1><pm:ties:density=0.5:lambda=1>"
    changed = after("a cat <lora:a:1>", mode("ties_svd"), option("density", "0.9"), asked="ties:density=0.5")
    assert changed == "a cat <lora:a:1><pm:ties_svd:density=0.9:lambda=1>"
    assert after("a cat<pm:add>", asked="ties:density=0.5") == "a cat<pm:add>"
    assert after("a cat <lora:a:1>") == "a cat <lora:a:1>"
    assert after("a cat <lora:a:1>", mode("ties")) == "a cat <lora:a:1><pm:ties>"


@pytest.mark.parametrize(
    ("text", "made", "facts"),
    [
        (
            "<lora:a:1>",
            option("density", "0.5"),
            "density … <pm:",
        ),
        ("<lora:a:much>", strength(1, model=1.0), "strength 'much' … '<lora:a:much>'"),
        ("<pm:ties:densty=0.5>", mode("add"), "ties … 'densty' … density, lambda"),
        ("<pm:tie>", option("density", "0.5"), "mode 'tie' … ties"),
        ("<pm:ties>", mode("tie"), "mode 'tie' … ties"),
    ],
)
def test_messages(text: str, made: Edit, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        after(text, made)
    assert says(caught.value, facts), caught.value


@given(
    st.lists(st.sampled_from(list(MODES)), min_size=1), st.sampled_from(["density=0.5", "rank=8:lambda=2", "seed=3"])
)
def test_any_modes_in_a_row_leave_a_tag_that_can_be_read(ids: Sequence[str], options: str) -> None:
    text = after("<pm:dare_ties_svd:" + options + ">", *(mode(id) for id in ids))
    choice = parse_prompt(text).choice
    assert choice
    assert choice.mode.id == ids[-1]
    assert not choice.unused
