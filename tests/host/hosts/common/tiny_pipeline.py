"""The rest of the tiny SD1: a text encoder, a picture from latents and back, and weights made from a name."""

from __future__ import annotations

import zlib

import torch
from tiny_model import LATENT, TEXT_WIDTH, UNet
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

TOKENS = 8
PIXELS = 8  # image pixels along a latent's side
_VOCABULARY = 512


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(TEXT_WIDTH, TEXT_WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q_proj(x) @ self.k_proj(x).transpose(-1, -2)
        return self.out_proj((scores / TEXT_WIDTH**0.5).softmax(-1) @ self.v_proj(x))


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = SelfAttention()
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(TEXT_WIDTH, 4 * TEXT_WIDTH), nn.Linear(4 * TEXT_WIDTH, TEXT_WIDTH)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(TEXT_WIDTH), nn.LayerNorm(TEXT_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(x))))


class TextEncoder(nn.Module):
    """prompts -> (batch, 8, 12). Layers are at `transformer.text_model.encoder.layers.N`, as CLIP's are."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.transformer = nn.Module()
        model = self.transformer.text_model = nn.Module()
        model.embeddings = nn.Embedding(_VOCABULARY, TEXT_WIDTH)
        model.encoder = nn.Module()
        model.encoder.layers = nn.ModuleList(EncoderLayer() for _ in range(layers))
        model.final_layer_norm = nn.LayerNorm(TEXT_WIDTH)

    def forward(self, prompts: list[str]) -> Tensor:
        model = self.transformer.text_model
        x = model.embeddings(torch.tensor([_tokens(prompt) for prompt in prompts]))
        x = x + torch.arange(TOKENS)[:, None] / TOKENS
        for layer in model.encoder.layers:
            x = layer(x)
        return model.final_layer_norm(x)


def _tokens(prompt: str) -> list[int]:
    words = prompt.lower().replace(",", " ").split()
    return ([1 + zlib.crc32(word.encode()) % (_VOCABULARY - 1) for word in words] + [0] * TOKENS)[:TOKENS]


def build(name: str) -> tuple[UNet, TextEncoder]:
    """The two models of a checkpoint: the same name, the same weights."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(zlib.crc32(name.encode()))
        models = UNet(), TextEncoder()
        for model in models:
            for weight in model.parameters():
                if weight.dim() > 1:  # stronger than torch's own, so that deep layers show too
                    nn.init.normal_(weight, std=1.5 * weight[0].numel() ** -0.5)
            model.requires_grad_(False)
    return models


def noise(shape: tuple[int, int, int], seeds: list[int]) -> Tensor:
    """(len(seeds), *shape), each picture's noise from its own seed alone."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


_COLOURS = torch.tensor([[0.6, 0.1, -0.2, 0.1], [-0.1, 0.6, 0.2, -0.1], [0.2, -0.2, 0.6, 0.2]])


def decode(latents: Tensor) -> Tensor:
    """(batch, 4, h, w) -> (batch, 3, 8h, 8w) in -1 … 1."""
    return F.interpolate(torch.einsum("rc,bchw->brhw", _COLOURS, latents).tanh(), scale_factor=PIXELS)


def encode(pixels: Tensor) -> Tensor:
    """(batch, 3, 8h, 8w) in -1 … 1 -> (batch, 4, h, w): what decodes to about the same picture."""
    colours = F.avg_pool2d(pixels, PIXELS).clamp(-0.99, 0.99).atanh()
    return torch.einsum("cr,brhw->bchw", torch.linalg.pinv(_COLOURS), colours)


def sigmas(steps: int, strength: float = 1.0) -> list[float]:
    """The noise levels of a run: from 4 down to 0; below strength 1 only the last part of them."""
    kept = max(1, round(steps * strength))
    return [4.0 * (step / steps) ** 2 for step in range(kept, -1, -1)]


assert _COLOURS.shape[1] == LATENT
