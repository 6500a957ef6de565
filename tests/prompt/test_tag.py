"""Tags are found, read and edited, and nothing of the text is lost. The page's reader: tests/browser/test_recipe.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_pm.core.errors import MergeInputError
from lib_pm.prompt.parse import parse_lora
from lib_pm.prompt.tag import Tag, check_text, has_tags, split_text, tags_of
from tests.messages import saying, says

CASES = json.loads((Path(__file__).parent.parent / "tags.json").read_text(encoding="utf-8"))


def one(text: str) -> Tag:
    (tag,) = tags_of(text)
    return tag


@pytest.mark.parametrize("case", CASES["texts"], ids=lambda case: repr(case["text"]))
def test_what_is_a_tag_and_what_should_be_one(case: dict[str, Any]) -> None:
    text = case["text"]
    assert [str(tag) for tag in tags_of(text) if tag.kind != "pm"] == case["loras"]
    assert "".join(map(str, split_text(text))) == text
    if case["broken"]:
        with pytest.raises(MergeInputError, match=r"Line \d+, column \d+: .* is not a tag"):
            check_text(text)
    else:
        check_text(text)
    assert has_tags(text) == (case["broken"] or "<lora:" in text or "<pm:" in text)


@pytest.mark.parametrize("case", CASES["reads"], ids=lambda case: case["tag"])
def test_what_a_tag_says(case: dict[str, Any]) -> None:
    tag = one(case["tag"])
    if case.get("wrong"):
        with pytest.raises(MergeInputError):
            parse_lora(tag)
        return
    assert (tag.name, *tag.strengths) == (case["name"], case["model"], case["clip"])
    assert (tag.lbw, tag.off, list(tag.other)) == (case.get("lbw", ""), case.get("out", False), case.get("other", []))


@pytest.mark.parametrize("case", CASES["edits"], ids=lambda case: f"{case['tag']} to {case['becomes']}")
def test_an_edit(case: dict[str, Any]) -> None:
    assert str(edited(one(case["tag"]), case)) == case["becomes"]


def edited(tag: Tag, case: dict[str, Any]) -> Tag:
    if "strengths" in case:
        return tag.with_strengths(*case["strengths"])
    return tag.with_name(case["name"]) if "name" in case else tag.with_lbw(case["lbw"])


WORDS = (
    "< > : = # , lora <lora:x <pm:ties lyco pm off te unet lbw w 0.5 1 -2 1e200 MIDD 1,0,0 x a=b \ud800 é nan".split(
        " "
    )
)
pieces = st.sampled_from([*WORDS, " ", "\n"])
texts = st.lists(pieces, max_size=30).map("".join)


@given(st.text() | texts)
def test_the_parts_are_the_text(text: str) -> None:
    assert "".join(map(str, split_text(text))) == text


keys = st.sampled_from(["te=0.25", "UNET = 2 ", "lbw=MIDD", " w = 1,0,0", "start=5", "pm=off", "dyn=4", "x", "a=b=c"])
numbers = st.sampled_from(["0.5", " -1 ", "+.25", "1e-2", "3"])


@given(
    st.lists(numbers, max_size=2),
    st.lists(keys, max_size=4, unique_by=lambda item: item.split("=")[0].strip().lower().replace("lbw", "w")),
    st.randoms(use_true_random=False),
    st.sampled_from([("0.125", "0.125"), ("0.125", "7"), ("1", "1"), ("0", "1")]),
    st.sampled_from(["", "OUTD", "1,0,1"]),
)
def test_an_edit_changes_only_what_it_is_about(
    plain: list[str], named: list[str], order: Any, strengths: tuple[str, str], lbw: str
) -> None:
    """Every other item is still there, as it was written and in its order, and says the same."""
    items = [*plain, *named]
    order.shuffle(items)
    tag = Tag("lora", ("x", *items))
    try:
        before = (tag.lbw, tag.off, tag.other, *tag.strengths)
    except MergeInputError:
        return  # `x` came into the place of the first strength, or there are block weights in both forms
    new = tag.with_strengths(*strengths)
    assert new.strengths == (float(strengths[1]), float(strengths[0]))
    assert (new.lbw, new.off, new.other) == before[:3]
    assert rest(new, "te", "unet") == rest(tag, "te", "unet")
    new = tag.with_lbw(lbw)
    assert (new.lbw, new.off, new.other, *new.strengths) == (lbw, *before[1:])
    assert rest(new, "lbw", "w") == rest(tag, "lbw", "w")
    assert tag.with_name("other").items[1:] == tag.items[1:]


def rest(tag: Tag, *keys: str) -> list[str]:
    """The items that have a key, but not one of these."""
    return [item for at, item in enumerate(tag.items) if "=" in item and at not in tag.places(*keys)]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a cat <lora:a:1> <pm:concat", "Line 1, column 18 … '<pm:concat' … no > … line"),
        ("<lora:heart:1>\n a <lora:stripes:0.7", "Line 2, column 4 … '<lora:stripes:0.7' … <lora:NAME:STRENGTH>"),
        ("\n\n<PM:concat>", "Line 3, column 1 … '<PM:concat>' … PM … lower case … <pm:MODE:option=value>"),
    ],
)
def test_what_is_no_tag_is_told_with_its_place(text: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        check_text(text)
    assert says(caught.value, facts), caught.value


def test_all_of_them_are_told_and_kinds_can_be_left_to_others() -> None:
    text = "<lora:a:1\n<pm>\n<LYCO:b>"
    with pytest.raises(MergeInputError, match=saying("3 problems … Line 1 … Line 2 … Line 3")):
        check_text(text)
    with pytest.raises(MergeInputError, match=r"\ALine 2, column 1: '<pm>'"):
        check_text(text, ("pm",))


@pytest.mark.parametrize(
    "name", ["", "a>b", "a<b", "a:b", "a\nb", " a", "a ", "\ud800", "a\x1b[2J", "a:5>\n<lora:other:9"]
)
def test_a_name_that_would_not_come_back_is_not_written(name: str) -> None:
    with pytest.raises(MergeInputError, match=saying("written … <lora:…>")):
        one("<lora:x:1>").with_name(name)


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("<lora:x:0.5:te=1:start=5:lbw=MIDD:pm=off>", True),
        ("<lora:x:0.5:unet= 2 :dyn=4>", True),
        ("<lora:x:1:1:4>", True),
        ("<lora: x:1>", False),  # a name with a space in front
        ("<lora:a=b:1>", False),  # the WebUI looks for a LoRA named 1
        ("<lora:x:TE=0.5>", False),
        ("<lora:x:te =0.5>", False),
        ("<lora:x:1:MIDD>", False),
        ("<lora:x:1:lbw=IN04=0.5>", False),  # two =: to the WebUI it is the second strength
        ("<lora:x:1:1:0.5>", False),  # its dyn is a whole number
    ],
)
def test_what_the_webui_reads_as_we_do(text: str, alike: bool) -> None:
    """By modules/extra_networks.py and extra_networks_lora.py of A1111, whose lines these are."""
    assert one(text).webui_agrees == alike
    assert reads_alike(text) == alike


def reads_alike(text: str) -> bool:
    tag = one(text)
    try:
        return webui(text) == (tag.name, tag.strengths[1], tag.strengths[0])
    except ValueError:
        return False


def webui(text: str) -> tuple[str, float, float]:
    """A1111's ExtraNetworkParams and ExtraNetworkLora.activate for one tag."""
    positional, named = [], {}
    for item in text[1:-1].partition(":")[2].split(":"):
        parts = item.split("=", 2)
        if len(parts) == 2:
            named[parts[0]] = parts[1]
        else:
            positional.append(item)
    te = float(positional[1]) if len(positional) > 1 else 1.0
    te = float(named.get("te", te))
    unet = float(positional[2]) if len(positional) > 2 else te
    unet = float(named.get("unet", unet))
    int(positional[3]) if len(positional) > 3 else None
    int(named["dyn"]) if "dyn" in named else None
    return positional[0], te, unet


@given(texts)
def test_no_text_raises_anything_else(text: str) -> None:
    for work in (check_text, lambda text: [parse_lora(tag) for tag in tags_of(text)]):
        try:
            work(text)
        except MergeInputError as error:
            str(error).encode()  # a page and a terminal can show it
