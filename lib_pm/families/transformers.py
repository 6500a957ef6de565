"""The model families that are told by the layouts of their layers, in the order of messages that list what a LoRA may
be for. A new one is a table in `tables/` and a name here."""

from __future__ import annotations

from lib_pm.families.families import SDXL, Family, twin
from lib_pm.families.tables import (
    anima,
    auraflow,
    ernie,
    flux,
    flux2,
    hidream,
    hunyuan,
    krea,
    ltx,
    lumina,
    others,
    pixart,
    qwen,
    sd3,
    wan,
    z_image,
)

FLUX = flux.FLUX1
TRANSFORMERS: tuple[Family, ...] = (
    flux.FLUX1,
    flux.CHROMA,
    flux2.FLUX2_DEV,
    flux2.KLEIN_9B,
    flux2.KLEIN_4B,
    hunyuan.HUNYUAN_VIDEO,
    hunyuan.HUNYUAN_VIDEO_15,
    hunyuan.HUNYUAN_IMAGE,
    hunyuan.HUNYUAN_DIT,
    auraflow.AURAFLOW,
    qwen.QWEN_IMAGE,
    wan.WAN_14B,
    wan.WAN_5B,
    wan.WAN_13B,
    ltx.LTX,
    ltx.LTX_13B,
    ltx.LTX2,
    z_image.Z_IMAGE,
    lumina.LUMINA2,
    sd3.SD3,
    sd3.SD35_LARGE,
    hidream.HIDREAM,
    pixart.PIXART,
    others.SANA,
    anima.ANIMA,
    anima.COSMOS,
    krea.KREA2,
    ernie.ERNIE_IMAGE,
    others.COGVIDEOX_2B,
    others.COGVIDEOX_5B,
    others.MOCHI,
    others.OVIS,
)

# The very layers of another family: only the file's own word tells them apart.
TWINS: tuple[Family, ...] = (twin(SDXL, "kolors", "Kolors", r"kolors"), *flux.TWINS)
