from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

cpu = device = torch.device("cpu")
dtype = dtype_unet = dtype_vae = torch.float32


def autocast(disable: bool = False) -> AbstractContextManager[None]:
    return nullcontext()


def get_optimal_device() -> torch.device:
    return device


def get_optimal_device_name() -> str:
    return "cpu"


def torch_gc() -> None:
    pass
