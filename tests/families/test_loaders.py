"""What is written is what diffusers' own loaders read: every layer of the model arrives at a module of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_pipeline

from lib_pm.families.detect import FAMILIES
from lib_pm.families.layouts import written
from lib_pm.families.spelling import TableSpelling, spelling_of
from tests.families.test_tables import modules, original

# Family -> its loader in diffusers, and the layers that it reads under the family's first names: "" all, None no one.
BLOCKS = r"(blocks|layers|refiner)\.\d"
LOADERS: dict[str, tuple[str, str | None]] = {
    "flux1": ("Flux", ""),
    "chroma": ("Flux", r"^(double|single)_blocks"),
    "flux2-dev": ("Flux2", ""),
    "flux2-klein-9b": ("Flux2", ""),
    "flux2-klein-4b": ("Flux2", ""),
    "hunyuan-video": ("HunyuanVideo", r"^(double|single)_blocks"),
    "auraflow": ("AuraFlow", None),
    "qwen-image": ("QwenImage", ""),
    "wan-14b": ("Wan", "^(?!patch_embedding)"),
    "wan-5b": ("Wan", "^(?!patch_embedding)"),
    "wan-1.3b": ("Wan", "^(?!patch_embedding)"),
    "ltx": ("LTXVideo", BLOCKS),
    "ltx-13b": ("LTXVideo", BLOCKS),
    "ltx2": ("LTX2", ""),
    "z-image": ("ZImage", BLOCKS),
    "lumina2": ("Lumina2", BLOCKS),
    "sd3": ("SD3", None),
    "sd3.5-large": ("SD3", None),
    "hidream": ("HiDreamImage", ""),
    "sana": ("Sana", ""),
    "anima": ("Anima", ""),
    "krea2": ("Krea2", ""),
    "ernie-image": ("ErnieImage", ""),
    "cogvideox-2b": ("CogVideoX", ""),
    "cogvideox-5b": ("CogVideoX", ""),
    "mochi": ("Mochi1", ""),
}


def arrived(family: str, spelling: TableSpelling, only: str = "") -> tuple[int, set[str]]:
    """How many layers were given, and the modules that diffusers' loader makes of them."""
    layers = {name: out for name, out in original(family, spelling.layout.name).items() if re.search(only, name)}
    state: dict[str, Any] = {}
    for name, out in layers.items():
        name = written(name, spelling.prefix)
        up, down = (".lora_up", ".lora_down") if spelling.is_flat else (".lora_B", ".lora_A")
        state |= {f"{name}{up}.weight": torch.ones(out, 2), f"{name}{down}.weight": torch.ones(2, 2)}
        state |= {f"{name}.alpha": torch.tensor(2.0)} if spelling.is_flat else {}
    read = getattr(lora_pipeline, f"{LOADERS[family][0]}LoraLoaderMixin").lora_state_dict(state)
    end = ".lora_B.weight"
    return len(layers), {key.removeprefix("transformer.").removesuffix(end) for key in read if key.endswith(end)}


@pytest.mark.parametrize("family", LOADERS)
def test_diffusers_names_are_read_by_diffusers(family: str) -> None:
    spelling = spelling_of(FAMILIES[family], "diffusers")
    assert isinstance(spelling, TableSpelling)
    count, found = arrived(family, spelling)
    assert found == set(modules(family))
    assert count == len(found)


@pytest.mark.parametrize("family", [family for family, (_, only) in LOADERS.items() if only is not None])
def test_the_first_names_are_read_by_diffusers_too(family: str) -> None:
    first, only = FAMILIES[family].layouts[0], LOADERS[family][1] or ""
    count, found = arrived(family, TableSpelling(FAMILIES[family], first, first.prefix), only)
    assert found <= set(modules(family))
    assert len(found) >= count > 0
    if not only:
        assert found == set(modules(family))
