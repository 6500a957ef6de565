"""The model families that are told by the layouts of their layers. A new one is a row here and its layouts in
`published.py`."""

from __future__ import annotations

from dataclasses import replace

from lib_pm.families.families import SDXL, Family, flux_block
from lib_pm.families.published import LAYOUTS

FLUX = Family(
    "flux1",
    "Flux.1",
    (61,),
    None,
    flux_block,
    "flux1",
    "flux-1-dev/lora",
    "1024x1024",
    "networks.lora_flux",
    r"flux(1|dev|schnell|kontext|$)",
    LAYOUTS["flux1"],
)


def _family(name: str, title: str, said: str, trainer: str = "lora") -> Family:
    return Family(name, title, said=said, layouts=LAYOUTS[name], network_module=f"networks.{trainer}")


# id, title, what files call it (as `plain_word` writes that), the module of kohya's trainers. The order is that of
# messages that list what a LoRA may be for.
TRANSFORMERS: tuple[Family, ...] = (
    FLUX,
    replace(_family("chroma", "Chroma", r"chroma(?!radiance)", "lora_flux"), block_lists=(61,), block=flux_block),
    _family("flux2-dev", "Flux.2 dev", r"flux2(dev|$)", "lora_flux_2"),
    _family("flux2-klein-9b", "Flux.2 klein 9B", r"flux2(klein9b|klein$|$)", "lora_flux_2"),
    _family("flux2-klein-4b", "Flux.2 klein 4B", r"flux2(klein4b|klein$|$)", "lora_flux_2"),
    _family("hunyuan-video", "HunyuanVideo", r"hunyuanvideo(?!15)|framepack"),
    _family("hunyuan-video-1.5", "HunyuanVideo 1.5", r"hunyuanvideo15", "lora_hv_1_5"),
    _family("hunyuan-image", "HunyuanImage 2.1", r"hunyuanimage", "lora_hunyuan_image"),
    _family("hunyuan-dit", "HunyuanDiT", r"hunyuandit"),
    _family("auraflow", "AuraFlow", r"auraflow|ponyv7"),
    _family("qwen-image", "Qwen-Image", r"qwenimage", "lora_qwen_image"),
    _family("wan-14b", "Wan 14B", r"wan(?!.*(13b|5b))", "lora_wan"),
    _family("wan-5b", "Wan 5B", r"wan(?!.*(13b|14b))", "lora_wan"),
    _family("wan-1.3b", "Wan 1.3B", r"wan(?!.*(14b|5b))", "lora_wan"),
    _family("ltx", "LTX-Video 2B", r"ltx(?!2|.*13b)"),
    _family("ltx-13b", "LTX-Video 13B", r"ltx(?!2|.*2b)"),
    _family("ltx2", "LTX-2", r"ltx2"),
    _family("z-image", "Z-Image", r"zimage", "lora_zimage"),
    _family("lumina2", "Lumina 2", r"lumina(2|image2)", "lora_lumina"),
    _family("sd3", "Stable Diffusion 3 medium", r"(sd|stablediffusion)v?3(?!5?l)", "lora_sd3"),
    _family("sd3.5-large", "Stable Diffusion 3.5 large", r"(sd|stablediffusion)v?3(5?l|5?$)", "lora_sd3"),
    _family("hidream", "HiDream-I1", r"hidream(i1|e1|$)"),
    _family("pixart", "PixArt", r"pixart"),
    _family("sana", "Sana 1.6B", r"sana(?!video)"),
    _family("anima", "Anima", r"anima(?!gine)", "lora_anima"),
    _family("cosmos", "Cosmos Predict2 2B", r"cosmos"),
    _family("cogvideox-2b", "CogVideoX 2B", r"cogvideox(?!.*5b)"),
    _family("cogvideox-5b", "CogVideoX 5B", r"cogvideox(?!.*2b)"),
    _family("mochi", "Mochi 1", r"mochi"),
    _family("ovis", "Ovis-Image", r"ovis"),
)


def _twin(of: Family, name: str, title: str, said: str) -> Family:
    return replace(of, id=name, title=title, said=said, like=of.id, base_version="", architecture="")


# The very layers of another family: only the file's own word tells them apart.
TWINS: tuple[Family, ...] = (
    _twin(SDXL, "kolors", "Kolors", r"kolors"),
    _twin(FLUX, "longcat", "LongCat-Image", r"longcat"),
    _twin(FLUX, "bria", "Bria 3", r"bria(?!fibo)"),
    _twin(TRANSFORMERS[1], "chroma-radiance", "Chroma Radiance", r"chromaradiance"),
)
