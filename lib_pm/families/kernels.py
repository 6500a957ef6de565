"""The kernels of a UNet's convolutions, for kinds of network that hold them as matrices."""

from __future__ import annotations

import re
from dataclasses import replace

from lib_pm.core.layers import LayerShape
from lib_pm.families.names import parse_name

_THREE = re.compile(r"(.*_resnets_\d+_conv[12]|.*_(down|up)samplers_\d+_conv|conv_(in|out))")


def with_kernel(name: str, shape: LayerShape) -> LayerShape:
    """Return the shape of the weight whose matrix has this one: 3×3 for what is such a convolution by its name."""
    component, path = parse_name(name)
    flat = not shape.kernel and not shape.vector and shape.inner % 9 == 0
    if not flat or component != "unet" or not _THREE.fullmatch(path):
        return shape
    return replace(shape, inner=shape.inner // 9, kernel=(3, 3))
