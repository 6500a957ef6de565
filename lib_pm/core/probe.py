"""What goes into the layers of a model while LoRAs are on it, seen through their own down factors.

The LoRAs are put on by hooks, each alone or all of them merged, without a change to a weight. Of an input x no more is
kept than z = A·x: Σr numbers a token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_pm.core.calibration import Core, Statistics
from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import all_finite

# Of one call and layer. What more of them say is much the same, and those of the runs alone are held until the merge's.
MOST_TOKENS = 512

# The LoRAs that are on: none, all of them merged, or the one of a content alone.
_On = Literal["none", "merged"] | bytes


@dataclass
class _Place:
    """A layer with hooks. change: R − I of the merge, None for 0. held: z of the runs alone, oldest call first."""

    name: str
    module: nn.Linear | nn.Conv2d
    core: Core
    change: Tensor | None
    up: Tensor | None = None
    down: Tensor | None = None
    held: dict[bytes, deque[Tensor]] = field(default_factory=dict)
    statistics: Statistics | None = None

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return B and A where x is and in its dtype. A has the shape of the module's own weight."""
        if self.up is None or self.down is None or (self.up.device, self.up.dtype) != (x.device, x.dtype):
            self.up, self.down = _like(self.core.up, x), _like(self.core.down, x)
            self.down = self.down.reshape(-1, *self.module.weight.shape[1:])
            self.change = None if self.change is None else _like(self.change, x)
        return self.up, self.down

    def seen(self, x: Tensor, rows: slice) -> Tensor:
        """Return z, (…, K): of a convolution, each of its output positions is a token."""
        _, down = self.factors(x)
        if isinstance(self.module, nn.Linear):
            return functional.linear(x, down[rows])
        module = self.module
        z = functional.conv2d(x, down[rows], None, module.stride, module.padding, module.dilation)
        return z.movedim(1, -1)

    def added(self, x: Tensor, z: Tensor, rows: slice) -> Tensor:
        """Return what these LoRAs add to the layer's output. z: (…, K)."""
        up, _ = self.factors(x)
        effect = functional.linear(z, up[:, rows])
        return effect if isinstance(self.module, nn.Linear) else effect.movedim(-1, 1)

    def alone(self, x: Tensor, content: bytes) -> Tensor | None:
        rows = self.core.rows(content)
        if rows.start == rows.stop:
            return None
        z = self.seen(x, rows)
        self.held.setdefault(content, deque()).append(_tokens(z))
        return self.added(x, z, rows)

    def merged(self, x: Tensor) -> Tensor:
        everything = slice(None)
        z = self.seen(x, everything)
        if any(self.held.values()):
            alone = torch.cat([self.held[content].popleft() for content in dict.fromkeys(self.core.contents)], 1)
            statistics = Statistics.of(self.core, alone, _tokens(z))
            self._check(statistics)
            self.statistics = self.statistics + statistics if self.statistics else statistics
        mixed = z if self.change is None else z + functional.linear(z, self.change)
        return self.added(x, mixed, everything)

    def _check(self, statistics: Statistics) -> None:
        if not (all_finite(statistics.second) and all_finite(statistics.shift)):
            raise MergeInputError(
                f"Layer {self.name}: with the LoRAs on, what goes into it is a NaN or an infinity; nothing can be "
                "calibrated. Do images with these LoRAs at these strengths come out at all?"
            )


class Probe:
    """LoRAs on a model's layers, and the statistics of what goes into these. Use as a context manager.

    Outside `alone` and `merged` the model computes as ever. To learn from a call of the model, make it with every LoRA
    alone, in any order, then with the merge: token for token these belong together. A call with the merge that none
    went before teaches nothing.
    """

    def __init__(self, layers: Mapping[str, tuple[nn.Linear | nn.Conv2d, Core]], changes: Mapping[str, Tensor]) -> None:
        """layers: by name, the module and its LoRAs. changes: R − I of the merge; 0 for layers that are not there."""
        self._places = [_Place(name, module, core, changes.get(name)) for name, (module, core) in layers.items()]
        self._hooks: list[Any] = []
        self._on: _On = "none"

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Return those of all layers that were called."""
        return {place.name: place.statistics for place in self._places if place.statistics}

    @contextmanager
    def alone(self, content: bytes) -> Iterator[None]:
        """Within it one LoRA is on, and z is held for the merge."""
        with self._with(content):
            yield

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within it all LoRAs are on, merged, and what is held of them alone becomes statistics."""
        with self._with("merged"):
            yield

    @contextmanager
    def _with(self, on: _On) -> Iterator[None]:
        before, self._on = self._on, on
        try:
            yield
        finally:
            self._on = before

    def __enter__(self) -> Probe:
        for place in self._places:
            self._hooks.append(place.module.register_forward_hook(partial(self._hook, place)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _hook(self, place: _Place, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        x = inputs[0]
        if isinstance(self._on, bytes):
            added = place.alone(x, self._on)
        else:
            added = place.merged(x) if self._on == "merged" else None
        return None if added is None else output + added


def _like(tensor: Tensor, x: Tensor) -> Tensor:
    return tensor.to(x.dtype).to(x.device)  # in two steps, as Apple's GPU has no float64


def _tokens(z: Tensor) -> Tensor:
    """Return (tokens, K) in float32 of (…, K): all of them, or as many as are held, the same ones each time."""
    z = z.flatten(0, -2).float()
    if len(z) <= MOST_TOKENS:
        return z
    # drawn, as every n-th would be of few columns of the picture
    drawn = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:MOST_TOKENS]
    return z[drawn.sort().values.to(z.device)]
