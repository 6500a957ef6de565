"""The families' tables against diffusers: its models' modules, and its own conversions of what others call them.

Row i of weight w is the number pair (w, i), so that wherever a conversion puts it can be told which it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as loras
from diffusers.loaders import single_file_utils as checkpoints
from torch import Tensor

from lib_pm.core.layers import LayerShape
from lib_pm.families.detect import FAMILIES
from lib_pm.families.layouts import NUMBER, Layout
from lib_pm.families.names import parse_name
from lib_pm.families.spelling import TableSpelling
from lib_pm.families.transformers import TRANSFORMERS
from tests.models import DIFFUSERS

MODELS = {
    **DIFFUSERS,
    "ernie-image": ("ErnieImageTransformer2DModel", {}),
    "anima": DIFFUSERS["cosmos"],
}
# Families whose table has weights that the model built here has not, because only some models of the family have them.
ONLY_SOME = {
    "wan-14b": "vace",
    "wan-5b": "vace|add_[kv]_proj|norm_added_k|image_embedder",
    "wan-1.3b": "vace|add_[kv]_proj|norm_added_k|image_embedder",
    "hunyuan-image": "guidance_embedder",
    "sd3.5-large": "attn2",
    "hidream": "ff_i.gate",  # a parameter of a module that is no linear layer
    "pixart": "caption_projection",
    "anima": "text_conditioner",  # a model of its own, see below
}


@cache
def modules(family: str) -> dict[str, tuple[int, ...]]:
    """What of diffusers' model can have a LoRA: dotted path -> weight shape."""
    name, config = MODELS[family]
    with torch.device("meta"):
        model = getattr(diffusers, name)(**config)
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return {path: tuple(module.weight.shape) for path, module in model.named_modules() if isinstance(module, kinds)}


@cache
def norms(family: str) -> dict[str, tuple[int, ...]]:
    """The norms that the family's table has: they can be changed too, and go by other names elsewhere."""
    here = layout(family, "diffusers")
    name, config = MODELS[family]
    with torch.device("meta"):
        model = getattr(diffusers, name)(**config)
    weights = {path: getattr(module, "weight", None) for path, module in model.named_modules()}
    vectors = {
        path: tuple(weight.shape) for path, weight in weights.items() if weight is not None and weight.dim() == 1
    }
    return {path: shape for path, shape in vectors.items() if here.find(parse_name(path)[1])}


def layout(family: str, name: str) -> Layout:
    return next(layout for layout in FAMILIES[family].layouts if layout.name == name)


def names(here: Layout) -> Iterator[str]:
    """Every layer that there is in a layout, dotted; of a last block that differs from the rest once."""
    found = set()
    for part in here.parts.values():
        stack = part.name.partition(f".{NUMBER}.")[0].removeprefix("^").replace(".", "_")
        numbers = range(here.stacks[stack]) if NUMBER in part.name else (0,)
        found |= {part.named(str(number)).removeprefix("^") for number in numbers}
    yield from sorted(found)


@pytest.mark.parametrize("family", [family.id for family in TRANSFORMERS])
def test_the_table_has_every_module_of_the_model_and_no_other(family: str) -> None:
    here = layout(family, "diffusers")
    assert FAMILIES[family].model == MODELS[family][0]
    found = {}
    for path, (out, inner, *_) in modules(family).items():
        part, _ = here.find(parse_name(path)[1]) or (None, "")
        assert part is not None, path
        assert not part.shapes or (out, inner) in part.shapes, (path, part.shapes)
        found[part.name] = path
    found |= {part.name: path for path in norms(family) for part, _ in [here.find(parse_name(path)[1]) or (None, "")]}
    more = {part.name for part in here.parts.values() if part.name not in found}
    assert {name for name in more if not re.search(ONLY_SOME.get(family, "(?!)"), name)} == set()


def test_the_rest_of_wan_and_anima() -> None:
    with torch.device("meta"):
        vace = diffusers.WanVACETransformer3DModel(
            vace_layers=[0, 5, 10, 15, 20, 25, 30, 35], num_layers=40, num_attention_heads=40, ffn_dim=13824
        )
        text = diffusers.AnimaTextConditioner()
    here = layout("wan-14b", "diffusers")
    for path, module in vace.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv3d):
            assert here.find(parse_name(path)[1]), path
    here = layout("anima", "diffusers")
    for path, module in text.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            assert here.find(parse_name(f"text_conditioner.{path}")[1]), path


class Whole(dict):  # type: ignore[type-arg]
    """A checkpoint that has whatever it is asked for: biases and norms are no matter here."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, default[0] if default else torch.zeros(21504))


def rows(number: int, out: int) -> Tensor:
    return torch.stack([torch.full((out,), number), torch.arange(out)], dim=1)


def original(family: str, name: str = "original", *, vectors: bool = False) -> dict[str, int]:
    """The layers of the model in a layout, with how many rows each has. vectors: those of norms too."""
    here, there = layout(family, name), layout(family, "diffusers")
    there_is = modules(family) | (norms(family) if vectors else {})
    true = {parse_name(path)[1]: shape[0] for path, shape in there_is.items()}
    found = {}
    for dotted in names(here):
        part, number = here.find(parse_name(dotted)[1]) or pytest.fail(dotted)
        parts = [other.named(number) for other, _ in there.place(part)]
        sizes = [true.get(parse_name(other)[1]) for other in parts]
        if all(sizes) and sizes:
            found[dotted] = sum(size for size in sizes if size)
    return found


def ours(family: str, written: dict[str, int]) -> dict[str, Tensor]:
    """The rows that each of diffusers' modules gets of these layers, by the family's table."""
    spelling = TableSpelling(FAMILIES[family], layout(family, "diffusers"), "")
    found: dict[str, Tensor] = {}
    for number, (name, out) in enumerate(written.items()):
        mine = rows(number, out)
        places = spelling.places(name, LayerShape(out, 1))
        assert places, name
        for place in places:
            target = found.setdefault(place.name, torch.full((place.out, 2), -1))
            for some in place.rows:
                assert (target[some.to : some.to + some.count] == -1).all()
                target[some.to : some.to + some.count] = mine[some.first : some.first + some.count]
            if not place.rows:
                target[:] = mine
    return found


CHECKPOINTS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "flux1": checkpoints.convert_flux_transformer_checkpoint_to_diffusers,
    "chroma": checkpoints.convert_chroma_transformer_checkpoint_to_diffusers,
    "flux2-dev": checkpoints.convert_flux2_transformer_checkpoint_to_diffusers,
    "flux2-klein-9b": checkpoints.convert_flux2_transformer_checkpoint_to_diffusers,
    "flux2-klein-4b": checkpoints.convert_flux2_transformer_checkpoint_to_diffusers,
    "hunyuan-video": checkpoints.convert_hunyuan_video_transformer_to_diffusers,
    "auraflow": checkpoints.convert_auraflow_transformer_checkpoint_to_diffusers,
    "wan-14b": checkpoints.convert_wan_transformer_to_diffusers,
    "wan-5b": checkpoints.convert_wan_transformer_to_diffusers,
    "wan-1.3b": checkpoints.convert_wan_transformer_to_diffusers,
    "ltx": checkpoints.convert_ltx_transformer_checkpoint_to_diffusers,
    "ltx-13b": checkpoints.convert_ltx_transformer_checkpoint_to_diffusers,
    "ltx2": checkpoints.convert_ltx2_transformer_to_diffusers,
    "z-image": checkpoints.convert_z_image_transformer_checkpoint_to_diffusers,
    "lumina2": checkpoints.convert_lumina2_to_diffusers,
    "sd3": checkpoints.convert_sd3_transformer_checkpoint_to_diffusers,
    "sd3.5-large": checkpoints.convert_sd3_transformer_checkpoint_to_diffusers,
    "cosmos": checkpoints.convert_cosmos_transformer_checkpoint_to_diffusers,
    "krea2": checkpoints.convert_krea2_transformer_checkpoint_to_diffusers,
}


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_checkpoint_is_converted_as_diffusers_converts_it(family: str) -> None:
    """Every weight of the model, row by row."""
    main = next(here.name for here in FAMILIES[family].layouts if here.name != "diffusers")
    written = original(family, main, vectors=True)
    prefix = "net." if family == "cosmos" else ""
    state = Whole({f"{prefix}{name}.weight": rows(number, out) for number, (name, out) in enumerate(written.items())})
    converted = CHECKPOINTS[family](state)
    theirs = {
        key.removesuffix(".weight"): tensor
        for key, tensor in converted.items()
        if key.removesuffix(".weight") in modules(family) | norms(family)
    }
    mine = ours(family, written)
    assert mine.keys() == theirs.keys() == (modules(family) | norms(family)).keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@dataclass(frozen=True)
class Style:
    """How a trainer's LoRAs are called, and diffusers' function that reads them.

    layout: of the family's, whose names it has behind the prefix. only: the layers that the function knows.
    """

    family: str
    name: str
    layout: str
    prefix: str
    convert: Callable[..., dict[str, Tensor]]
    endings: tuple[str, str] = (".lora_up.weight", ".lora_down.weight")
    only: str = ""

    def __str__(self) -> str:
        return f"{self.family} {self.name}"

    def written(self) -> dict[str, int]:
        """Every layer of the model, as this trainer calls it, with how many rows it has."""
        layers = original(self.family, self.layout)
        flat = self.prefix.endswith("_")
        return {
            self.prefix + (name.replace(".", "_") if flat else name): out
            for name, out in layers.items()
            if re.search(self.only, name)
        }


PEFT = (".lora_B.weight", ".lora_A.weight")
DEFAULT = (".lora_B.default.weight", ".lora_A.default.weight")
COMFY = "diffusion_model."
IN_BLOCKS = r"(blocks|layers|refiner)\.\d"
TWO_STACKS = r"^(double|single)_blocks"
# Of Flux.2's last modulation diffusers swaps the halves in a checkpoint, and forgets it in a LoRA.
WITHOUT_LAST = r"^(?!final_layer\.ada)"
STYLES = [
    Style("flux1", "kohya", "original", "lora_unet_", loras._convert_kohya_flux_lora_to_diffusers),
    Style("flux1", "comfy", "original", COMFY, loras._convert_kohya_flux_lora_to_diffusers),
    Style("chroma", "kohya", "original", "lora_unet_", loras._convert_kohya_flux_lora_to_diffusers, only=TWO_STACKS),
    Style(
        "flux2-klein-4b",
        "kohya",
        "original",
        "lora_unet_",
        loras._convert_kohya_flux2_lora_to_diffusers,
        only=TWO_STACKS,
    ),
    Style(
        "flux2-klein-9b",
        "comfy",
        "original",
        COMFY,
        loras._convert_non_diffusers_flux2_lora_to_diffusers,
        PEFT,
        WITHOUT_LAST,
    ),
    Style(
        "hunyuan-video", "comfy", "original", COMFY, loras._convert_hunyuan_video_lora_to_diffusers, PEFT, TWO_STACKS
    ),
    Style(
        "lumina2", "comfy", "original", COMFY, loras._convert_non_diffusers_lumina2_lora_to_diffusers, PEFT, IN_BLOCKS
    ),
    Style(
        "wan-14b", "comfy", "original", COMFY, loras._convert_non_diffusers_wan_lora_to_diffusers, PEFT, "^(?!patch)"
    ),
    Style("wan-14b", "musubi", "original", "lora_unet_", loras._convert_musubi_wan_lora_to_diffusers, only=IN_BLOCKS),
    Style("ltx", "comfy", "original", COMFY, loras._convert_non_diffusers_ltxv_lora_to_diffusers, PEFT, IN_BLOCKS),
    Style("ltx2", "comfy", "original", COMFY, loras._convert_non_diffusers_ltx2_lora_to_diffusers, PEFT),
    Style("qwen-image", "kohya", "diffusers", "lora_unet_", loras._convert_non_diffusers_qwen_lora_to_diffusers),
    Style("qwen-image", "comfy", "diffusers", COMFY, loras._convert_non_diffusers_qwen_lora_to_diffusers, PEFT),
    Style("qwen-image", "peft", "diffusers", "", loras._convert_non_diffusers_qwen_lora_to_diffusers, DEFAULT),
    Style("anima", "comfy", "original", COMFY, loras._convert_non_diffusers_anima_lora_to_diffusers, PEFT),
    Style(
        "z-image",
        "fused",
        "comfy",
        "lora_unet_",
        loras._convert_non_diffusers_z_image_lora_to_diffusers,
        only=IN_BLOCKS,
    ),
    Style("z-image", "split", "diffusers", "lora_unet_", loras._convert_non_diffusers_z_image_lora_to_diffusers),
    Style("z-image", "comfy", "diffusers", COMFY, loras._convert_non_diffusers_z_image_lora_to_diffusers, PEFT),
    Style("krea2", "comfy", "original", COMFY, loras._convert_non_diffusers_krea2_lora_to_diffusers, PEFT),
    Style("krea2", "peft", "original", "base_model.model.", loras._convert_non_diffusers_krea2_lora_to_diffusers, PEFT),
    Style("hidream", "comfy", "diffusers", COMFY, loras._convert_non_diffusers_hidream_lora_to_diffusers, PEFT),
]


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_a_lora_is_converted_as_diffusers_converts_it(style: Style) -> None:
    """Every layer, row by row: the up factors have the rows, all down factors are the same."""
    written = style.written()
    up, down = style.endings
    state = {}
    for number, (name, out) in enumerate(written.items()):
        state[name + up] = rows(number, out).double()
        state[name + down] = torch.eye(2, dtype=torch.float64)
        if style.endings[0].startswith(".lora_up"):
            state[f"{name}.alpha"] = torch.tensor(2.0)
    converted = style.convert(state)
    theirs = {
        key.removeprefix("transformer.").removesuffix(PEFT[0]): tensor.long()
        for key, tensor in converted.items()
        if key.endswith(PEFT[0])
    }
    mine = ours(style.family, written)
    assert mine.keys() == theirs.keys()
    assert mine.keys() <= modules(style.family).keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize("family", [family.id for family in TRANSFORMERS])
def test_a_layer_is_in_one_block_whatever_it_is_called(family: str) -> None:
    known = FAMILIES[family]
    main = known.layouts[0]
    spelling = TableSpelling(known, main, "")
    found = set()
    for here in known.layouts:
        for name in names(here):
            part, _ = here.find(parse_name(name)[1]) or pytest.fail(name)
            blocks = {known.block(place.name) for place in spelling.places(name, LayerShape(12 * part.size, 1))}
            assert blocks == {known.block(name)}, name
            found |= blocks
    assert found - {""} == set(known.blocks) - {"CLIP", "T5", "TEXT"}


PREFIXES = {
    "kohya": "lora_unet_",
    "comfy": COMFY,
    "diffusers": "transformer.",
    "onetrainer": "lora_transformer_",
    "simpletuner": "lycoris_",
    "peft": "base_model.model.",
    "checkpoint": "model.diffusion_model.",
    "bare": "",
}


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("family", [family.id for family in TRANSFORMERS])
def test_all_styles_meet_layer_by_layer(family: str, style: str) -> None:
    """Whatever the prefix, the dots and the layout: the same rows of the same layer of the result."""
    main = FAMILIES[family].layouts[0]
    spelling = TableSpelling(FAMILIES[family], main, main.prefix)
    prefix = PREFIXES[style]
    met: set[str] = set()
    for here in FAMILIES[family].layouts:
        for name in names(here):
            part, _ = here.find(parse_name(name)[1]) or pytest.fail(name)
            written = prefix + name.replace(".", "_") if prefix.endswith("_") else prefix + name
            places = spelling.places(written, LayerShape(12 * part.size, 1))
            assert sum(rows.count for place in places for rows in place.rows) in (0, 12 * part.size)
            assert places == spelling.places(name, LayerShape(12 * part.size, 1)) != ()
            met |= {place.name for place in places}
    assert len(met) == sum(1 for _ in names(main))


def test_the_page_of_models_is_what_the_tables_say() -> None:
    from tests.families_page import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.families_page writes it anew"
