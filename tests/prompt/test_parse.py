"""The text that says what to merge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_pm.core.errors import MergeInputError
from lib_pm.core.params import LIMIT
from lib_pm.core.registry import MODES, Choice, Mode
from lib_pm.prompt.parse import (
    LoraTag,
    Request,
    parse_file,
    parse_lora,
    parse_pm,
    parse_prompt,
    write_lora,
    write_pm,
)
from lib_pm.prompt.tag import Tag
from tests.chosen import chosen
from tests.messages import saying, says


@pytest.mark.parametrize(
    ("body", "tag"),
    [
        ("style", LoraTag("style", 1.0, 1.0)),
        ("style:0.8", LoraTag("style", 0.8, 0.8)),
        ("style:1", LoraTag("style", 1.0, 1.0)),
        ("style:-1", LoraTag("style", -1.0, -1.0)),
        ("style:0.6:0.8", LoraTag("style", model=0.8, clip=0.6)),
        ("style:te=0.6:unet=-0.8", LoraTag("style", model=-0.8, clip=0.6)),
        ("style:te=0.6", LoraTag("style", model=0.6, clip=0.6)),
        ("style:0.5:unet=2", LoraTag("style", model=2.0, clip=0.5)),
        ("style:0.8:lbw=MIDD", LoraTag("style", 0.8, 0.8, "MIDD")),
        ("style:0.8:lbw=IN04=0.5,MID=0", LoraTag("style", 0.8, 0.8, "IN04=0.5,MID=0")),
        ("style:w=OUTD", LoraTag("style", lbw="OUTD")),
        ("style:1:pm=off", LoraTag("style", stacked=True)),
        ("style:1:start=5:dyn=4:pm=off", LoraTag("style", stacked=True, other=("start=5", "dyn=4"))),
        ("my style v1.5 (new):0.8", LoraTag("my style v1.5 (new)", 0.8, 0.8)),
        ("sub/folder\\style:1", LoraTag("sub/folder\\style")),
        (" style : 0.8 ", LoraTag("style", 0.8, 0.8)),
    ],
)
def test_lora_tag(body: str, tag: LoraTag) -> None:
    """As the WebUI reads it: the text encoder's strength comes first and stands for both if it is alone."""
    assert parse_prompt(f"a cat <lora:{body}>, red").loras == (tag,)


def test_prompt() -> None:
    text = "a <b> cat, <lora:style:0.8> (red:1.2) <lyco:char:0.6:lbw=MIDD>\n<pm: ties_svd :density=0.5: rank = 32>"
    assert parse_prompt(text) == Request(
        (LoraTag("style", 0.8, 0.8), LoraTag("char", 0.6, 0.6, "MIDD")),
        MODES["ties_svd"].choice({"density": 0.5, "svd_rank": 32}),
    )


def test_prompt_without_tags() -> None:
    assert parse_prompt("a cat: <hypernet:x:1>") == Request(())


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("<pm:add><pm:ties>", "2 <pm:…> … one"),
        (
            "<lora:style:much>",
            "strength 'much' … '<lora:style:much>' … lbw=much",
        ),
        ("<lora:style:inf>", "strength 'inf' … '<lora:style:inf>'"),
        ("<lora:style:1:nan>", "strength 'nan' … '<lora:style:1:nan>'"),
        ("<lora:style:>", "strength '' … '<lora:style:>'"),
        ("<pm:add:0.5>", "'0.5' … '<pm:add:0.5>' … option=value … lambda"),
        ("<pm:ties:density=2>", "density … '2' … 0 … 1"),
        ("<pm:add:ranks=4>", "add … 'ranks' … lambda"),
        ("<pm:add_svd:rank=4:svd_rank=9>", "<pm:add_svd:rank=4:svd_rank=9> … svd_rank … once … rank=4 … svd_rank=9"),
        (
            "<pm:ties:density=0.5:Density = 0.5>",
            "<pm:ties:density=0.5:Density = 0.5> … density … once … density=0.5 … Density = 0.5",
        ),
        ("<pm:ties:seed=1:seed=2>", "<pm:ties:seed=1:seed=2> … seed … once … seed=1 … seed=2"),
        ("<lora:a:te=1:te=0.5>", "<lora:a:te=1:te=0.5> … te … once … te=1 … te=0.5"),
        ("<lora:a:lbw=MIDD:w=OUTD>", "<lora:a:lbw=MIDD:w=OUTD> … lbw … once … lbw=MIDD … w=OUTD"),
        ("<lora:a:1:MIDD:w=OUTD>", "<lora:a:1:MIDD:w=OUTD> … block weights twice … MIDD … lbw=OUTD"),
        ("<lora:a:1:pm=of>", "pm … 'of' … <lora:a:1:pm=of> … off"),
        (
            "<pm:ties:densty=1>",
            "ties … 'densty' … density, lambda … density",
        ),
        ("<pm:Tie>", "mode 'tie' … ties"),
        ("<lora:a:0,8>", "strength '0,8' … '<lora:a:0,8>' … 0.8"),
        (
            "<lora:a:1:1:4>",
            "4 … '<lora:a:1:1:4>' … name, two strengths",
        ),
        ("<pm:add:rank=-4>", "svd_rank … '-4' … 1 … full"),
    ],
)
def test_messages(text: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        parse_prompt(text)
    assert says(caught.value, facts), caught.value


def test_options_of_other_modes_are_no_error() -> None:
    """The mode may come from a plot that replaces nothing but its name."""
    choice = chosen("ties_svd:density=0.25:rank=32:seed=7")
    assert choice.values == {"density": 0.25, "svd_rank": 32, "svd_conv_rank": None, "lambda": 1}
    assert choice.unused == ("seed",)
    assert says(choice.note(), "seed … nothing … ties_svd")
    assert chosen("concat").note() == ""


def test_unknown_mode_lists_all() -> None:
    with pytest.raises(MergeInputError, match=saying("'tie' … concat, add, … ties_svd")):
        chosen("tie")


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a.safetensors", LoraTag("a.safetensors")),
        ("a.safetensors:0.8", LoraTag("a.safetensors", 0.8, 0.8)),
        ("a.safetensors:2", LoraTag("a.safetensors", 2.0, 2.0)),
        ("a.safetensors:+.5", LoraTag("a.safetensors", 0.5, 0.5)),
        ("b.safetensors:-0.4:0.2", LoraTag("b.safetensors", model=-0.4, clip=0.2)),
        ("b.safetensors:1e-2:0", LoraTag("b.safetensors", model=0.01, clip=0.0)),
        (r"C:\x.safetensors", LoraTag(r"C:\x.safetensors")),
        (r"C:\x.safetensors:0.5", LoraTag(r"C:\x.safetensors", 0.5, 0.5)),
        (r"C:\a b\x.safetensors:-1:0.2:lbw=MIDD", LoraTag(r"C:\a b\x.safetensors", -1.0, 0.2, "MIDD")),
        (r"\\server\share\x v1.5.safetensors:1", LoraTag(r"\\server\share\x v1.5.safetensors")),
        ("D:1.safetensors:1", LoraTag("D:1.safetensors")),
        ("/a/odd:name.safetensors:0.5", LoraTag("/a/odd:name.safetensors", 0.5, 0.5)),
        ("/a/odd:1.0:name.safetensors", LoraTag("/a/odd:1.0:name.safetensors")),
        ("a:1:2:3", LoraTag("a:1", model=2.0, clip=3.0)),
        ("a.safetensors:lbw=IN04=0.5,MID=0", LoraTag("a.safetensors", lbw="IN04=0.5,MID=0")),
        ("a.safetensors:lbw=MIDD:0.5", LoraTag("a.safetensors", 0.5, 0.5, "MIDD")),
        ("name with spaces", LoraTag("name with spaces")),
    ],
)
def test_file(text: str, tag: LoraTag) -> None:
    """Model comes first here, and the text encoder follows it if it is not given."""
    assert parse_file(text) == tag


@pytest.mark.parametrize("text", ["", ":0.5", ":1:1", ":lbw=MIDD"])
def test_file_without_a_name(text: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        parse_file(text)
    assert says(caught.value, f"{text!r} … FILE, FILE:STRENGTH or FILE:MODEL:CLIP")


names = st.text(st.characters(exclude_characters="<>:", exclude_categories=["C"]), min_size=1).filter(
    lambda name: name == name.strip()
)
strengths = st.floats(-LIMIT, LIMIT)
tags = st.builds(
    LoraTag,
    names,
    strengths,
    strengths,
    st.sampled_from(["", "MIDD", "1,0,0.5", "IN04=0.5,OUT03-OUT06=0,mlp=0"]),
    st.booleans(),
).filter(lambda tag: not (tag.stacked and "=" in tag.name + tag.lbw))  # the WebUI reads those differently


@given(st.lists(tags, max_size=3))
def test_what_is_written_reads_the_same(loras: list[LoraTag]) -> None:
    assert parse_prompt(", ".join(write_lora(tag) for tag in loras)).loras == tuple(loras)


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (LoraTag("style", 1.0, 1.0), "<lora:style:1>"),
        (LoraTag("style", model=0.8, clip=0.6), "<lora:style:0.6:0.8>"),
        (LoraTag("style", -0.1, -0.1, "MIDD"), "<lora:style:-0.1:lbw=MIDD>"),
        (LoraTag("style", 0.3, 0.3, stacked=True), "<lora:style:0.3:pm=off>"),
        (LoraTag("style", stacked=True, other=("start=5",)), "<lora:style:1:start=5:pm=off>"),
    ],
)
def test_written_as_the_webui_writes_it(tag: LoraTag, text: str) -> None:
    assert write_lora(tag) == text


@given(strengths, strengths, st.sampled_from(["/loras/a b.safetensors", r"C:\a b\x.safetensors", "x:y.safetensors"]))
def test_any_strengths_after_a_file(model: float, clip: float, path: str) -> None:
    assert parse_file(f"{path}:{model!r}:{clip!r}") == LoraTag(path, model, clip)


@pytest.mark.parametrize("item", ["start=10", "lbwe=ATTN", "dyn=4", "lwb=MIDD", "4"])
def test_what_a_merge_cannot_do_is_refused_unless_the_host_stacks_it(item: str) -> None:
    body = f"style:0.8:0.6:{item}"
    with pytest.raises(MergeInputError) as caught:
        parse_lora(Tag.of("lora", body))
    assert says(caught.value, f"{item} … '<lora:{body}>' … name, two strengths … lbw="), caught.value
    assert parse_lora(Tag.of("lora", f"{body}:pm=off")).stacked


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
@given(st.data())
def test_the_mode_tag_that_is_written_reads_the_same(mode: Mode, data: st.DataObject) -> None:
    ranks = st.integers(1, 2**63 - 1)
    drawn = {
        "density": st.floats(0, 1),
        "seed": st.integers(0, 2**63 - 1),
        "lambda": strengths,
        "svd_rank": ranks if mode.method.linear else st.none() | ranks,
        "svd_conv_rank": st.none() | st.just(0) | ranks,
    }
    options = {name: data.draw(drawn[name]) for name in mode.options}
    choice = parse_pm(write_pm(Choice(mode, options)))
    assert choice.mode is mode
    assert choice.values == options
