"""The layers that real LoRAs have, by name and shape: written from the models' structure, not with the code tested."""

from __future__ import annotations

from collections.abc import Iterator

Shapes = dict[str, tuple[int, ...]]  # weight shape: (out, in) or (out, in, kh, kw)

# The blocks that each number of a block weight list is for, from the README of sd-webui-lora-block-weight.
BLOCK_LISTS = {
    12: "BASE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
    17: "BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    20: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08",
    26: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 IN09 IN10 IN11 MID "
    "OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    61: f"CLIP T5 IN {' '.join(f'D{i:02}' for i in range(19))} {' '.join(f'S{i:02}' for i in range(38))} OUT",
}


def sd15(*, text: int = 768, conv: bool = False) -> Shapes:
    """SD1.5 as kohya trains it: 192 UNet layers and 72 of the text encoder; with conv also the LoCon ones.

    text 1024: SD2, whose text encoder is wider and deeper.
    """
    unet: Shapes = {}
    for block, channels, count in (
        *((f"down_blocks_{i}", width, 2) for i, width in enumerate((320, 640, 1280))),
        ("mid_block", 1280, 1),
        *((f"up_blocks_{i}", width, 3) for i, width in enumerate((1280, 640, 320), start=1)),
    ):
        for index in range(count):
            unet.update(_transformer(f"{block}_attentions_{index}", channels, 1, text, proj=(1, 1)))
    if conv:
        unet["down_blocks_0_downsamplers_0_conv"] = (320, 320, 3, 3)
        unet["mid_block_resnets_0_conv1"] = (1280, 1280, 3, 3)
        unet["up_blocks_3_resnets_2_conv_shortcut"] = (320, 640, 1, 1)
        unet["up_blocks_3_resnets_2_time_emb_proj"] = (320, 1280)
    layers = {f"lora_unet_{path}": shape for path, shape in unet.items()}
    return layers | {f"lora_te_{path}": shape for path, shape in _clip(text, 12 if text == 768 else 23)}


def sdxl() -> Shapes:
    """SDXL as kohya trains it: 722 UNet layers under their original names, 72 and 192 of the text encoders."""
    unet: Shapes = {}
    for block, channels, depth in (
        *((f"input_blocks_{i}_1", 640, 2) for i in (4, 5)),
        *((f"input_blocks_{i}_1", 1280, 10) for i in (7, 8)),
        ("middle_block_1", 1280, 10),
        *((f"output_blocks_{i}_1", 1280, 10) for i in (0, 1, 2)),
        *((f"output_blocks_{i}_1", 640, 2) for i in (3, 4, 5)),
    ):
        unet.update(_transformer(block, channels, depth, 2048, proj=()))
    layers = {f"lora_unet_{path}": shape for path, shape in unet.items()}
    layers |= {f"lora_te1_{path}": shape for path, shape in _clip(768, 12)}
    return layers | {f"lora_te2_{path}": shape for path, shape in _clip(1280, 32)}


def _transformer(
    path: str, width: int, depth: int, text: int, proj: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}_proj_in", (width, width, *proj)
    yield f"{path}_proj_out", (width, width, *proj)
    for index in range(depth):
        block = f"{path}_transformer_blocks_{index}"
        for attention, seen in (("attn1", width), ("attn2", text)):
            yield f"{block}_{attention}_to_q", (width, width)
            yield f"{block}_{attention}_to_k", (width, seen)
            yield f"{block}_{attention}_to_v", (width, seen)
            yield f"{block}_{attention}_to_out_0", (width, width)
        yield f"{block}_ff_net_0_proj", (8 * width, width)
        yield f"{block}_ff_net_2", (width, 4 * width)


def _clip(width: int, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index in range(depth):
        layer = f"text_model_encoder_layers_{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{layer}_self_attn_{name}", (width, width)
        yield f"{layer}_mlp_fc1", (4 * width, width)
        yield f"{layer}_mlp_fc2", (width, 4 * width)
