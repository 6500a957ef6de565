"""What everything in the host knows: command line, settings, the job's state, the model (in sd_models)."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from modules import options, paths
from modules.options import OptionHTML, OptionInfo, options_section  # noqa: F401 (offered by this name)
from modules.shared_state import State

cmd_opts = types.SimpleNamespace(
    lora_dir=os.path.join(paths.models_path, "Lora"),
    lyco_dir_backcompat=os.path.join(paths.models_path, "LyCORIS"),
    lora_dirs=[],
    ckpt_dir=None,
    api=True,
    api_auth=None,
    cors_allow_origins=None,
    cors_allow_origins_regex=None,
    nowebui=False,
    no_half=True,
    freeze_settings=False,
)
state = State()
device = "cpu"
demo = None
options_templates: dict[str, OptionInfo] = {
    "sd_model_checkpoint": OptionInfo(""),
    "CLIP_stop_at_last_layers": OptionInfo(1, infotext="Clip skip"),
    "persistent_cond_cache": OptionInfo(True),
    "hires_fix_use_firstpass_conds": OptionInfo(False),
    "sd_lora": OptionInfo("None"),
    "lora_in_memory_limit": OptionInfo(0),
    "lora_add_hashes_to_infotext": OptionInfo(True),
    "lora_functional": OptionInfo(False),
    "lora_preferred_name": OptionInfo("Alias from file"),
    "extra_networks_default_multiplier": OptionInfo(1.0),
    "emphasis": OptionInfo("Original"),
}
opts = options.Options(options_templates)


class _Styles:
    """No style is ever chosen, so a prompt stays as it is."""

    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        return prompt

    def apply_negative_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        return prompt


prompt_styles = _Styles()


def walk_files(path: str, allowed_extensions: Iterable[str] | None = None) -> Iterator[str]:
    for root, folders, files in os.walk(path, followlinks=True):
        folders.sort()
        for file in sorted(files):
            if allowed_extensions is None or os.path.splitext(file)[1].lower() in allowed_extensions:
                yield os.path.join(root, file)


class _Shared(types.ModuleType):
    """`shared.sd_model` is asked of sd_models at every use, so that a change of checkpoint is seen everywhere."""

    @property
    def sd_model(self) -> Any:
        from modules import sd_models

        return sd_models.model_data.get_sd_model()

    @sd_model.setter
    def sd_model(self, value: Any) -> None:
        from modules import sd_models

        sd_models.model_data.set_sd_model(value)


sys.modules[__name__].__class__ = _Shared
