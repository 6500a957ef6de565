"""`<lora:name:te:unet>` of both hosts."""

from __future__ import annotations

from typing import Any

import networks
from modules import extra_networks, shared


class ExtraNetworkLora(extra_networks.ExtraNetwork):
    def __init__(self) -> None:
        super().__init__("lora")
        self.errors: dict[str, int] = {}

    def activate(self, p: Any, params_list: list[extra_networks.ExtraNetworkParams]) -> None:
        self.errors.clear()
        names, clip, model, dims = [], [], [], []
        for params in params_list:
            assert params.items
            given = params.positional
            names.append(given[0])
            te = float(params.named.get("te", given[1] if len(given) > 1 else 1.0))
            unet = float(params.named.get("unet", given[2] if len(given) > 2 else te))
            dim = params.named.get("dyn", given[3] if len(given) > 3 else None)
            clip.append(te)
            model.append(unet)
            dims.append(None if dim is None else int(dim))
        networks.load_networks(names, clip, model, dims)
        if shared.opts.lora_add_hashes_to_infotext:
            if not p.is_hr_pass or not hasattr(p, "lora_hashes"):
                p.lora_hashes = {}
            for network in networks.loaded_networks:
                if network.network_on_disk.shorthash and network.mentioned_name:
                    name = network.mentioned_name.replace(":", "").replace(",", "")
                    p.lora_hashes[name] = network.network_on_disk.shorthash
            if p.lora_hashes:
                hashes = ", ".join(f"{name}: {shorthash}" for name, shorthash in p.lora_hashes.items())
                p.extra_generation_params["Lora hashes"] = hashes

    def deactivate(self, p: Any) -> None:
        if self.errors:
            p.comment("Networks with errors: " + ", ".join(f"{name} ({n})" for name, n in self.errors.items()))
            self.errors.clear()
