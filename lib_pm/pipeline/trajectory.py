"""An image as a pipeline draws it, call by call of its denoiser, up to where one wants to go."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from lib_pm.core.errors import MergeInputError
from lib_pm.pipeline.fit import components

Arguments = dict[str, Any]
# What a step is about: the arguments that change from call to call. All others are what the prompt and the size of the
# picture give, and stay the same through an image.
OF_THE_STEP = ("sample", "hidden_states", "timestep")


class Enough(Exception):
    """Raised in a call of the denoiser to end the image there."""


def denoiser_of(pipeline: Any) -> nn.Module:
    """Return the model that is called once a step."""
    for component, model in components(pipeline):
        if not component.startswith("text_encoder"):
            return model
    raise MergeInputError(f"A {type(pipeline).__name__} has no denoiser that LoRAs are for.")


def draw(
    pipeline: Any,
    call: Mapping[str, Any],
    before: Callable[[int, Arguments], None],
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Draw an image, of which nothing is kept.

    call: the arguments of the pipeline. before, after: called around each step's call of the denoiser, with the number
    of the step and the call's arguments by name; they may call the denoiser themselves, or raise Enough.
    """
    denoiser = denoiser_of(pipeline)
    signature = inspect.signature(denoiser.forward)
    step, inside = 0, False

    def before_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal inside
        if inside:
            return
        inside = True
        try:
            before(step, signature.bind(*args, **kwargs).arguments)
        finally:
            inside = False

    def after_call(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal step
        if not inside:
            step += 1
            after(step - 1)

    with _as_it_was(pipeline):
        hooks = [
            denoiser.register_forward_pre_hook(before_call, with_kwargs=True),
            denoiser.register_forward_hook(after_call),
        ]
        try:
            pipeline(**call)
        except Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _as_it_was(pipeline: Any) -> Iterator[None]:
    """Within it, the pipeline has a scheduler of its own and shows no progress bar."""
    scheduler, bar = pipeline.scheduler, dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.scheduler = copy.deepcopy(scheduler)
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(**bar)
