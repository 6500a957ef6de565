"""A training run that can be stopped at any time and goes on where its last checkpoint is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

_SAVED_EVERY = 60.0  # seconds
_SPOKEN_EVERY = 50  # steps


def train(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    rate: float,
    checkpoint: Path,
    decay: float = 0.0,
    average: float = 0.0,
) -> None:
    """Adam with a linear warm-up and a cosine decay of the learning `rate`.

    loss: of a step's number, from which all its randomness follows, so that a resumed run goes on the same way.
    average: the decay of the exponential moving average that the parameters are set to in the end; 0 for none.
    """
    weights = list(parameters)
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=decay)
    averaged = [weight.detach().clone() for weight in weights]
    first = _resume(checkpoint, weights, optimizer, averaged)
    saved = began = time.monotonic()
    total, warm = 0.0, max(1, steps // 20)
    for step in range(first, steps):
        torch.manual_seed(step)
        progress = max(0, step - warm) / (steps - warm)
        factor = min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = rate * factor
        value = loss(step)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        # Young averages follow fast, or they would keep the random start.
        share = 1 - min(average, (step + 1) / (step + 10))
        torch._foreach_lerp_(averaged, [weight.detach() for weight in weights], share)
        total += value.item()
        if (step + 1) % _SPOKEN_EVERY == 0:
            each = (time.monotonic() - began) / (step + 1 - first)
            print(f"  step {step + 1} of {steps}, loss {total / _SPOKEN_EVERY:.4f}, {each:.2f} s each", flush=True)
            total = 0.0
        if time.monotonic() - saved > _SAVED_EVERY or step + 1 == steps:
            _save(checkpoint, step + 1, weights, optimizer, averaged)
            saved = time.monotonic()
    if average:
        with torch.no_grad():
            for weight, mean in zip(weights, averaged, strict=True):
                weight.copy_(mean)


def _save(
    path: Path, step: int, weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, averaged: list[Tensor]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "weights": weights, "optimizer": optimizer.state_dict(), "averaged": averaged}
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


@torch.no_grad()
def _resume(path: Path, weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, averaged: list[Tensor]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for one, other in zip([*weights, *averaged], [*state["weights"], *state["averaged"]], strict=True):
        one.copy_(other)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
