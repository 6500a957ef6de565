"""Which module of a diffusers pipeline each layer of a LoRA changes, and its factors in the shape that module wants.

Written for the pipeline's own module paths, so that whatever a loader drops, renames or scales otherwise can be seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats import find
from lib_pm.core.formats.foreign import kind_of
from lib_pm.core.formats.lora import Part, split_key
from lib_pm.core.layers import LayerShape
from lib_pm.families.names import parse_name
from lib_pm.families.spelling import Place, spelling_of
from lib_pm.families.transformers import TRANSFORMERS

_NAMED = 5  # names shown in an error; the count says the rest


@dataclass(frozen=True)
class Fitted:
    """A LoRA layer on its module: delta = up @ down, the scale already in `up`, so that PEFT's own scaling stays 1.

    component: the pipeline's attribute ("unet", "text_encoder" …). path: the module inside it.
    up: (out, rank) or (out, rank, 1, 1). down: (rank, in) or (rank, in, kh, kw). Both in the component's dtype, on the
    device that they were on.
    """

    name: str
    component: str
    path: str
    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def fit_layers(pipeline: Any, tensors: Mapping[str, Tensor]) -> list[Fitted]:
    """Return every layer of a LoRA's state dict, whoever named it, on the module that it changes.

    One that is several modules here, such as q, k and v in one, is cut up.

    MergeInputError if a tensor is no part of a plain LoRA, a layer lacks a factor, or a layer fits no module: then the
    message says how many of how many, and the first names.
    """
    targets = _targets(pipeline)
    layers = _parts_by_layer(tensors)
    models = {type(model).__name__ for _, model in components(pipeline)}
    layers = _by_diffusers_names(layers, targets, models) or layers
    fitted: list[Fitted] = []
    strange: list[str] = []
    for name, parts in layers.items():
        found = targets.get(_address(name))
        if found is None:
            strange.append(name)
            continue
        layer = _fit(name, parts, *found)
        if isinstance(layer, str):
            strange.append(layer)
        else:
            fitted.append(layer)
    if strange:
        raise _no_match(pipeline, strange, len(layers))
    return fitted


def _by_diffusers_names(
    layers: Mapping[str, Mapping[Part, Tensor]], targets: Collection[tuple[str, str]], models: Collection[str]
) -> dict[str, dict[Part, Tensor]] | None:
    """Return the layers of a transformer as diffusers calls and cuts them; None if they are so already, or are none of
    this pipeline. targets: its modules, as `parse_name` gives them. models: the classes that it consists of.
    """
    if all(parse_name(name) in targets for name in layers):
        return None
    for family in TRANSFORMERS:
        if family.model not in models:
            continue
        spelling = spelling_of(family, "diffusers")
        found: dict[str, dict[Part, Tensor]] = {}
        for name, parts in layers.items():
            shape = LayerShape(parts["up"].shape[0], parts["down"].shape[1])
            places = spelling.places(name, shape) if spelling else ()
            if not places or any(parse_name(place.name) not in targets for place in places):
                break
            found |= {place.name: {**parts, "up": _rows(parts["up"], place)} for place in places}
        else:
            return found
    return None


def _rows(up: Tensor, place: Place) -> Tensor:
    """Return the rows of an up factor that are in this place."""
    if not place.rows:
        return up
    there = torch.zeros(place.out, *up.shape[1:], dtype=up.dtype, device=up.device)
    for rows in place.rows:
        there[rows.to : rows.to + rows.count] = up[rows.first : rows.first + rows.count]
    return there


def fit_modules(pipeline: Any, shapes: Mapping[str, LayerShape]) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the module that each layer of these names and weight shapes changes.

    MergeInputError as for `fit_layers`.
    """
    targets = _targets(pipeline)
    fitted: dict[str, nn.Linear | nn.Conv2d] = {}
    strange: list[str] = []
    for name, shape in shapes.items():
        found = targets.get(_address(name))
        if found is None:
            strange.append(name)
        elif not shape.fits(_shape(found[2].weight)):
            strange.append(_misfit(name, shape, _shape(found[2].weight)))
        else:
            fitted[name] = found[2]
    if strange:
        raise _no_match(pipeline, strange, len(shapes))
    return fitted


def _no_match(pipeline: Any, strange: list[str], count: int) -> MergeInputError:
    more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
    return MergeInputError(
        f"{len(strange)} of {count} layers match no module of this {type(pipeline).__name__}: "
        f"{', '.join(strange[:_NAMED])}{more}. Is the LoRA for another model family?"
    )


def components(pipeline: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the models of a pipeline that can take a LoRA, by attribute name."""
    for component in getattr(pipeline, "_lora_loadable_modules", ()):
        model = getattr(pipeline, component, None)
        if isinstance(model, nn.Module):
            yield component, model


def _targets(pipeline: Any) -> dict[tuple[str, str], tuple[str, str, nn.Linear | nn.Conv2d]]:
    """Return component, path and module of everything that a LoRA can change, by what parsed names call it."""
    return {
        parse_name(f"{component}.{path}"): (component, path, module)
        for component, model in components(pipeline)
        for path, module in _weighted_modules(model)
    }


def _address(name: str) -> tuple[str, str]:
    component, flat = parse_name(name)
    return component or "unet", flat  # a name without a component is of the denoiser


def _shape(weight: Tensor) -> LayerShape:
    return LayerShape(weight.shape[0], weight.shape[1], tuple(weight.shape[2:]))


def _misfit(name: str, theirs: LayerShape, ours: LayerShape) -> str:
    return f"{name} ({theirs}, the model has {ours})"


def _weighted_modules(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield the linear layers and convolutions, by the path that they have without any LoRA on them."""
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and ".lora_" not in path:
            # PEFT puts a LoRA's module in the place of the base module, which becomes its `base_layer`.
            yield path.removesuffix(".base_layer"), module


def _parts_by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[Part, Tensor]]:
    layers: dict[str, dict[Part, Tensor]] = {}
    for key, tensor in tensors.items():
        found = None if kind_of(key) else split_key(key)
        if found is None:
            other = find(key)
            kind = kind_of(key) or (other.kind.title if other and other.kind else "of an unknown kind")
            raise MergeInputError(
                f"{key} is not part of a plain LoRA but {kind}. A mode with a rank, as add_svd, makes plain LoRAs of "
                "full differences; biases and norms cannot be applied to a pipeline."
            )
        layers.setdefault(found[0], {})[found[1]] = tensor
    if not layers:
        raise MergeInputError("There are no layers to apply.")
    for name, parts in layers.items():
        if "up" not in parts or "down" not in parts:
            raise MergeInputError(
                f"Layer {name} has only {', '.join(sorted(parts))}; an up and a down factor are needed."
            )
        if "mid" in parts:
            raise MergeInputError(f"Layer {name} has a mid factor (CP); merge the LoRA first, which multiplies it in.")
    return layers


def _fit(name: str, parts: Mapping[Part, Tensor], component: str, path: str, module: nn.Module) -> Fitted | str:
    """Return the layer in the shape of the module's weight, or a text that says which shapes differ."""
    weight = module.get_parameter("weight")
    up, down = parts["up"], parts["down"]
    theirs, ours = LayerShape(up.shape[0], down.shape[1], tuple(down.shape[2:])), _shape(weight)
    if not theirs.fits(ours):
        return _misfit(name, theirs, ours)
    rank = down.shape[0]
    alpha = float(parts["alpha"]) if "alpha" in parts else float(rank)
    ones = (1,) * len(ours.kernel)
    dtype = (
        weight.dtype if weight.dtype.is_floating_point else torch.float32
    )  # a quantised weight has no dtype for this
    scaled = up.float() * (alpha / rank) if alpha != rank else up
    return Fitted(
        name,
        component,
        path,
        scaled.reshape(ours.out, rank, *ones).to(dtype),
        down.reshape(rank, ours.inner, *ours.kernel).to(dtype),
    )
