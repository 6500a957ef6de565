"""What an adapter does, one for each kind of WebUI: put a merge in the place of the LoRAs that the prompt stacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from lib_pm.core.formats import find
from lib_pm.core.formats.lora import split_key
from lib_pm.prompt.parse import LoraTag


@dataclass(frozen=True)
class Placement:
    """A merge that is in the model. layers: the names of those that the model took.

    undo: puts back what was replaced, as if it had never been; nothing if the WebUI has replaced the merge since.
    """

    layers: frozenset[str]
    undo: Callable[[], None]


class Replace(Protocol):
    """One WebUI's way to put a LoRA in the place of all that the prompt stacked, but for those in `stacked`."""

    def __call__(
        self, networks: Any, model: Any, name: str, tensors: Mapping[str, Tensor], stacked: Sequence[LoraTag]
    ) -> Placement:
        """Put the LoRA in and return how to take it out again.

        networks: the module of the WebUI's Lora extension. model: the loaded one. tensors: as in the LoRA's file.
        name: one that no other content ever had: weights are applied again when a name changes, not when its content
        does. MergeInputError if it cannot be done, with nothing changed.
        """


def layer_of(key: str) -> str:
    """Return the layer that a tensor belongs to: `a.b` of `a.b.lora_A.weight`, `a.b.alpha` and `a.b.diff`.

    A bias is a layer of its own: `a.b.bias` of `a.b.diff_b`.
    """
    found = find(key)
    return found.layer if found else key


def weight_sizes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Return layer -> (out, in·kh·kw) of the weight that it changes, of a merge's tensors; (out, 1) of a vector."""
    out: dict[str, int] = {}
    columns: dict[str, int] = {}
    for key, tensor in tensors.items():
        layer, part = layer_of(key), (split_key(key) or ("", "full"))[1]
        if part in ("up", "full"):
            out[layer] = tensor.shape[0]
        if part in ("down", "full"):
            columns[layer] = tensor[0].numel()
    return {name: (out[name], columns[name]) for name in out}
