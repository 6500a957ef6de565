"""What the adapters share, and what the doubles' SD1 model cannot show: dotted names, models of other kinds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_pm.core.errors import MergeInputError
from lib_pm.webui import a1111, forge
from lib_pm.webui.adapter import layer_of, weight_sizes
from lib_pm.webui.hosts import find_host
from tests.messages import says

DOTTED = "transformer.single_transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("lora_unet_conv_in.lora_up.weight", "lora_unet_conv_in"),
        ("lora_unet_conv_in.alpha", "lora_unet_conv_in"),
        ("lora_unet_conv_in.diff", "lora_unet_conv_in"),
        ("lora_unet_conv_in.diff_b", "lora_unet_conv_in.bias"),
        (f"{DOTTED}.lora_A.weight", DOTTED),
    ],
)
def test_the_layer_of_a_tensor(key: str, layer: str) -> None:
    assert layer_of(key) == layer


def test_sizes_of_the_weights() -> None:
    tensors = {
        f"{DOTTED}.lora_A.weight": torch.zeros(4, 6),
        f"{DOTTED}.lora_B.weight": torch.zeros(8, 4),
        "conv.lora_up.weight": torch.zeros(8, 2, 1, 1),
        "conv.lora_down.weight": torch.zeros(2, 3, 3, 3),
        "conv.alpha": torch.tensor(2.0),
        "whole.diff": torch.zeros(5, 3, 3, 3),
        "norm.diff": torch.zeros(7),
        "conv.diff_b": torch.zeros(8),
    }
    assert weight_sizes(tensors) == {
        DOTTED: (8, 6),
        "conv": (8, 27),
        "whole": (5, 27),
        "norm": (7, 1),
        "conv.bias": (8, 1),
    }


@dataclass
class Patcher:
    model: nn.Module
    lora_patches: dict[str, dict[str, list[Any]]] = field(default_factory=dict)


@dataclass
class Objects:
    unet: Patcher
    clip: Any

    def shallow_copy(self) -> Objects:
        return replace(self)


class Networks:
    """Forge's loader for a transformer with one layer, which it knows by its dotted name."""

    def model_lora_keys_unet(self, model: nn.Module, known: dict[str, str]) -> dict[str, str]:
        return known | {DOTTED: "to_q.weight"}

    def model_lora_keys_clip(self, model: nn.Module, known: dict[str, str]) -> dict[str, str]:
        return known

    def load_lora_for_models(
        self, unet: Patcher, clip: Any, tensors: dict[str, Tensor], model: float, te: float, filename: str
    ) -> tuple[Patcher, Any]:
        return replace(unet, lora_patches={**unet.lora_patches, filename: {"to_q.weight": [tensors]}}), clip


def test_dotted_names_arrive_on_forge() -> None:
    """As a merge of Flux LoRAs under diffusers' names has them; a layer that the model lacks is left out."""
    transformer = nn.ModuleDict({"to_q": nn.Linear(6, 8)})
    objects = Objects(
        Patcher(transformer), SimpleNamespace(cond_stage_model=nn.Identity(), patcher=Patcher(nn.Identity()))
    )
    model = SimpleNamespace(
        forge_objects_original=objects, forge_objects_after_applying_lora=objects, current_lora_hash="[]"
    )
    tensors = {
        f"{name}.{part}.weight": torch.zeros(*shape)
        for name in (DOTTED, "transformer.other")
        for part, shape in (("lora_A", (4, 6)), ("lora_B", (8, 4)))
    }
    placed = forge.replace(Networks(), model, "merge", tensors, [])
    assert placed.layers == {DOTTED}
    patched = model.forge_objects_after_applying_lora.unet.lora_patches["merge"]["to_q.weight"][0]
    assert patched.keys() == {f"{DOTTED}.lora_A.weight", f"{DOTTED}.lora_B.weight"}
    placed.undo()
    assert model.forge_objects_after_applying_lora is objects
    assert model.current_lora_hash == "[]"


def test_biases_arrive_on_forge_where_the_model_has_one() -> None:
    transformer = nn.ModuleDict({"to_q": nn.Linear(6, 8)})
    objects = Objects(
        Patcher(transformer), SimpleNamespace(cond_stage_model=nn.Identity(), patcher=Patcher(nn.Identity()))
    )
    sizes = {DOTTED: (8, 6), f"{DOTTED}.bias": (8, 1), "other": (8, 6), "other.bias": (8, 1)}
    assert forge._fitting(Networks(), objects, sizes) == {DOTTED, f"{DOTTED}.bias"}
    assert forge._fitting(Networks(), objects, {f"{DOTTED}.bias": (7, 1)}) == set()
    transformer["to_q"] = nn.Linear(6, 8, bias=False)
    assert forge._fitting(Networks(), objects, sizes) == {DOTTED}


def test_biases_arrive_on_a1111_beside_weights_that_are_whole() -> None:
    """Beside factors it leaves them out, and of one alone it makes an error of the whole LoRA."""
    read: list[str] = []

    def load_network(name: str, disk: Any) -> Any:
        tensors = networks.sd_models.read_state_dict(disk.filename)
        read.extend(tensors)
        modules = {key.partition(".")[0]: SimpleNamespace(network_key=key, shape=None) for key in sorted(tensors)[::-1]}
        return SimpleNamespace(name=name, modules=modules)

    networks = SimpleNamespace(
        loaded_networks=[],
        networks_in_memory={},
        sd_models=SimpleNamespace(read_state_dict=lambda filename: {}),
        load_network=load_network,
    )
    tensors = {
        "norm.diff": torch.zeros(7),
        "norm.diff_b": torch.zeros(7),
        "lora.lora_up.weight": torch.zeros(8, 2),
        "lora.lora_down.weight": torch.zeros(2, 8),
        "lora.diff_b": torch.zeros(8),
        "alone.diff_b": torch.zeros(8),
    }
    placed = a1111.replace(networks, SimpleNamespace(), "merge", tensors, [])
    assert placed.layers == {"norm", "norm.bias", "lora"}
    assert set(read) == tensors.keys() - {"lora.diff_b", "alone.diff_b"}


class OnTheFly(Networks):
    """A loader that is told whether to patch in each forward."""

    def __init__(self, dynamic_args: Any) -> None:
        self.dynamic_args = dynamic_args
        self.told: list[bool] = []

    def load_lora_for_models(self, *given: Any, online_mode: bool, **named: Any) -> tuple[Patcher, Any]:
        self.told.append(online_mode)
        return super().load_lora_for_models(*given, **named)


@pytest.mark.parametrize(
    ("settings", "dtype", "online"),
    [
        ({"online_lora": True}, torch.float16, False),
        ({"online_lora": True}, torch.float8_e4m3fn, True),
        ({"online_lora": False}, torch.float8_e4m3fn, False),
        # Forge Neo's: its own loader asks for no dtype
        (SimpleNamespace(online_lora=True), torch.float16, True),
        (SimpleNamespace(online_lora=False), torch.float16, False),
    ],
)
def test_on_the_fly_is_as_the_host_has_it(settings: Any, dtype: torch.dtype, online: bool) -> None:
    transformer = nn.ModuleDict({"to_q": nn.Linear(6, 8)})
    transformer.storage_dtype = dtype
    objects = Objects(
        Patcher(transformer), SimpleNamespace(cond_stage_model=nn.Identity(), patcher=Patcher(nn.Identity()))
    )
    model = SimpleNamespace(
        forge_objects=objects,
        forge_objects_original=objects,
        forge_objects_after_applying_lora=objects,
        current_lora_hash="[]",
    )
    networks = OnTheFly(settings)
    tensors = {f"{DOTTED}.lora_A.weight": torch.zeros(4, 6), f"{DOTTED}.lora_B.weight": torch.zeros(8, 4)}
    forge.replace(networks, model, "merge", tensors, [])
    assert networks.told == [online]


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        (torch.Size([8, 6]), True),
        ((8, 6), True),  # a part of a joint weight: the WebUI gives a plain tuple
        (torch.Size([8, 7]), False),
        (torch.Size([24, 6]), False),
        (None, True),  # a module of no one shape
        (torch.Size([8]), False),  # a norm
    ],
)
def test_sizes_are_compared_with_what_a1111_says_of_its_modules(shape: Any, fits: bool) -> None:
    module = SimpleNamespace(network_key=f"{DOTTED}.lora_A.weight", shape=shape)
    assert a1111._fits(module, {DOTTED: (8, 6)}) is fits


@pytest.mark.parametrize("channels", [4, 9])
def test_a_first_convolution_of_four_channels_fits_an_inpainting_model(channels: int) -> None:
    module = SimpleNamespace(network_key="lora_unet_conv_in.alpha", shape=torch.Size([320, channels, 3, 3]))
    assert a1111._fits(module, {"lora_unet_conv_in": (320, 4 * 9)})


@pytest.mark.parametrize(
    ("model", "networks", "facts"),
    [
        (None, SimpleNamespace(), "No model … choose a checkpoint"),
        (SimpleNamespace(), SimpleNamespace(), "WebUI's Lora extension … not supported"),
    ],
)
def test_a_webui_that_can_take_no_lora_is_told(model: Any, networks: Any, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        find_host(model, networks)
    assert says(caught.value, facts), caught.value
