"""What is in a LoRA file, as HTML."""

from __future__ import annotations

import html

from lib_pm.files.contents import Inspection
from lib_pm.files.metadata import RECIPE_KEY
from lib_pm.render.messages import table_html
from lib_pm.render.text import inspection_text


def inspection_html(found: Inspection) -> str:
    """Return the text of the command line, then each layer and the whole metadata in parts that open on a click."""
    layers = [
        (
            name,
            layer["shape"],
            layer["network"],
            *map(_number, (layer["rank"], layer["alpha"])),
            layer["block"],
            layer["kind"],
        )
        for name, layer in found.layers.items()
    ]
    metadata = [(key, value) for key, value in sorted(found.metadata.items()) if key != RECIPE_KEY]
    tables = {
        f"Layers ({len(layers)})": table_html(("layer", "shape", "format", "rank", "alpha", "block", "kind"), layers),
        f"Tags ({len(found.tags)})": table_html(("tag", "count"), found.tags.items()),
        f"Metadata ({len(metadata)})": table_html(("key", "value"), metadata),
    }
    details = "".join(f"<details><summary>{title}</summary>{table}</details>" for title, table in tables.items())
    return f'<div class="pm-report"><pre>{html.escape(inspection_text(found))}</pre>{details}</div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
