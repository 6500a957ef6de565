"""What A1111 makes of one layer of a LoRA: two or three small layers, or a dense difference."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from modules import devices
from network import Network
from torch import Tensor, nn


class NetworkWeights(NamedTuple):
    network_key: str
    sd_key: str
    w: dict[str, Tensor]
    sd_module: nn.Module


class NetworkModule:
    def __init__(self, net: Network, weights: NetworkWeights):
        self.network, self.network_key, self.sd_key = net, weights.network_key, weights.sd_key
        self.sd_module, self.shape, self.dim = weights.sd_module, weights.sd_module.weight.shape, None
        self.alpha = float(weights.w["alpha"]) if "alpha" in weights.w else None

    def multiplier(self) -> float:
        """A layer counts as the text encoder's if its name starts so; a UNet's name never has the word that early."""
        return self.network.te_multiplier if "transformer" in self.sd_key[:20] else self.network.unet_multiplier

    def calc_scale(self) -> float:
        return self.alpha / self.dim if self.dim is not None and self.alpha is not None else 1.0

    def finalize_updown(self, updown: Tensor, orig_weight: Tensor) -> tuple[Tensor, None]:
        if updown.numel() == orig_weight.numel():
            updown = updown.reshape(orig_weight.shape)
        return updown * self.calc_scale() * self.multiplier(), None

    def calc_updown(self, target: Tensor) -> tuple[Tensor, None]:
        raise NotImplementedError


class NetworkModuleLora(NetworkModule):
    def __init__(self, net: Network, weights: NetworkWeights):
        super().__init__(net, weights)
        self.up_model = self._factor(weights.w["lora_up.weight"], (1, 1))
        self.down_model = self._factor(weights.w["lora_down.weight"], None)
        mid = weights.w.get("lora_mid.weight")
        self.mid_model = None if mid is None else self._factor(mid, None)
        self.dim = weights.w["lora_down.weight"].shape[0]

    def _factor(self, weight: Tensor, kernel: tuple[int, int] | None) -> nn.Module:
        if type(self.sd_module) is nn.Linear:
            weight = weight.reshape(len(weight), -1)
            module: Any = nn.Linear(weight.shape[1], len(weight), bias=False)
        elif type(self.sd_module) is nn.Conv2d:
            weight = weight.reshape(len(weight), -1, 1, 1) if weight.dim() == 2 else weight
            module = nn.Conv2d(weight.shape[1], len(weight), kernel or tuple(weight.shape[2:]), bias=False)
        else:
            raise AssertionError(f"{self.network_key} matched a layer of type {type(self.sd_module).__name__}")
        module.weight.data.copy_(weight)
        return module.to(device=devices.cpu, dtype=devices.dtype).requires_grad_(False)

    def calc_updown(self, target: Tensor) -> tuple[Tensor, None]:
        up, down = self.up_model.weight, self.down_model.weight
        if self.mid_model is not None:
            mid = self.mid_model.weight
            updown = torch.einsum("or,rskl,si->oikl", up.flatten(1), mid, down.flatten(1))
        else:
            limit = self.network.dyn_dim
            updown = up.flatten(1)[:, :limit] @ down.flatten(1)[:limit]
        return self.finalize_updown(updown, target)


class NetworkModuleFull(NetworkModule):
    def __init__(self, net: Network, weights: NetworkWeights):
        super().__init__(net, weights)
        self.weight = weights.w["diff"]

    def calc_updown(self, target: Tensor) -> tuple[Tensor, None]:
        return self.finalize_updown(self.weight.to(devices.dtype), target)


def create_module(net: Network, weights: NetworkWeights) -> NetworkModule:
    if "lora_A.weight" in weights.w:
        weights.w["lora_up.weight"], weights.w["lora_down.weight"] = (
            weights.w.pop("lora_B.weight"),
            weights.w.pop("lora_A.weight"),
        )
    if {"lora_up.weight", "lora_down.weight"} <= weights.w.keys():
        return NetworkModuleLora(net, weights)
    if "diff" in weights.w:
        return NetworkModuleFull(net, weights)
    raise AssertionError(f"Could not find a module type that would accept those keys: {', '.join(weights.w)}")
