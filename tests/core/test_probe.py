"""The probe against a float64 copy of the model, its weights changed densely, its inputs looked at apart."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_pm.core import probe as probe_module
from lib_pm.core.calibration import Core, Statistics
from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.probe import Probe
from lib_pm.core.shares import Share

RANKS = {b"a": 3, b"b": 2, b"c": 4}
WEIGHTS = {b"a": 1.0, b"b": -0.6, b"c": 0.8}


class Model(nn.Module):
    """Convolutions of several kinds, and a linear layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.dilated = nn.Conv2d(8, 6, (3, 1), padding=(2, 0), dilation=2)
        self.pointwise = nn.Conv2d(6, 5, 1)
        self.linear = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.pointwise(torch.tanh(self.dilated(torch.tanh(self.strided(x))))))
        x = x.flatten(2).transpose(1, 2)
        return self.linear(torch.tanh(self.linear(x)))


# The layers that each LoRA has: all of them, some, one.
OWNERS = {"strided": b"ab", "dilated": b"abc", "pointwise": b"bc", "linear": b"abc"}


def build(seed: int = 0, *, size: float = 0.5) -> tuple[Model, dict[str, list[Share]]]:
    torch.manual_seed(seed)
    model = Model()
    loras = {}
    for name, owners in OWNERS.items():
        weight = model.get_submodule(name).get_parameter("weight")
        shape = LayerShape(weight.shape[0], weight.shape[1], tuple(weight.shape[2:]))
        loras[name] = [
            Share(
                Layer(
                    shape,
                    size * torch.randn(shape.out, RANKS[content]),
                    torch.randn(RANKS[content], shape.columns) / shape.columns**0.5,
                    0.5,
                ),
                WEIGHTS[content],
                content,
            )
            for content in (bytes([owner]) for owner in owners)
        ]
    return model, loras


def probed(model: Model, loras: dict[str, list[Share]], changes: dict[str, Tensor], inputs: list[Tensor]) -> Probe:
    layers = {name: (model.get_submodule(name), Core.of(shares)) for name, shares in loras.items()}
    with Probe(layers, changes) as probe, torch.no_grad():  # type: ignore[arg-type]
        for x in inputs:
            for content in sorted(RANKS):
                with probe.alone(content):
                    model(x)
            with probe.merged():
                model(x)
    return probe


@contextmanager
def looked_at(model: Model, deltas: dict[str, Tensor]) -> Iterator[dict[str, list[Tensor]]]:
    """Change the weights; yield what its layers are given, as matrices (tokens, in·kh·kw)."""
    seen: dict[str, list[Tensor]] = {name: [] for name in OWNERS}
    hooks = []
    for name in OWNERS:
        module = model.get_submodule(name)

        def look(module: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
            x = inputs[0]
            if isinstance(module, nn.Conv2d):
                x = functional.unfold(
                    x,
                    module.kernel_size,
                    module.dilation,
                    module.padding,
                    module.stride,  # type: ignore[arg-type]
                ).transpose(1, 2)
            seen[name].append(x.flatten(0, -2))

        hooks.append(module.register_forward_pre_hook(look))
        with torch.no_grad():
            weight = module.get_parameter("weight")
            if name in deltas:
                weight += deltas[name].reshape(weight.shape)
    yield seen
    for hook in hooks:
        hook.remove()


def reference(
    model: Model, loras: dict[str, list[Share]], changes: dict[str, Tensor], inputs: list[Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Σ z̃·z̃ᵀ, Σ (z − z̃)·z̃ᵀ, and both sums by LoRA, all from dense matrices."""

    def rows(share: Share) -> Tensor:
        down = share.layer.down.double()
        return down / down.norm(dim=1, keepdim=True)

    def delta(share: Share) -> Tensor:
        return share.weight * share.layer.scale * share.layer.up.double() @ share.layer.down.double()

    def together(name: str) -> Tensor:
        shares = loras[name]
        down = torch.cat([rows(share) for share in shares])
        up = torch.cat(
            [delta(share) @ rows(share).T @ torch.linalg.inv(rows(share) @ rows(share).T) for share in shares], 1
        )
        return up @ (torch.eye(len(down)).double() + changes.get(name, torch.zeros(1)).double()) @ down

    def run(deltas: dict[str, Tensor]) -> dict[str, Tensor]:
        running = copy.deepcopy(model).double()
        with looked_at(running, deltas) as seen, torch.no_grad():
            for x in inputs:
                running(x.double())
        return {name: torch.cat(some) for name, some in seen.items()}

    merged = run({name: together(name) for name in loras})
    alone = {
        content: run({name: delta(s) for name, shares in loras.items() for s in shares if s.content == content})
        for content in RANKS
    }
    found = {}
    for name, shares in loras.items():
        after = torch.cat([merged[name] @ rows(s).T for s in shares], 1)
        before = torch.cat([alone[s.content][name] @ rows(s).T for s in shares], 1)
        blocks = [len(rows(s)) for s in shares]
        found[name] = {
            "second": after.T @ after,
            "shift": (before - after).T @ after,
            "moved": torch.stack([b.square().sum() for b in (before - after).split(blocks, 1)]),
            "size": torch.stack([b.square().sum() for b in before.split(blocks, 1)]),
        }
    return found


def images(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, 8, 6, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("mixed", [False, True], ids=["sum", "mixed"])
def test_statistics_are_those_of_dense_weights_in_float64(mixed: bool) -> None:
    model, loras = build()
    sizes = {name: sum(share.layer.rank for share in shares) for name, shares in loras.items()}
    changes = {name: 0.2 * torch.randn(size, size) for name, size in sizes.items() if mixed}
    got = probed(model, loras, changes, images()).statistics
    expected = reference(model, loras, changes, images())
    assert got.keys() == expected.keys()
    for name, statistics in got.items():
        for field, numbers in expected[name].items():
            scale = float(numbers.abs().max())
            torch.testing.assert_close(
                getattr(statistics, field), numbers, rtol=1e-4, atol=1e-5 * scale, msg=f"{name} {field}"
            )
        assert float(expected[name]["moved"].min()) > 0 or name == "strided"  # else the runs would not differ


def test_the_first_layer_sees_the_same_in_all_runs() -> None:
    model, loras = build()
    statistics = probed(model, loras, {}, images()).statistics["strided"]
    assert not statistics.shift.any()
    assert statistics.drift == 0


def test_the_model_is_as_before_and_outside_of_runs_even_within() -> None:
    model, loras = build()
    x = images(1)[0]
    before = model(x)
    probed(model, loras, {}, images())
    layers = {name: (model.get_submodule(name), Core.of(shares)) for name, shares in loras.items()}
    with Probe(layers, {}) as probe:  # type: ignore[arg-type]
        assert torch.equal(model(x), before)
        with probe.merged():
            assert not torch.allclose(model(x), before)
        assert torch.equal(model(x), before)
        with pytest.raises(KeyError), probe.alone(b"a"):
            raise KeyError
        assert torch.equal(model(x), before)
        assert not probe.statistics  # no run alone had a merge to go with
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(x), before)


def test_of_many_tokens_the_same_ones_are_looked_at_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MOST_TOKENS", 5)
    model, loras = build(size=0.0)  # LoRAs that change nothing: all runs see the same
    for statistics in probed(model, loras, {}, images()).statistics.values():
        assert statistics.tokens in (10, 20)  # two images, the linear layer twice
        assert statistics.drift < 1e-10
        assert statistics.second.any()


def test_what_is_no_number_is_told_with_its_layer() -> None:
    model, loras = build()
    with torch.no_grad():
        model.dilated.bias[0] = torch.nan  # type: ignore[index]
    with pytest.raises(MergeInputError, match=r"Layer pointwise: .*NaN"):
        probed(model, loras, {}, images())


def test_statistics_of_nothing() -> None:
    model, loras = build()
    assert probed(model, loras, {}, []).statistics == {}
    core = Core.of(loras["linear"])
    assert core
    assert isinstance(Statistics.of(core, torch.zeros(0, 9), torch.zeros(0, 9)).drift, float)
