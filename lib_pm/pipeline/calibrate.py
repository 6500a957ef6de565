"""A calibration on a diffusers pipeline: what the layers see with each LoRA alone, and in the merge.

Each round draws an image with the merge on, of the plain sum first, then of what the round before found. In some of its
steps every LoRA is tried alone on the same latents: those that the merge itself comes to are the ones on which it has
to be right, and so its own call is one of the pair and costs nothing. The text encoders run for each LoRA alone too,
so that it sees the prompt as it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from lib_pm.core.calibration import Statistics, solve
from lib_pm.core.probe import Probe
from lib_pm.merging.calibration import CalibratedLayer, Calibration, CalibrationSettings, core_of
from lib_pm.merging.plan import MergePlan
from lib_pm.merging.progress import Progress, silent
from lib_pm.pipeline.fit import fit_modules
from lib_pm.pipeline.trajectory import OF_THE_STEP, Arguments, Enough, denoiser_of, draw


def calibrate(
    pipeline: Any, plan: MergePlan, settings: CalibrationSettings, *, progress: Progress = silent
) -> Calibration:
    """Return the calibration of a plan's LoRAs for a pipeline, which is left as it was, whatever happens.

    LoRAs that are on the pipeline already stay on, as a part of the model. A MergeInputError if a layer fits no module.
    progress: called once for each call of the denoiser; may raise Cancelled.
    """
    layers = [layer for layer in plan.layers if not layer.shape.vector]
    modules = fit_modules(pipeline, {layer.name: layer.shape for layer in layers})
    planned = {layer.name: core_of(plan, layer) for layer in layers}
    contents = sorted({content for core in planned.values() for content in core.contents})
    statistics: dict[str, Statistics] = {}
    if len(contents) > 1:  # one alone is what it is
        count = _Count(settings, len(contents), progress)
        for number in range(settings.rounds):
            changes = {name: solve(some, settings.ridge) for name, some in statistics.items()}
            with Probe({name: (modules[name], core) for name, core in planned.items()}, changes) as probe:
                for index, prompt in enumerate(settings.prompts):
                    count.what = f"round {number + 1}"
                    call = partial(_call, settings, prompt, index)
                    _one_image(pipeline, probe, contents, call, settings.probed, count)
                statistics = probe.statistics
    found = {name: CalibratedLayer.of(core, statistics.get(name), settings.ridge) for name, core in planned.items()}
    return Calibration(found, settings, str(getattr(pipeline, "name_or_path", "") or type(pipeline).__name__))


class _Count:
    """Tells of the calls of the denoiser."""

    def __init__(self, settings: CalibrationSettings, loras: int, progress: Progress) -> None:
        calls = settings.probed[-1] + 1 + len(settings.probed) * loras
        self._total, self._done = settings.rounds * len(settings.prompts) * calls, 0
        self._progress = progress
        self.what = ""

    def call(self) -> None:
        self._done += 1
        self._progress(self._done, self._total, self.what, "calls")


def _call(settings: CalibrationSettings, prompt: str, index: int) -> Arguments:
    """Return what the pipeline is called with; the generator gives the same noise each time that this is called."""
    return {
        **settings.call,
        "prompt": prompt,
        "num_inference_steps": settings.steps,
        "generator": torch.Generator().manual_seed(settings.seed + index),
        "output_type": "latent",
    }


def _one_image(
    pipeline: Any,
    probe: Probe,
    contents: Sequence[bytes],
    call: Callable[[], Arguments],
    steps: Sequence[int],
    count: _Count,
) -> None:
    """Draw an image with the merge on; at these steps, try each LoRA alone on the same latents."""
    denoiser = denoiser_of(pipeline)
    conditions = {content: _conditions(pipeline, probe, content, call()) for content in contents}

    def each_alone(step: int, arguments: Arguments) -> None:
        if step not in steps:
            return
        of_the_step = {name: arguments[name] for name in OF_THE_STEP if name in arguments}
        for content in contents:
            with probe.alone(content):
                denoiser(**conditions[content] | of_the_step)
            count.call()

    def stop_at_the_last(step: int) -> None:
        count.call()
        if step == steps[-1]:
            raise Enough

    with probe.merged():
        draw(pipeline, call(), each_alone, stop_at_the_last)


def _conditions(pipeline: Any, probe: Probe, content: bytes, call: Arguments) -> Arguments:
    """Return the arguments of the denoiser's first call with one LoRA on alone: its own reading of the prompt."""
    found: Arguments = {}

    def keep(step: int, arguments: Arguments) -> None:
        found.update(arguments)
        raise Enough

    with probe.alone(content):
        draw(pipeline, call, keep)
    return found
