"""What txt2img and img2img have in common: prompts, and conds with their cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from modules import extra_networks, shared
from modules.shared import opts


@dataclass(repr=False)
class StableDiffusionProcessing:
    sd_model: Any = None  # replaced below by a property: always the loaded one
    prompt: Any = ""
    negative_prompt: Any = ""
    styles: list[str] = field(default_factory=list)
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0
    sampler_name: str = "Euler"
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    denoising_strength: float | None = None
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    override_settings: dict[str, Any] = field(default_factory=dict)
    override_settings_restore_afterwards: bool = True
    disable_extra_networks: bool = False
    do_not_save_samples: bool = False
    do_not_save_grid: bool = True

    # On the class, so that what was computed for one request is there for the next.
    cached_c: ClassVar[list[Any]] = [None, None]
    cached_uc: ClassVar[list[Any]] = [None, None]

    def __post_init__(self) -> None:
        self.comments: dict[str, int] = {}
        self.scripts_value: Any = None
        self.script_args_value: Any = ()
        self.scripts_setup_complete = self.is_hr_pass = self.is_api = False
        self.c = self.uc = self.extra_network_data = None
        self.iteration = 0
        self.all_prompts: list[str] = []
        self.all_negative_prompts: list[str] = []
        self.all_seeds: list[int] = []
        self.all_subseeds: list[int] = []
        self.prompts = self.negative_prompts = self.seeds = self.subseeds = None
        self.sd_model_name = self.sd_model_hash = self.user = None
        self.styles = self.styles or []
        self.override_settings = self.override_settings or {}

    @property
    def scripts(self) -> Any:
        return self.scripts_value

    @scripts.setter
    def scripts(self, value: Any) -> None:
        self.scripts_value = value
        self._setup_scripts_once()

    @property
    def script_args(self) -> Any:
        return self.script_args_value

    @script_args.setter
    def script_args(self, value: Any) -> None:
        self.script_args_value = value
        self._setup_scripts_once()

    def _setup_scripts_once(self) -> None:
        if self.scripts_value and self.script_args_value and not self.scripts_setup_complete:
            self.scripts_setup_complete = True
            self.scripts_value.setup_scrips(self, is_ui=not self.is_api)

    def comment(self, text: str) -> None:
        self.comments[text] = 1

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        pass

    def sample(
        self,
        conditioning: Any,
        unconditional_conditioning: Any,
        seeds: list[int],
        subseeds: list[int],
        subseed_strength: float,
        prompts: list[str],
    ) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.c = self.uc = None

    def setup_prompts(self) -> None:
        self.all_prompts = self._for_all_images(self.prompt)
        self.all_negative_prompts = self._for_all_images(self.negative_prompt)
        self.main_prompt, self.main_negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]

    def _for_all_images(self, prompt: Any) -> list[str]:
        prompts = prompt if isinstance(prompt, list) else self.batch_size * self.n_iter * [prompt]
        return [shared.prompt_styles.apply_styles_to_prompt(text, self.styles) for text in prompts]

    def of_batch(self, listed: list[Any]) -> list[Any]:
        return listed[self.iteration * self.batch_size : (self.iteration + 1) * self.batch_size]

    def parse_extra_network_prompts(self) -> None:
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def cached_params(self, required_prompts: Any, steps: int, extra_network_data: Any, hires_steps: Any = None) -> Any:
        """What the cond cache knows a value by. The text encoder's weights are no part of it."""
        return (
            required_prompts,
            steps,
            hires_steps,
            opts.CLIP_stop_at_last_layers,
            shared.sd_model.sd_checkpoint_info,
            extra_network_data,
            self.width,
            self.height,
            opts.emphasis,
        )

    def get_conds_with_caching(
        self,
        function: Callable[[list[str]], Any],
        required_prompts: list[str],
        steps: int,
        caches: list[list[Any]],
        extra_network_data: Any,
        hires_steps: int | None = None,
    ) -> Any:
        wanted = self.cached_params(required_prompts, steps, extra_network_data, hires_steps)
        for known, value in caches:
            if known is not None and known == wanted:
                return value
        caches[0][:] = [wanted, function(required_prompts)]
        return caches[0][1]

    def setup_conds(self) -> None:
        encode, data = shared.sd_model.get_learned_conditioning, self.extra_network_data
        self.firstpass_steps = self.steps
        self.uc = self.get_conds_with_caching(encode, self.negative_prompts, self.steps, [self.cached_uc], data)
        self.c = self.get_conds_with_caching(encode, self.prompts, self.steps, [self.cached_c], data)

    def get_conds(self) -> tuple[Any, Any]:
        return self.c, self.uc


def _loaded_model(self: StableDiffusionProcessing) -> Any:
    return shared.sd_model


StableDiffusionProcessing.sd_model = property(_loaded_model, lambda self, value: None)  # type: ignore[assignment]
