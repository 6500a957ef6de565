"""A LoRA from memory in place of the prompt's: what was right on the real hosts, written apart from the extension.

With it, the tests of the doubles show that the right way is right on them, and that each known wrong way is wrong.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class _InMemory(str):
    """A path to some file that exists, standing for tensors."""

    tensors: dict[str, Tensor]


def set_key(extra_network_data: Any, key: str) -> None:
    params = importlib.import_module("modules.extra_networks").ExtraNetworkParams
    extra_network_data["probe"] = [params(items=[key])]


def use(kind: str, tensors: Mapping[str, Tensor], name: str, te: float = 1.0, unet: float = 1.0) -> None:
    (_use_on_a1111 if kind == "a1111" else _use_on_forge)(dict(tensors), name, te, unet)


def _use_on_a1111(tensors: dict[str, Tensor], name: str, te: float, unet: float) -> None:
    networks, network = (importlib.import_module(module) for module in ("networks", "network"))
    on_disk = object.__new__(network.NetworkOnDisk)
    on_disk.filename = _InMemory(__file__)
    on_disk.filename.tensors = tensors
    on_disk.shorthash = ""
    with _answered_from_memory():
        net = networks.load_network(name, on_disk)
    net.te_multiplier, net.unet_multiplier, net.mentioned_name = te, unet, name
    networks.loaded_networks[:] = [net]


@contextmanager
def _answered_from_memory() -> Iterator[None]:
    sd_models = importlib.import_module("modules.sd_models")
    original = sd_models.read_state_dict

    def read(file: str, *args: Any, **kwargs: Any) -> Any:
        return file.tensors if isinstance(file, _InMemory) else original(file, *args, **kwargs)

    sd_models.read_state_dict = read
    try:
        yield
    finally:
        sd_models.read_state_dict = original


def _use_on_forge(tensors: dict[str, Tensor], name: str, te: float, unet: float, *, is_reset: bool = True) -> None:
    model = importlib.import_module("modules.shared").sd_model
    objects = model.forge_objects_original.shallow_copy()
    load = importlib.import_module("networks").load_lora_for_models
    objects.unet, objects.clip = load(objects.unet, objects.clip, tensors, unet, te, filename=name)
    model.forge_objects_after_applying_lora = objects
    model.forge_objects = objects.shallow_copy()
    if is_reset:
        model.current_lora_hash = f"probe {name}"


def use_on_forge_without_reset(tensors: Mapping[str, Tensor], name: str) -> None:
    """Wrong: the next load_networks believes that nothing has changed."""
    _use_on_forge(dict(tensors), name, 1.0, 1.0, is_reset=False)
