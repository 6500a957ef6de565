"""Products in full float32, whatever the host trades for speed.

torch multiplies by settings of the process: where somebody allowed it, in 10 bits on a GPU (TF32), in 7 on a CPU
(bfloat16). A thread cannot have its own. So a setting is touched only where it would change a result, and the last to
leave puts it back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

FULL = ("none", "ieee")  # what torch's newer settings call it; "none" is what nobody has set


@dataclass(frozen=True)
class Settings:
    """How the process multiplies float32.

    overall: `torch.get_float32_matmul_precision()`; None if the newer settings say what it has no word for.
    cpu, cuda: the newer settings (torch 2.9) of each; "" before.
    """

    overall: str | None
    cpu: str
    cuda: str

    @classmethod
    def read(cls) -> Settings:
        overall: str | None
        try:
            overall = torch.get_float32_matmul_precision()
        except RuntimeError:  # torch's answer where both kinds of settings are in use
            overall = None
        return cls(overall, *(backend.fp32_precision if backend else "" for backend in _backends()))

    def is_full(self, device: str) -> bool:
        """Return whether that kind of device multiplies in full by them."""
        if device not in ("cpu", "cuda"):
            return True
        newer = self.cpu if device == "cpu" else self.cuda
        if newer:
            return newer in FULL
        return self.overall == "highest" or (device == "cpu" and self.overall == "high")  # "high" is for GPUs alone


def _backends() -> tuple[Any, Any]:
    """Return what holds the newer settings, of the CPU and of CUDA; None before torch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return None, None
    return backends.mkldnn.matmul, backends.cuda.matmul


class _Users:
    """Those who need full products at the moment, and what the settings were before the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._host: Settings | None = None  # what to put back
        self._ours: Settings | None = None  # what was made of it

    def enter(self, devices: tuple[str, ...]) -> None:
        with self._lock:
            self._count += 1
            for device in devices:
                found = Settings.read()
                if not found.is_full(device):
                    self._host = self._host or found
                    _make_full(device, self._host)
                    self._ours = Settings.read()

    def leave(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count or self._host is None:
                return
            if Settings.read() == self._ours:  # else the host has set something since, which stays
                _put_back(self._host)
            self._host = self._ours = None


_users = _Users()


@contextmanager
def full_precision(*devices: str) -> Iterator[None]:
    """Inside, products in float32 are full on these kinds of devices ("cpu", "cuda"). Any number may be inside at once.

    On the CPU, and on a GPU without TF32, nothing is set, for hardly any host allows anything less there.
    """
    _users.enter(devices)
    try:
        yield
    finally:
        _users.leave()


def _make_full(device: str, host: Settings) -> None:
    """In the words that the host has used: its own question for TF32 is an error once they contradict each other."""
    cpu, cuda = _backends()
    if device == "cpu" and cpu:
        cpu.fp32_precision = "ieee"
    elif host.overall or not cuda:
        torch.set_float32_matmul_precision("highest")
    else:
        cuda.fp32_precision = "ieee"


def _put_back(host: Settings) -> None:
    if host.overall and host.overall != Settings.read().overall:
        torch.set_float32_matmul_precision(host.overall)
    for backend, value in zip(_backends(), (host.cpu, host.cuda), strict=True):
        if backend:
            backend.fp32_precision = "none"  # which may come to the same, from a setting for all devices
            if backend.fp32_precision != value:
                backend.fp32_precision = value
