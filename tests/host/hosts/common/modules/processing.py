"""A run from prompts to images, in the hosts' order of calls; where the two hosts differ, host_steps says how."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from modules import extra_networks, host_steps, scripts, sd_models, shared
from modules.processing_base import StableDiffusionProcessing
from modules.processing_kinds import (  # noqa: F401 (offered by these names)
    StableDiffusionProcessingImg2Img,
    StableDiffusionProcessingTxt2Img,
)
from modules.processing_results import Processed, create_infotext
from modules.shared import opts, state
from PIL import Image


def get_fixed_seed(seed: Any) -> int:
    return random.randrange(2**32 - 2) if seed in ("", None, -1) else int(seed)


def fix_seed(p: StableDiffusionProcessing) -> None:
    p.seed, p.subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)


def process_images(p: StableDiffusionProcessing) -> Processed:
    if p.scripts is not None:
        p.scripts.before_process(p)
    stored = {key: getattr(opts, key) for key in p.override_settings if key in opts.data}
    try:
        if sd_models.get_closet_checkpoint_match(p.override_settings.get("sd_model_checkpoint", "")) is None:
            p.override_settings.pop("sd_model_checkpoint", None)
        for key, value in p.override_settings.items():
            opts.set(key, value, is_api=True, run_callbacks=False)
        host_steps.load_chosen_model()
        return process_images_inner(p)
    finally:
        if p.override_settings_restore_afterwards:
            for key, value in stored.items():
                setattr(opts, key, value)


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    seed, subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)
    p.sd_model_name = shared.sd_model.sd_checkpoint_info.name_for_extra
    p.sd_model_hash = shared.sd_model.sd_model_hash
    p.setup_prompts()
    p.all_seeds = [seed + index for index in range(len(p.all_prompts))]
    p.all_subseeds = [subseed + index for index in range(len(p.all_prompts))]
    if p.scripts is not None:
        p.scripts.process(p)

    images: list[Any] = []
    infotexts: list[str] = []
    with host_steps.without_gradients():
        p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
        for iteration in range(p.n_iter):
            p.iteration = iteration
            state.skipped = False
            if state.interrupted or state.stopping_generation:
                break
            samples = _run_batch(p)
            if samples is None:
                break
            _finish_batch(p, samples, images, infotexts)
    if not infotexts:
        infotexts.append(create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds))
    if not p.disable_extra_networks and p.extra_network_data:  # so not without a tag, and not after an exception
        extra_networks.deactivate(p, p.extra_network_data)
    result = Processed(p, images, p.all_seeds[0], infotexts[0], p.all_subseeds[0], infotexts=infotexts)
    if p.scripts is not None:
        p.scripts.postprocess(p, result)
    return result


def _run_batch(p: StableDiffusionProcessing) -> Any:
    """The latents; None if a script has taken the prompts away."""
    host_steps.load_chosen_model()
    host_steps.forget_networks(p)
    p.prompts, p.negative_prompts = p.of_batch(p.all_prompts), p.of_batch(p.all_negative_prompts)
    p.seeds, p.subseeds = p.of_batch(p.all_seeds), p.of_batch(p.all_subseeds)
    batch = {"batch_number": p.iteration, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
    if p.scripts is not None:
        p.scripts.before_process_batch(p, **batch)
    if len(p.prompts) == 0:
        return None
    p.parse_extra_network_prompts()
    if not p.disable_extra_networks:
        extra_networks.activate(p, p.extra_network_data)
    host_steps.take_networks(p)
    if p.scripts is not None:
        p.scripts.process_batch(p, **(batch | {"prompts": p.prompts}))
    p.setup_conds()
    if p.n_iter > 1:
        state.job = f"Batch {p.iteration + 1} out of {p.n_iter}"
    samples = p.sample(
        conditioning=p.c,
        unconditional_conditioning=p.uc,
        seeds=p.seeds,
        subseeds=p.subseeds,
        subseed_strength=p.subseed_strength,
        prompts=p.prompts,
    )
    if p.scripts is not None:
        sampled = scripts.PostSampleArgs(samples)
        p.scripts.post_sample(p, sampled)
        samples = sampled.samples
    return samples


def _finish_batch(p: StableDiffusionProcessing, samples: Any, images: list[Any], infotexts: list[str]) -> None:
    decoded = samples if getattr(samples, "already_decoded", False) else host_steps.decode(samples)
    pixels = ((torch.stack(list(decoded)) + 1) / 2).clamp(0, 1)  # (batch, 3, h, w) in 0 … 1
    state.nextjob()
    if p.scripts is not None:
        p.scripts.postprocess_batch(p, images=pixels, batch_number=p.iteration)
        p.prompts, p.negative_prompts = p.of_batch(p.all_prompts), p.of_batch(p.all_negative_prompts)
        listed = scripts.PostprocessBatchListArgs(list(pixels))
        p.scripts.postprocess_batch_list(p, listed, batch_number=p.iteration)
        pixels = listed.images
    prompts, negative = p.of_batch(p.all_prompts), p.of_batch(p.all_negative_prompts)
    for index, picture in enumerate(pixels):
        image = Image.fromarray((255 * np.moveaxis(picture.numpy(), 0, 2)).astype(np.uint8))
        if p.scripts is not None:
            finished = scripts.PostprocessImageArgs(image)
            p.scripts.postprocess_image(p, finished)
            image = finished.image
        text = create_infotext(p, prompts, p.seeds, p.subseeds, index=index, all_negative_prompts=negative)
        image.info["parameters"] = text
        images.append(image)
        infotexts.append(text)
