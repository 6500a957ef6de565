"""A1111 and its forks: LoRAs are objects in `networks.loaded_networks`, each layer patches itself when it is next used.

A layer is patched anew when the names and strengths in that list change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.full import BIAS, WRITTEN_BIAS, WRITTEN_WEIGHT
from lib_pm.prompt.parse import LoraTag
from lib_pm.webui.adapter import Placement, layer_of, weight_sizes

# On the model, so that it goes with it: the last merge, which takes the WebUI a tenth of a second to build.
_LAST = "_power_merger_network"


class _InMemory(str):
    """A file name that stands for tensors. Its text is an existing file: the WebUI asks for its modification time."""

    tensors: Mapping[str, Tensor]


@dataclass
class _Disk:
    """What the WebUI and extensions ask of a network's file."""

    name: str
    filename: str
    alias: str = ""
    hash: str = ""
    shorthash: str = ""  # empty: it is no file, so it is not listed in "Lora hashes"
    metadata: dict[str, str] = field(default_factory=dict)
    is_safetensors: bool = True


def replace(
    networks: Any, model: Any, name: str, tensors: Mapping[str, Tensor], stacked: Sequence[LoraTag]
) -> Placement:
    """See `Replace`. The WebUI's own loader matches the layers."""
    own = list(networks.loaded_networks)
    network = getattr(model, _LAST, None)
    if network is None or network.name != name:
        network = _load(networks, name, tensors)
        # not at full rank: then it is as large as the model
        setattr(model, _LAST, None if any(key.endswith(WRITTEN_WEIGHT) for key in tensors) else network)
    names = {tag.name for tag in stacked}
    missing = names - {net.mentioned_name for net in own}
    if missing:  # it could not read one of the prompt's tags, then it stacks none at all, or it has no such LoRA
        raise MergeInputError(
            f"The WebUI did not load {', '.join(sorted(missing))}, which pm=off leaves to it; its console says why."
        )
    networks.loaded_networks[:] = [net for net in own if net.mentioned_name in names] + [network]
    for net in own:  # else it would read their files again for the next image; what is too much it drops itself
        if net.name == net.mentioned_name:  # a changed name says that another extension has changed the weights
            networks.networks_in_memory.setdefault(net.name, net)

    def undo() -> None:
        if network in networks.loaded_networks:
            networks.loaded_networks[:] = own

    layers = {layer_of(module.network_key) for module in network.modules.values()}
    biases = {layer + BIAS for layer in layers if _is_known(key := layer + WRITTEN_BIAS, tensors) and key in tensors}
    return Placement(frozenset(layers | biases), undo)


def forget_files(networks: Any, model: Any) -> None:
    """A LoRA's file was written: layers know what is in their weights by name and strength alone. Let none match."""
    if model is None or not hasattr(networks, "network_apply_weights"):
        return  # no model yet, or not one of these WebUIs
    for module in model.modules():
        if getattr(module, "network_current_names", ()):
            module.network_current_names = (None,)


def _fits(module: Any, sizes: Mapping[str, tuple[int, int]]) -> bool:
    """Return whether the layer is of the weight's size. The WebUI would find out while the image is made, and go
    on without.

    The first convolution of an inpainting model has five more channels, which the WebUI fills up with zeros.
    """
    shape = getattr(module, "shape", None)
    if not shape:
        return True
    out, inner, *kernel = (*shape, 1) if len(shape) == 1 else shape
    channels = (inner, inner - 5) if kernel and inner == 9 else (inner,)
    return sizes[layer_of(module.network_key)] in [(out, count * math.prod(kernel)) for count in channels]


def _load(networks: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    filename = _InMemory(__file__)
    filename.tensors = {key: tensor for key, tensor in tensors.items() if _is_known(key, tensors)}
    with _answer_from_memory(networks.sd_models):
        network = networks.load_network(name, _Disk(name, filename))
    sizes = weight_sizes(tensors)
    network.modules = {key: module for key, module in network.modules.items() if _fits(module, sizes)}
    network.te_multiplier = network.unet_multiplier = 1.0
    network.dyn_dim = None
    network.mentioned_name = name
    return network


def _is_known(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the WebUI takes a tensor: of a bias only beside a weight that is written whole, else it takes
    nothing at all, or leaves the bias out.
    """
    return not key.endswith(WRITTEN_BIAS) or key.removesuffix(WRITTEN_BIAS) + WRITTEN_WEIGHT in tensors


@contextmanager
def _answer_from_memory(sd_models: Any) -> Iterator[None]:
    """Reading a file gives its tensors if it is an `_InMemory`; other files are read as ever."""
    read = sd_models.read_state_dict

    def read_state_dict(filename: str, *args: Any, **kwargs: Any) -> Any:
        return dict(filename.tensors) if isinstance(filename, _InMemory) else read(filename, *args, **kwargs)

    sd_models.read_state_dict = read_state_dict
    try:
        yield
    finally:
        sd_models.read_state_dict = read
