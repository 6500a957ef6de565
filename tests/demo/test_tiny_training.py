"""A training run goes on as if it had not been stopped, and a trained LoRA's file is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")
pytest.importorskip("peft")
from safetensors.torch import load_file

from demo.tiny import run_state
from demo.tiny.lora import TrainedLora
from demo.tiny.model import build_models, build_pipeline, build_tokenizer
from demo.tiny.pictures import SIZE
from demo.tiny.scenes import held_out_scenes
from demo.tiny.train_base import make_pairs, noise_loss
from demo.tiny.train_vae import decode, standardize
from lib_pm.pipeline.apply import apply, remove

STEPS = 20


def trained(checkpoint: Path, stop_at: int = STEPS) -> list[Tensor]:
    """The weights of a small run on random data; stop_at: the step that Ctrl+C comes in."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)

    def loss(step: int) -> Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        found: Tensor = ((model(torch.randn(8, 4)) - torch.arange(3.0)) ** 2).mean()
        return found

    run_state.train(model.parameters(), loss, steps=STEPS, rate=0.1, checkpoint=checkpoint, average=0.9)
    return list(model.parameters())


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "_SAVED_EVERY", 0.0)
    whole = trained(tmp_path / "whole.pt")
    for stop_at in (7, 13):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "stopped.pt", stop_at)
    resumed = trained(tmp_path / "stopped.pt")
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))
    assert torch.load(tmp_path / "stopped.pt", weights_only=True)["step"] == STEPS


@pytest.mark.parametrize(("conv_rank", "text"), [(0, False), (2, True)])
def test_the_file_of_a_lora_is_what_was_trained(tmp_path: Path, conv_rank: int, text: bool) -> None:
    models = build_models()
    for model in models.values():
        model.eval().requires_grad_(False)
    pipeline = build_pipeline(models, build_tokenizer())
    lora = TrainedLora(models["unet"], models["text_encoder"], rank=4, conv_rank=conv_rank, text=text)
    torch.manual_seed(1)
    with torch.no_grad():
        for factor in lora.parameters():
            factor.copy_(torch.randn_like(factor) * 0.05).copy_(factor.half())
    ids = torch.randint(1000, (1, 77))
    noise = torch.randn(1, 4, 8, 8)

    def noise_of() -> Tensor:
        with torch.no_grad():
            words = models["text_encoder"](ids).last_hidden_state
            found: Tensor = models["unet"](noise, 500, encoder_hidden_states=words).sample
        return found

    base = noise_of()
    with lora.applied():
        inside = noise_of()
    assert torch.equal(noise_of(), base)
    lora.save(tmp_path / "lora.safetensors", ["star"])
    applied = apply(pipeline, load_file(tmp_path / "lora.safetensors"))
    assert ("text_encoder" in applied.layers) == text
    assert (inside - base).abs().max() > 1e-3
    torch.testing.assert_close(noise_of(), inside, atol=2e-5, rtol=1e-4)
    remove(pipeline, applied.name)


def test_latents_are_of_mean_0_and_deviation_1_and_the_pictures_stay() -> None:
    torch.manual_seed(0)
    vae = build_models()["vae"].eval().requires_grad_(False)
    with torch.no_grad():
        vae.quant_conv.bias[:4] += torch.tensor([1.0, -2.0, 0.5, 3.0])
    picture = torch.rand(2, 3, SIZE, SIZE)

    def through() -> tuple[Tensor, Tensor]:
        means = vae.encode(2 * picture - 1).latent_dist.mean
        return means * vae.config.scaling_factor, vae.decode(means).sample

    _, before = through()
    standardize(vae)
    pairs = make_pairs(vae, build_tokenizer(), held_out_scenes(64), seed=5)
    latents, after = through()
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)
    assert decode(vae, latents).shape == picture.shape
    assert pairs.latents.shape == (64, 4, 8, 8)
    assert pairs.captions.shape == pairs.short.shape == (64, 77)
    assert pairs.latents.mean().abs() < 0.5
    assert 0.5 < pairs.latents.std() < 2


def test_the_loss_teaches_the_noise() -> None:
    """A model that knows the noise has none, one that says nothing has the weighted variance of it."""
    pairs = make_pairs(build_models()["vae"], build_tokenizer(), held_out_scenes(8), seed=5)
    seen: dict[str, Tensor] = {}

    class Silent:
        def __call__(self, noisy: Tensor, times: Tensor, encoder_hidden_states: Tensor) -> Silent:
            seen["times"], self.sample = times, torch.zeros_like(noisy)
            return self

    class Words:
        last_hidden_state = torch.zeros(1)

        def __call__(self, ids: Tensor) -> Words:
            seen["ids"] = ids
            return self

    torch.manual_seed(0)
    loss = noise_loss(Silent(), Words(), pairs, 4000)
    assert seen["times"].min() < 5
    assert seen["times"].max() > 994
    empty = (seen["ids"] == pairs.empty).all(1).float().mean()
    assert 0.07 < empty < 0.13
    from demo.tiny.model import noise_schedule

    weights = (1 / noise_schedule().alphas_cumprod).clamp(max=20.0)
    assert loss == pytest.approx(float(weights.mean()), rel=0.05)
