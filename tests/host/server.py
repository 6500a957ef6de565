"""A WebUI to test against: a double in this process, or a real one behind its API. Tests see no difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from lib_pm.core.layers import LayerShape

Kind = Literal["a1111", "forge"]


class ServerError(Exception):
    """The host answered with an error; the text is what the client of its API reads."""


@dataclass(frozen=True)
class Result:
    """images: (h, w, 3) uint8, in order. comments: what the page shows below them; None where it cannot be known."""

    images: list[np.ndarray]
    infotexts: list[str]
    comments: str | None

    @property
    def image(self) -> np.ndarray:
        """The only one."""
        (image,) = self.images
        return image


class Server(Protocol):
    """Payload names are those of /sdapi/v1/txt2img; what a test leaves out is DEFAULTS' or the host's own."""

    kind: Kind
    lora_folder: Path
    layers: Mapping[str, LayerShape]  # kohya's name -> the loaded model's weight, UNet and text encoder
    checkpoints: Sequence[str]

    def txt2img(self, prompt: str, **payload: Any) -> Result: ...

    def img2img(self, prompt: str, image: np.ndarray, **payload: Any) -> Result:
        """mask: (h, w) uint8, 255 where to paint."""

    def axes(self, tab: str = "txt2img") -> list[str]:
        """The menu of the X/Y/Z plot, in its order."""

    def reload_ui(self) -> None: ...

    def set_checkpoint(self, name: str) -> None: ...


DEFAULTS: dict[str, Any] = {
    "seed": 5,
    "steps": 2,
    "width": 64,
    "height": 64,
    "cfg_scale": 5,
    "sampler_name": "Euler",
    "save_images": False,
}
HIRES: dict[str, Any] = {
    "enable_hr": True,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 2,
    "denoising_strength": 0.7,
}


def full_payload(kind: Kind, prompt: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    full = DEFAULTS | {"prompt": prompt} | dict(payload)
    if kind == "forge" and full.get("enable_hr"):
        full.setdefault("hr_additional_modules", ["Use same choices"])  # Forge's API answers 500 without
    return full


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def difference(first: np.ndarray, second: np.ndarray) -> int:
    """The largest of any pixel, of 255."""
    return int(np.abs(first.astype(int) - second).max())
