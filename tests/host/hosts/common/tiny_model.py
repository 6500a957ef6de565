"""SD1's UNet, all layers and by their original names, but a few channels wide: one pass takes milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTHS = (8, 8, 16, 16)  # channels of the four levels; no two ends of a cross-attention are alike
TEXT_WIDTH = 12
LATENT = 4


class Attention(nn.Module):
    def __init__(self, width: int, seen: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(seen, width, bias=False)
        self.to_v = nn.Linear(seen, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        scores = self.to_q(x) @ self.to_k(seen).transpose(-1, -2)
        return self.to_out((scores / x.shape[-1] ** 0.5).softmax(-1) @ self.to_v(seen))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width), Attention(width, TEXT_WIDTH)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(Gated(width), nn.Identity(), nn.Linear(4 * width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        seen = self.norm1(x)
        x = x + self.attn1(seen, seen)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff.net(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, width)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width)])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        inner = self.proj_in(self.norm(x))
        tokens = self.transformer_blocks[0](inner.flatten(2).transpose(1, 2), text)  # (batch, h·w, width)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))


class ResBlock(nn.Module):
    def __init__(self, inner: int, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(2, inner), nn.SiLU(), nn.Conv2d(inner, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(WIDTHS[-1], out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(2, out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inner == out else nn.Conv2d(inner, out, 1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        inner = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(inner)


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2))


def _run(block: nn.ModuleList, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
    for module in block:
        x = module(x, time, text)
    return x


class UNet(nn.Module):
    """latents (batch, 4, h, w), sigma, text (batch, tokens, 12) -> what to take the latents for, clean."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(2, WIDTHS[-1]), nn.SiLU(), nn.Linear(WIDTHS[-1], WIDTHS[-1]))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(LATENT, WIDTHS[0], 3, padding=1)])])
        skips, width = [WIDTHS[0]], WIDTHS[0]
        for level, wide in enumerate(WIDTHS):
            for _ in range(2):
                self.input_blocks.append(self._block(width, wide, level < 3))
                width = wide
                skips.append(width)
            if level < 3:
                self.input_blocks.append(nn.ModuleList([Downsample(width)]))
                skips.append(width)
        self.middle_block = nn.ModuleList([ResBlock(width, width), SpatialTransformer(width), ResBlock(width, width)])
        self.output_blocks = nn.ModuleList()
        for level, wide in reversed(list(enumerate(WIDTHS))):
            for index in range(3):
                block = self._block(width + skips.pop(), wide, level < 3)
                width = wide
                if index == 2 and level:
                    block.append(Upsample(width))
                self.output_blocks.append(block)
        self.out = nn.Sequential(nn.GroupNorm(2, width), nn.SiLU(), nn.Conv2d(width, LATENT, 3, padding=1))

    @staticmethod
    def _block(inner: int, out: int, attends: bool) -> nn.ModuleList:
        return nn.ModuleList([ResBlock(inner, out), *([SpatialTransformer(out)] if attends else [])])

    def forward(self, latents: Tensor, sigma: float, text: Tensor) -> Tensor:
        time = self.time_embed(torch.tensor([[sigma, sigma**2]])).expand(len(latents), -1)
        x = self.input_blocks[0][0](latents / (1 + sigma))
        kept = [x]
        for block in self.input_blocks[1:]:
            x = _run(block, x, time, text)
            kept.append(x)
        x = _run(self.middle_block, x, time, text)
        for block in self.output_blocks:
            x = _run(block, torch.cat([x, kept.pop()], dim=1), time, text)
        return self.out(x) / 4
