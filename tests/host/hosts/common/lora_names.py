"""From kohya's names of SD1's layers (diffusers' paths) to the original ones, as the hosts translate them."""

from __future__ import annotations

import functools
import re

_RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}


@functools.cache
def to_original(path: str) -> str:
    """`down_blocks_1_attentions_0_proj_in` -> `input_blocks_4_1_proj_in`; what is no diffusers' path stays."""
    if match := re.match(r"(conv_in|conv_out)(.*)", path):
        return {"conv_in": "input_blocks_0_0", "conv_out": "out_2"}[match[1]] + match[2]
    if match := re.match(r"time_embedding_linear_(\d)(.*)", path):
        return f"time_embed_{int(match[1]) * 2 - 2}{match[2]}"
    if match := re.match(r"down_blocks_(\d)_downsamplers_0_conv", path):
        return f"input_blocks_{3 * int(match[1]) + 3}_0_op"
    if match := re.match(r"up_blocks_(\d)_upsamplers_0_conv", path):
        return f"output_blocks_{3 * int(match[1]) + 2}_{2 if int(match[1]) else 1}_conv"
    if match := re.match(r"mid_block_(attentions|resnets)_(\d)_(.+)", path):
        index = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block_{index}_{_layer(match[1], match[3])}"
    if match := re.match(r"(down|up)_blocks_(\d)_(attentions|resnets)_(\d)_(.+)", path):
        side, index = ("input", 1) if match[1] == "down" else ("output", 0)
        number = index + 3 * int(match[2]) + int(match[4])
        return f"{side}_blocks_{number}_{1 if match[3] == 'attentions' else 0}_{_layer(match[3], match[5])}"
    return path


def _layer(kind: str, name: str) -> str:
    return _RESNET.get(name, name) if kind == "resnets" else name
