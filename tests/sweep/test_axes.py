"""The axes of a sweep, as far as they need no host."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.prompt.edit import Tags, read_tags, rewrite
from lib_pm.prompt.presets import BUILT_IN
from lib_pm.sweep.axes import LORAS, Axis, LoraLookup, make_axes
from tests.messages import saying, says

PROMPT = "<lora:sub/style:0.8><lora:char:0.6><pm:ties_svd>"
TAGS = read_tags(PROMPT)


def find_lora(name: str) -> str:
    if name not in ("style", "char"):
        raise MergeInputError(f"There is no LoRA {name!r}.")
    return name


AXES = {axis.name: axis for axis in make_axes(LoraLookup(lambda: ["char", "style"], find_lora, lambda: BUILT_IN))}


def values(axis: Axis, text: str) -> list[Any]:
    """Without a host's ranges."""
    return [axis.type(value) for value in axis.split(text)]


def rewritten(name: str, text: str) -> str:
    (value,) = values(AXES[name], text)
    AXES[name].check(value)
    return rewrite(PROMPT, [partial(_edit, AXES[name], value)])


def _edit(axis: Axis, value: Any, tags: Tags) -> Tags:
    return axis.edit(tags, value)


def _take(axis: Axis, text: str) -> None:
    for value in values(axis, text):
        axis.check(value)


def test_there_is_an_axis_for_everything_that_a_merge_can_be_told() -> None:
    labels = {option.declared.label for mode in MODES.values() for option in mode.options.values()}
    of_each = ("strength", "strength model", "strength clip", "name", "lbw")
    loras = {f"LoRA {number} {what}" for number in range(1, LORAS + 1) for what in of_each}
    assert set(AXES) == {"Mode", "Apply to", "All strengths", "Balance"} | labels | loras
    assert labels >= {"Density", "Seed", "Lambda", "SVD rank", "SVD conv rank"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Mode", "dare_ties_svd", PROMPT.replace("ties_svd", "dare_ties_svd")),
        ("Density", "0.30000000000000004", PROMPT.replace("ties_svd", "ties_svd:density=0.3")),
        ("Lambda", "-1", PROMPT.replace("ties_svd", "ties_svd:lambda=-1")),
        ("SVD rank", "8", PROMPT.replace("ties_svd", "ties_svd:svd_rank=8")),
        ("SVD rank", "full", PROMPT.replace("ties_svd", "ties_svd:svd_rank=full")),
        ("SVD conv rank", "0", PROMPT.replace("ties_svd", "ties_svd:svd_conv_rank=0")),
        ("SVD conv rank", "", PROMPT),
        ("Seed", "3", PROMPT),  # TIES has none
        ("LoRA 1 strength", "0.5", PROMPT.replace("0.8", "0.5")),
        ("LoRA 2 strength model", "0.5", PROMPT.replace("0.6", "0.6:0.5")),
        ("LoRA 2 strength clip", "0.5", PROMPT.replace("0.6", "0.5:0.6")),
        ("LoRA 1 name", "char", PROMPT.replace("sub/style", "char")),
        ("LoRA 2 lbw", "midd", PROMPT.replace("0.6", "0.6:lbw=midd")),
        ("LoRA 2 lbw", '"IN04=0.5,MID=0"', PROMPT.replace("0.6", "0.6:lbw=IN04=0.5,MID=0")),
        ("LoRA 2 lbw", ",".join(["1"] * 26).join('""'), PROMPT.replace("0.6", f"0.6:lbw={','.join(['1'] * 26)}")),
        ("Apply to", "clip", PROMPT.replace("0.8", "0.8:0").replace("0.6", "0.6:0")),
        ("All strengths", "0.5", PROMPT.replace("0.8", "0.4").replace("0.6", "0.3")),
        ("Balance", "0.25", PROMPT.replace("0.8", "0.75").replace("0.6", "0.25")),
    ],
)
def test_a_value_becomes_text(name: str, text: str, expected: str) -> None:
    assert rewritten(name, text) == expected


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("Mode", "ties", "ties"),
        ("Density", "0.5", "density 0.50"),
        ("Density", "0.125", "density 0.125"),
        ("Density", "0.33333333333", "density 0.3333"),
        ("Seed", "7", "seed 7"),
        ("Lambda", "-1", "lambda -1.00"),
        ("SVD rank", "16", "rank 16"),
        ("SVD rank", "full", "rank full"),
        ("SVD conv rank", "", "conv rank same as svd_rank"),
        ("LoRA 1 strength", "0.75", "style: 0.75"),
        ("LoRA 2 strength model", "0.75", "char model: 0.75"),
        ("LoRA 2 strength clip", "0", "char clip: 0.00"),
        ("LoRA 1 name", "sub/other", "other"),
        ("LoRA 2 lbw", "MIDD", "char: MIDD"),
        ("LoRA 2 lbw", "", "char: no lbw"),
        ("Apply to", "clip", "clip"),
        ("All strengths", "0.5", "strengths × 0.50"),
        ("Balance", "0.25", "style: 0.75, char: 0.25"),
    ],
)
def test_labels(name: str, text: str, label: str) -> None:
    (value,) = values(AXES[name], text)
    assert AXES[name].label(TAGS, value) == label


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("Mode", "tie", "mode 'tie' … concat, add"),
        ("Density", "2", "density … 2.0 … 0 … 1"),
        ("Density", "0-1 [5], x", "density … 'x' … 0 … 1"),
        ("SVD rank", "0", "svd_rank … 0 … 1 … full"),
        ("SVD rank", "2.5", "svd_rank … '2.5' … 1 … full"),
        ("SVD rank", "4, , 8", "svd_rank … '' … 1 … full"),
        ("SVD rank", "", "svd_rank … '' … 1 … full"),
        (
            "LoRA 1 strength",
            "much",
            "LoRA 1 strength … 'much' … -1000000 … 1000000",
        ),
        ("Balance", "1e999", "Balance … inf … 0 … 1 … 0-1 [5]"),
        (
            "Balance",
            "0,2",
            "Balance … 2.0 … 0 … 1 … 0-1 [5]",
        ),
        (
            "LoRA 2 strength",
            "1e200",
            "LoRA 2 strength … 1e+200 … -1000000 … 1000000",
        ),
        (
            "LoRA 2 lbw",
            "1,0,0.5",
            "LoRA 2 lbw … '1' … list of block weights … quotes … \"1,0,0,…\"",
        ),
        ("Apply to", "vae", "Apply to … 'vae' … model + clip, model, clip"),
        ("LoRA 1 name", "other", "LoRA 'other'"),
        ("LoRA 1 name", "odd:name", "'odd:name' … <lora:…>"),
        ("SVD rank", "9" * 5000, "svd_rank … 5002 … 1 … full"),
        ("Density", "1\r2", "Density … '1\\r2' … values"),
        ("LoRA 2 lbw", "MIDDD", "LoRA 2 … block weight preset 'MIDDD' … MIDD"),
        ("LoRA 2 lbw", '"1,0,0"', "LoRA 2 … 3 block weights"),
    ],
)
def test_bad_values_are_refused(name: str, text: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        _take(AXES[name], text)
    assert says(caught.value, facts), caught.value


def test_prompts_without_the_loras_are_refused() -> None:
    AXES["LoRA 2 name"].fits(TAGS)
    AXES["Balance"].fits(TAGS)
    with pytest.raises(MergeInputError, match=saying("LoRA 3 … 2 <lora:…>")):
        AXES["LoRA 3 lbw"].fits(TAGS)
    with pytest.raises(MergeInputError, match=saying("Balance … two LoRAs … 1")):
        AXES["Balance"].fits(read_tags("<lora:a:1><lora:b:1:pm=off>"))


def test_ranges_are_left_to_the_host() -> None:
    assert AXES["Density"].split("0-1 [5], 0.1-0.5 (+0.1), 1e-2") == ["0-1 [5]", "0.1-0.5 (+0.1)", "1e-2"]
    assert AXES["SVD rank"].split("1-64 [4], 4-16 (+4)") == ["1-64 [4]", "4-16 (+4)"]


def test_choices() -> None:
    choices = {name: axis.choices() for name, axis in AXES.items() if axis.choices}
    assert choices["Mode"] == list(MODES)
    assert choices["LoRA 8 name"] == ["char", "style"]
    assert choices["LoRA 1 lbw"] == list(BUILT_IN)
    assert choices["Apply to"] == ["model + clip", "model", "clip"]
    assert all(axis.type is str for axis in AXES.values() if axis.choices)


def test_what_needs_more_work_costs_more() -> None:
    cost = {name: axis.cost for name, axis in AXES.items()}
    assert cost["LoRA 1 name"] > cost["Mode"] > cost["LoRA 1 strength"] > cost["Density"] > cost["SVD rank"] > 0
    assert max(cost.values()) < 0.7  # a VAE's, which would else be changed with every merge
