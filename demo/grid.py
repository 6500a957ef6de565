"""Labelled sheets of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

_ZOOM = 2  # the demo's images are small; every pixel stays a square
_GAP = 8
_LINE = 22  # pixels for a line of text


def sheet(title: str, rows: Mapping[str, Sequence[Image.Image]], columns: Sequence[str]) -> Image.Image:
    """Return a sheet in RGB, a row per label, a column per name. All images have one size, each row one per column."""
    width, height = (size * _ZOOM for size in next(iter(rows.values()))[0].size)
    font = ImageFont.load_default(size=14)
    margin = max((int(font.getlength(label)) for label in rows), default=0) + 2 * _GAP
    left = [margin + index * (width + _GAP) for index in range(len(columns))]
    top = [2 * _LINE + _GAP + index * (height + _GAP) for index in range(len(rows))]
    full_width = max(left[-1] + width + _GAP, int(font.getlength(title)) + 2 * _GAP)
    image = Image.new("RGB", (full_width, top[-1] + height + _GAP), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_GAP, _GAP // 2), title, "black", font)
    for x, name in zip(left, columns, strict=True):
        draw.text((x, _LINE), name, "black", font)
    for y, (label, row) in zip(top, rows.items(), strict=True):
        draw.text((_GAP, y + height // 2 - _LINE // 2), label, "black", font)
        for x, cell in zip(left, row, strict=True):
            image.paste(cell.resize((width, height), Image.Resampling.NEAREST), (x, y))
    return image
