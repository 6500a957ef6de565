"""What sd-webui-lora-block-weight does to LoRAs with an `lbw=` of numbers, on both hosts: for tests beside it.

On A1111 it changes the networks in use, which it knows by name, and renames them. On Forge it changes the patches in
use, and takes the first for the first LoRA of the prompt, the second for the second.
"""

import random
import re

import gradio as gr
import networks
from modules import scripts, shared

_BLOCKS_17 = (1, 2, 4, 5, 7, 8, 12, *range(16, 25))  # where the numbers of a list of 17 are in one of 26, without BASE


def _ratios(text):
    """BASE and 25 blocks, or None if that is no list of numbers."""
    numbers = [float(word) for word in text.split(",")] if re.fullmatch(r"[-\d.,]+", text) else []
    if len(numbers) == 17:
        blocks = [0.0] * 25
        for index, number in zip(_BLOCKS_17, numbers[1:], strict=True):
            blocks[index] = number
        return [numbers[0], *blocks]
    return numbers if len(numbers) == 26 else None


def _ratio(key, ratios):
    key = key.replace(".", "_")
    if match := re.search(r"(input|output)_blocks_(\d+)_", key):
        return ratios[1 + int(match[2]) + (13 if match[1] == "output" else 0)]
    return ratios[13] if "middle_block" in key else ratios[0]


class LoraBlockWeightScript(scripts.Script):
    def title(self):
        return "LoRA Block Weight"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Checkbox(True, label="Active")]

    def before_process_batch(self, p, active, *args, **kwargs):
        if active:
            networks.networks_in_memory = {}
        if hasattr(shared.sd_model, "current_lora_hash"):
            shared.sd_model.current_lora_hash = None

    def after_extra_networks_activate(self, p, active, *args, extra_network_data, **kwargs):
        loras = []
        for tag in extra_network_data.get("lora", ()):
            te = float(tag.positional[1]) if len(tag.positional) > 1 else 1.0
            unet = float(tag.positional[2]) if len(tag.positional) > 2 else te
            loras.append((tag.positional[0], te, unet, _ratios(tag.named.get("lbw", ""))))
        if not active or all(ratios is None for *_, ratios in loras):
            return
        loras = [(name, te, unet, ratios or [1.0] * 26) for name, te, unet, ratios in loras]
        if hasattr(shared.sd_model, "forge_objects_after_applying_lora"):
            objects = shared.sd_model.forge_objects_after_applying_lora
            self._by_position(objects.unet.lora_patches, [(unet, ratios) for _, _, unet, ratios in loras])
            self._by_position(objects.clip.patcher.lora_patches, [(te, ratios) for _, te, _, ratios in loras])
        else:
            self._by_name({name: (te, unet, ratios) for name, te, unet, ratios in loras})

    def _by_name(self, loras):
        for net in networks.loaded_networks:
            if net.name in loras:
                net.te_multiplier, net.unet_multiplier, ratios = loras[net.name]
                net.name += f"_in_LBW_{random.random():.3f}"  # so that the host takes it for a new one
                for key, module in net.modules.items():
                    module.up_model.weight.mul_(_ratio(key, ratios))

    def _by_position(self, patches, loras):
        for (strength, ratios), known in zip(loras, list(patches), strict=False):
            changed = {
                key: [[_ratio(key, ratios) * strength, *rest] for _, *rest in listed]
                for key, listed in patches.pop(known).items()
            }
            patches[(known[0], f"{strength},{ratios}", *known[2:])] = changed

    def postprocess(self, p, processed, active, *args):
        if not active:
            return
        networks.loaded_networks.clear()
        if hasattr(shared.sd_model, "current_lora_hash"):
            shared.sd_model.current_lora_hash = None
