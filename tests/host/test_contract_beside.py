"""A live merge beside sd-webui-lora-block-weight, on the doubles: see test_contract.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.chosen import KINDS, by_double_only
from tests.host.double import EXTENSION, REPOSITORY, Double, running
from tests.host.merging import PLAIN, TIES, A, B, make_ab, saved
from tests.host.server import HIRES, difference, same

pytest_plugins = ("tests.host.fixtures",)

LBW = "sd-webui-lora-block-weight"


@pytest.fixture(params=KINDS)
def beside_lbw(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Double]:
    """A double with both extensions."""
    extensions = {EXTENSION: REPOSITORY, LBW: Path(__file__).parent / "extensions" / LBW}
    with running(request.param, tmp_path, extensions) as double:
        make_ab(double)
        yield double
        assert not double.swallowed()


@by_double_only
@pytest.mark.parametrize("payload", [{}, HIRES], ids=["txt2img", "hires"])
@pytest.mark.parametrize("lbw", ["1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0", "0.5,1,0,0,0.3,0,1,0,0,0,0,-1,1,0,0,0,2"])
def test_block_weights_act_once_beside_the_extension_for_them(
    beside_lbw: Double, lbw: str, payload: dict[str, Any]
) -> None:
    tags = f"<lora:{A}:0.8:0.7:lbw={lbw}><lora:{B}:0.6>"
    plain = beside_lbw.txt2img(PLAIN, **payload).images[0]
    for pm in (TIES, "<pm:concat>"):
        live = beside_lbw.txt2img(PLAIN + tags + pm, **payload).images[0]
        assert same(live, beside_lbw.txt2img(PLAIN + saved(beside_lbw, tags + pm), **payload).images[0])
        assert same(beside_lbw.txt2img(PLAIN, **payload).images[0], plain)
    stacked = beside_lbw.txt2img(PLAIN + tags, **payload).images[0]
    assert difference(live, stacked) <= 1
    assert difference(stacked, beside_lbw.txt2img(f"{PLAIN}<lora:{A}:0.8:0.7><lora:{B}:0.6>", **payload).images[0]) > 8


@by_double_only
def test_networks_weighed_by_that_extension_are_not_kept_for_later(beside_lbw: Double) -> None:
    off = {"alwayson_scripts": {"LoRA Block Weight": {"args": [False]}}}
    plain = beside_lbw.txt2img(f"{PLAIN}<lora:{A}:0.8>", **off).image
    beside_lbw.txt2img(f"{PLAIN}<lora:{A}:0.8:lbw=1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0><lora:{B}:0.6>{TIES}")
    assert same(beside_lbw.txt2img(f"{PLAIN}<lora:{A}:0.8>", **off).image, plain)
