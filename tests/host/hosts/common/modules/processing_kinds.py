"""txt2img with its hires pass, and img2img."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from modules import extra_networks, host_steps, shared
from modules.processing_base import StableDiffusionProcessing
from modules.sampling import sample
from tiny_model import LATENT
from tiny_pipeline import PIXELS, encode, noise
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


class DecodedSamples(list):
    already_decoded = True


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    enable_hr: bool = False
    denoising_strength: float = 0.75
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_prompt: Any = ""
    hr_negative_prompt: Any = ""
    hr_additional_modules: list[str] | None = None

    cached_hr_c: ClassVar[list[Any]] = [None, None]
    cached_hr_uc: ClassVar[list[Any]] = [None, None]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hr_c = self.hr_uc = self.hr_extra_network_data = None
        self.all_hr_prompts: list[str] = []
        self.all_hr_negative_prompts: list[str] = []

    def setup_prompts(self) -> None:
        super().setup_prompts()
        if self.enable_hr:
            self.hr_prompt = self.hr_prompt or self.prompt
            self.hr_negative_prompt = self.hr_negative_prompt or self.negative_prompt
            self.all_hr_prompts = self._for_all_images(self.hr_prompt)
            self.all_hr_negative_prompts = self._for_all_images(self.hr_negative_prompt)

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        if not self.enable_hr:
            return

        def hires_prompt(p: Any, index: int, prompt_text: str, **kwargs: Any) -> str | None:
            return None if p.all_hr_prompts[index] == prompt_text else p.all_hr_prompts[index]

        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        self.extra_generation_params["Hires prompt"] = hires_prompt
        self.extra_generation_params["Hires upscale"] = self.hr_scale
        if self.hr_second_pass_steps:
            self.extra_generation_params["Hires steps"] = self.hr_second_pass_steps

    def parse_extra_network_prompts(self) -> None:
        super().parse_extra_network_prompts()
        if self.enable_hr:
            self.hr_negative_prompts = self.of_batch(self.all_hr_negative_prompts)
            hr_prompts = self.of_batch(self.all_hr_prompts)
            self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(hr_prompts)

    def setup_conds(self) -> None:
        super().setup_conds()
        self.hr_c = self.hr_uc = None
        if self.enable_hr:
            host_steps.hires_conds_before_sampling(self)

    def calculate_hr_conds(self) -> None:
        if self.hr_c is not None:
            return
        encode_text, data = shared.sd_model.get_learned_conditioning, self.hr_extra_network_data
        steps = self.hr_second_pass_steps or self.steps
        self.hr_uc = self.get_conds_with_caching(
            encode_text,
            self.hr_negative_prompts,
            self.firstpass_steps,
            [self.cached_hr_uc, self.cached_uc],
            data,
            steps,
        )
        self.hr_c = self.get_conds_with_caching(
            encode_text, self.hr_prompts, self.firstpass_steps, [self.cached_hr_c, self.cached_c], data, steps
        )

    def get_conds(self) -> tuple[Any, Any]:
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else super().get_conds()

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        x = noise((LATENT, self.height // PIXELS, self.width // PIXELS), self.seeds)
        host_steps.take_networks(self)
        self._before_sampling(x, conditioning, unconditional_conditioning)
        conds = conditioning, unconditional_conditioning
        samples = sample(self, torch.zeros_like(x), x, conds, self.steps, 1.0)
        if not self.enable_hr:
            return samples
        host_steps.before_hires(self)
        return self.sample_hr_pass(samples, None, seeds, subseeds, subseed_strength, prompts)

    def sample_hr_pass(self, samples, decoded_samples, seeds, subseeds, subseed_strength, prompts):
        if shared.state.interrupted:
            return samples
        self.is_hr_pass = True
        size = [int(side * self.hr_scale) // PIXELS for side in (self.height, self.width)]
        samples = F.interpolate(samples, size=size)
        shared.state.nextjob()
        if not self.disable_extra_networks:
            extra_networks.activate(self, self.hr_extra_network_data)
        self.calculate_hr_conds()
        if self.scripts is not None:
            self.scripts.before_hr(self)
        host_steps.take_networks(self)
        x = noise((LATENT, *size), self.seeds)
        self._before_sampling(x, self.hr_c, self.hr_uc)
        steps = self.hr_second_pass_steps or self.steps
        samples = sample(self, samples, x, (self.hr_c, self.hr_uc), steps, self.denoising_strength)
        decoded = DecodedSamples(host_steps.decode(samples))
        self.is_hr_pass = False
        return decoded

    def _before_sampling(self, x: Tensor, c: Any, uc: Any) -> None:
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(p=self, x=x, noise=x, c=c, uc=uc)

    def close(self) -> None:
        super().close()
        self.hr_c = self.hr_uc = None


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    """init_images: (h, w, 3) uint8 arrays or pictures of the size asked for. mask: (h, w), white where to paint."""

    init_images: list[Any] = field(default_factory=list)
    denoising_strength: float = 0.75
    mask: Any = None
    mask_blur: int = 0  # of what the hosts do with a mask, the double does this only:
    inpainting_fill: int = 1  # sharp edges, the picture itself below the mask,
    inpaint_full_res: bool = False  # and the whole picture at once
    resize_mode: int = 0

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        pixels = torch.stack([torch.from_numpy(np.array(image)[..., :3]) for image in self.init_images])
        latents = encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        self.init_latent = latents.expand(self.batch_size, -1, -1, -1) if len(latents) == 1 else latents
        if self.mask is not None:
            painted = torch.from_numpy(np.array(self.mask)).float().reshape(1, 1, *pixels.shape[1:3]) / 255
            self.nmask = F.avg_pool2d(painted, PIXELS).round()

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        x = noise(tuple(self.init_latent.shape[1:]), self.seeds)
        host_steps.take_networks(self)
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(
                p=self, x=self.init_latent, noise=x, c=conditioning, uc=unconditional_conditioning
            )
        conds = conditioning, unconditional_conditioning
        samples = sample(self, self.init_latent, x, conds, self.steps, self.denoising_strength)
        return samples if self.mask is None else samples * self.nmask + self.init_latent * (1 - self.nmask)
