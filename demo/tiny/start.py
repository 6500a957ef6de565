"""Where the training starts. Random weights alone learn edges at once, and flat colours after thousands of steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_REFERENCE = 3  # the channel beside red, green and blue that is the same everywhere
_HEIGHT = 6.0  # how much: a norm of a group with it keeps colours, which are -1..1, as they are but for a factor
_LINEAR = 4.0  # SiLU of colours raised by so much is nearly themselves


@torch.no_grad()
def quiet_branches(model: nn.Module, last: tuple[str, ...]) -> None:
    """Let every residual branch add nothing at first. last: endings of the names of the branches' last layers."""
    for name, module in model.named_modules():
        if name.endswith(last):
            module.get_parameter("weight").zero_()
            module.get_parameter("bias").zero_()


@torch.no_grad()
def start_as_average(vae: Any) -> None:
    """Make the VAE's first three latents the mean colour of eight by eight pixels, and decode them to flat squares.

    Red, green and blue are the first channels all the way; what the other channels hold is random.
    """
    quiet_branches(vae, ("conv2", "to_out.0"))
    for name, module in vae.named_modules():
        if name.endswith(("downsamplers.0.conv", "upsamplers.0.conv", "conv_shortcut", "encoder.conv_in")):
            _pass_on(module, average="downsamplers" in name)
    for side in (vae.encoder, vae.decoder):
        _pass_on(side.conv_in)
        side.conv_in.weight[_REFERENCE] = 0
        side.conv_in.bias[_REFERENCE] = _HEIGHT
        # The group of the first channels: `size` of them, of which one is _HEIGHT and the others are small
        size = side.conv_norm_out.num_channels // side.conv_norm_out.num_groups
        mean = _HEIGHT / size
        side.conv_norm_out.weight[:3] = (_HEIGHT * mean - mean**2) ** 0.5
        side.conv_norm_out.bias[:3] = mean + _LINEAR
        _pass_on(side.conv_out)
        side.conv_out.bias[:3] = -_LINEAR
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        _pass_on(convolution)
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = -6  # log variance: fresh latents' noise would drown what there is to learn


def _pass_on(convolution: nn.Module, *, average: bool = False) -> None:
    """Let a convolution pass on its first channels as they are. average: of two by two pixels, for half the size."""
    weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
    out, inner, height, _ = weight.shape
    for channel in range(min(4, out, inner)):
        weight[channel] = 0
        bias[channel] = 0
        if average:
            weight[channel, channel, :2, :2] = 0.25
        else:
            weight[channel, channel, height // 2, height // 2] = 1
