"""What comes out of a run: images, infotexts, comments."""

from __future__ import annotations

from typing import Any

from modules import errors, infotext_utils


class Processed:
    def __init__(
        self, p: Any, images_list: list[Any], seed: int = -1, info: str = "", subseed: int | None = None,
        infotexts: list[str] | None = None, **kwargs: Any,
    ):  # fmt: skip
        self.images, self.seed, self.subseed, self.info = images_list, seed, subseed, info
        self.prompt, self.negative_prompt = p.prompt, p.negative_prompt
        self.comments = "".join(f"{comment}\n" for comment in p.comments)
        self.extra_generation_params = p.extra_generation_params
        self.all_prompts, self.all_negative_prompts = p.all_prompts, p.all_negative_prompts
        self.all_seeds, self.all_subseeds = p.all_seeds, p.all_subseeds
        self.infotexts = infotexts or [info] * len(images_list)


def create_infotext(
    p: Any, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int], comments: Any = None,
    iteration: int = 0, position_in_batch: int = 0, use_main_prompt: bool = False, index: int | None = None,
    all_negative_prompts: list[str] | None = None,
) -> str:  # fmt: skip
    """Of the prompt as it was written, tags and all. An extra parameter may be a list or a function of the image."""
    if use_main_prompt:
        index = 0
    elif index is None:
        index = position_in_batch + iteration * p.batch_size
    prompt_text, negative_prompt = all_prompts[index], (all_negative_prompts or p.all_negative_prompts)[index]
    params = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "CFG scale": p.cfg_scale,
        "Seed": all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model hash": p.sd_model_hash,
        "Model": p.sd_model_name,
        **p.extra_generation_params,
    }
    for key, value in params.items():
        try:
            if isinstance(value, list):
                params[key] = value[index]
            elif callable(value):
                params[key] = value(p=p, index=index, prompt_text=prompt_text, negative_prompt=negative_prompt)
        except Exception:  # noqa: BLE001 (as the host does)
            errors.report(f'Error creating infotext for key "{key}"', exc_info=True)
            params[key] = None
    pairs = [
        str(key) if key == value else f"{key}: {infotext_utils.quote(value)}"
        for key, value in params.items()
        if value is not None
    ]
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt_text}{negative}\n{', '.join(pairs)}".strip()
