"""What a calibration found, as one frozen value: how the LoRAs are mixed in each layer, and the merge's drift."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lib_pm.core.calibration import RIDGE, Core, Statistics, best_factor, best_factors, solve
from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.core.shares import Share
from lib_pm.merging.layers import read_source
from lib_pm.merging.plan import MergePlan, PlannedLayer


@dataclass(frozen=True)
class CalibrationSettings:
    """How it is done. prompts: what the model is asked for. steps: of an image, and probes: in how many of them the
    layers are looked at. rounds: the first looks at the plain sum, each further one at the merge of the one before.

    ridge: how much stays of the plain sum, see `solve`. seed: of the images. call: what else the model is asked with.
    """

    prompts: tuple[str, ...]
    steps: int = 20
    probes: int = 7
    rounds: int = 2
    ridge: float = RIDGE
    seed: int = 0
    call: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise MergeInputError("There is no prompt to calibrate on; give at least one.")
        for name, low, high in (("steps", 1, 1000), ("probes", 1, self.steps), ("rounds", 1, 10)):
            value = getattr(self, name)
            if not (isinstance(value, int) and low <= value <= high):
                raise MergeInputError(f"{name} is {quoted(value)}; allowed: a whole number from {low} to {high}.")
        if not 0 <= self.ridge <= 1e6:
            raise MergeInputError(f"ridge is {self.ridge}; allowed: a number from 0 to 1000000.")

    @property
    def probed(self) -> list[int]:
        """Return the steps that are looked at, the first and the last among them, counted from 0."""
        if self.probes == 1:
            return [self.steps // 2]
        return [round(index * (self.steps - 1) / (self.probes - 1)) for index in range(self.probes)]


@dataclass(frozen=True)
class CalibratedLayer:
    """One layer. contents, weights: of the LoRAs, as `Core` sorts them. change: R − I, second: Σ z̃·z̃ᵀ, (K, K) float32.

    drift, drifts: of the layer, and by LoRA. factor, factors: what the plain sum should be multiplied with, as a whole,
    and by LoRA.
    """

    contents: tuple[bytes, ...]
    weights: tuple[float, ...]
    change: Tensor
    second: Tensor
    drift: float = 0.0
    drifts: tuple[float, ...] = ()
    factor: float = 1.0
    factors: tuple[float, ...] = ()

    @classmethod
    def of(cls, core: Core, statistics: Statistics | None, ridge: float) -> CalibratedLayer:
        """Without statistics the LoRAs are as they are alone."""
        if statistics is None:
            ones, zeros = (1.0,) * len(core.ranks), (0.0,) * len(core.ranks)
            nothing = torch.zeros(sum(core.ranks), sum(core.ranks))
            return cls(core.contents, core.weights, nothing, nothing, drifts=zeros, factors=ones)
        return cls(
            core.contents,
            core.weights,
            solve(statistics, ridge).float(),
            statistics.second.float(),
            statistics.drift,
            tuple(statistics.drifts),
            best_factor(core, statistics),
            tuple(best_factors(core, statistics, ridge)),
        )


@dataclass(frozen=True)
class Calibration:
    """layers: by the names that the merge writes. model: what it was calibrated on."""

    layers: Mapping[str, CalibratedLayer] = field(repr=False)
    settings: CalibrationSettings
    model: str

    @cached_property
    def key(self) -> str:
        """Return a hash of all that decides a merge with it."""
        digest = hashlib.sha256()
        for name, layer in sorted(self.layers.items()):
            digest.update(json.dumps([name, [c.hex() for c in layer.contents], layer.weights]).encode())
            digest.update(layer.change.numpy().tobytes() + layer.second.numpy().tobytes())
        return digest.hexdigest()

    @property
    def drift(self) -> float:
        """Return the drift of the layer in the middle: half of them drift more."""
        return median(layer.drift for layer in self.layers.values())

    @property
    def factor(self) -> float:
        """Return the factor for the plain sum that the layer in the middle asks for."""
        return median(layer.factor for layer in self.layers.values())

    def to_json(self) -> dict[str, Any]:
        """Return where it comes from, as plain values for a recipe: its key, the model and the settings."""
        settings = asdict(self.settings)
        settings["call"] = {name: value for name, value in self.settings.call.items() if _is_plain(value)}
        return {"key": self.key, "model": self.model, **settings}

    def layer(self, name: str, core: Core) -> CalibratedLayer:
        """Return what was found for a layer. A MergeInputError if it was for other LoRAs or other strengths."""
        found = self.layers.get(name)
        if found is None or (found.contents, found.weights) != (core.contents, core.weights):
            raise MergeInputError(
                f"Layer {name}: this calibration was made for other LoRAs, strengths or block weights; calibrate again."
            )
        return found


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


def core_of(plan: MergePlan, planned: PlannedLayer) -> Core:
    """Return the LoRAs of one of a plan's layers, read from their files."""
    shares = []
    for source in planned.sources:
        file = plan.files[source.lora]
        layer = read_source(file, source, planned.shape.out)
        shares.append(Share(layer, source.weight, bytes.fromhex(file.content)))
    core = Core.of(shares)
    if core is None:
        raise ValueError(f"no LoRA has a weight in {planned.name}")  # such layers are not among the plan's
    return core
