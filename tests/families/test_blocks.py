import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.families.blocks import (
    BLOCK_LISTS,
    check_block_weights,
    expand_preset,
    parse_block_weights,
    read_presets,
)
from lib_pm.families.detect import FAMILIES
from lib_pm.families.families import OTHER, SD1, SDXL
from lib_pm.families.transformers import FLUX
from tests import layouts
from tests.messages import saying


@pytest.mark.parametrize(("length", "names"), layouts.BLOCK_LISTS.items())
def test_each_number_of_a_list_is_for_its_block(length, names):
    assert BLOCK_LISTS[length] == tuple(names.split())
    text = ",".join(str(number) for number in range(length))
    weights = parse_block_weights(text, FLUX if length == 61 else SD1, "a")
    for number, name in enumerate(names.split()):
        assert weights.of(name, "other") == number


def test_a_block_that_a_list_does_not_name_is_off_and_a_layer_in_no_block_is_on():
    weights = parse_block_weights(",".join(["1"] * 17), SD1, "a")
    assert weights.of("IN03", "other") == 0
    assert weights.of("", "other") == 1


def test_named_blocks_ranges_kinds_and_aliases():
    weights = parse_block_weights("in04=0.5, OUT06-OUT03=0, M00=2, mlp=0.1,OUT05=-1", SD1, "a")
    assert weights.of("IN04", "attn") == 0.5
    assert weights.of("IN04", "mlp") == 0.05
    assert [weights.of(f"OUT{n:02}", "attn") for n in range(2, 8)] == [1, 0, 0, -1, 0, 1]
    assert weights.of("MID", "attn") == 2
    assert weights.of("BASE", "te") == 1


@pytest.mark.parametrize(
    ("family", "text", "on", "off"),
    [
        ("z-image", "LAYER00-LAYER28=0,NOISE01=0", ["LAYER29", "NOISE00", "IN", "TEXT"], ["LAYER05", "NOISE01"]),
        ("flux2-klein-4b", "D03=0,s10-s19=0", ["D02", "D04", "S09"], ["D03", "S10", "S19"]),
        ("wan-14b", "BLOCK39=0,VACE00=0,OUT=0", ["BLOCK38", "VACE01"], ["BLOCK39", "VACE00", "OUT"]),
        ("sd3", "CLIP=0,BLOCK00=0", ["T5", "BLOCK23"], ["CLIP", "BLOCK00"]),
    ],
)
def test_named_blocks_of_transformers(family, text, on, off):
    weights = parse_block_weights(text, FAMILIES[family], "a")
    assert [weights.of(block, "other") for block in (*on, *off)] == [1] * len(on) + [0] * len(off)
    check_block_weights(text, {}, "a")


@pytest.mark.parametrize(
    ("text", "family", "facts"),
    [
        ("1,1,1", FAMILIES["z-image"], "a … 3 block weights … Z-Image … LAYER00=0.5"),
        ("LAYER30=1", FAMILIES["z-image"], "a … block 'LAYER30' … TEXT, IN, LAYER00, … LAYER29"),
        ("1,1,1", SD1, "a … 3 block weights … Stable Diffusion 1: 12 (SDXL LoRA), 17 (SD1 LoRA), 20 "),
        (",".join("1" * 61), SDXL, "a … 61 block weights … Stable Diffusion XL: 12"),
        (",".join("1" * 17), FLUX, "a … 17 block weights … Flux.1: 61 (Flux)"),
        ("IN04=0.5", OTHER, "a … block weights … known blocks"),
        ("IN12=1", SD1, "a … block 'IN12' … BASE, IN00, … OUT11"),
        ("IN04-XX=1", SD1, "a … block 'XX' … BASE, IN00, … OUT11"),
        ("D00=1", SD1, "a … block 'D00' … BASE, IN00, … OUT11"),
        ("IN04=x", SD1, "a … block weight … IN04 … 'x' … a number"),
        ("IN04=0.5,MID", SD1, "a … 'MID' … block weights … NAME=number"),
        (",".join(["R"] + ["1"] * 16), SD1, "a … block weight … BASE … 'R' … a number"),
        (",".join(["nan"] + ["1"] * 16), SD1, "a … block weight … BASE … 'nan' … a number"),
    ],
)
def test_bad_block_weights_say_what_is_allowed(text, family, facts):
    with pytest.raises(MergeInputError, match=saying(facts)):
        parse_block_weights(text, family, "a")


def test_presets_are_read_as_that_extension_writes_them():
    presets = read_presets("# NO:1,1\nMIDD:1,0,1\n\nnonsense\nMINE: IN04=0.5,MID=0\nALL0.5:0.5,0.5\nNAME:\n")
    assert presets == {"MIDD": "1,0,1", "MINE": "IN04=0.5,MID=0", "ALL0.5": "0.5,0.5"}
    assert expand_preset("MIDD", presets, "a") == "1,0,1"
    assert expand_preset("mine", presets, "a") == "IN04=0.5,MID=0"
    assert expand_preset("1,2", presets, "a") == "1,2"
    with pytest.raises(MergeInputError, match=saying("block weight preset 'MID' … MIDD … IN04=0.5")):
        expand_preset("MID", presets, "a")
