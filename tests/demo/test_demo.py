"""The demo's parts; the whole of it is run by CI, and fails there if its numbers are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from demo.check import compare
from demo.grid import sheet
from lib_pm.files.reader import open_lora
from tests.samples import write_samples
from tests.small_pipeline import build_pipeline


def test_samples_are_what_kohya_writes(tmp_path: Path) -> None:
    style, character = write_samples(tmp_path, build_pipeline())
    with open_lora(style) as lora:
        # SD 1.5 has 192 layers in its transformers, and a LoCon 85 more in ResNet blocks and samplers
        assert len(lora.layers) == 277
        assert lora.family.id == "sd1"
        assert "lora_unet_down_blocks_0_downsamplers_0_conv" in lora.layers
    with open_lora(character) as lora:
        assert sum(name.startswith("lora_te_text_model_encoder_layers_") for name in lora.layers) == 12
        assert len(lora.layers) == 192 + 12
    with safe_open(str(style), "pt") as file:
        assert file.metadata()["ss_network_module"] == "networks.lora"
        assert json.loads(file.metadata()["ss_tag_frequency"]) == {"style": {"painting": 12, "red": 5}}
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118 (not a dict)


def plain(value: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (value, 0, 0))


@pytest.mark.parametrize(("saved", "good"), [(12, True), (13, False)])
def test_a_wrong_number_is_told(saved: int, good: bool) -> None:
    values = {"base": 0, "style": 5, "character": 6, "stacked": 10, "merged": 11, "saved": saved, "taken off": 0}
    text, right = compare({name: plain(value) for name, value in values.items()})
    assert right is good
    assert ("WRONG, expected 1 at most" in text) is not good


def test_sheet_holds_every_image() -> None:
    image = sheet("title", {"one": [plain(10), plain(20)], "two": [plain(30), plain(40)]}, ["a", "b"])
    counts = {colour: count for count, colour in image.getcolors(maxcolors=1 << 16) or ()}
    assert [counts[value, 0, 0] for value in (10, 20, 30, 40)] == [8 * 8] * 4  # each 4×4, twice as large
