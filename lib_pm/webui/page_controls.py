"""Controls of the WebUI's own pages that the tab reads and fills: prompts, and the X/Y/Z plot of txt2img."""

from __future__ import annotations

from typing import Any

_PLOT = "script_txt2img_xyz_plot_"
NEEDED = {"txt2img_prompt", "img2img_prompt", "script_list", f"{_PLOT}csv_mode"} | {
    f"{_PLOT}{axis}_{part}" for axis in "xyz" for part in ("type", "values")
}


def collect_controls(controls: dict[str, Any]) -> Any:
    """Return a callback for each control that the WebUI draws; it keeps the needed ones in `controls` by elem_id.

    The first of a name stays: txt2img is drawn before img2img, which has a list of scripts of the same name.
    """

    def keep(control: Any, **arguments: Any) -> None:
        name = arguments.get("elem_id")
        if name in NEEDED:
            controls.setdefault(name, control)

    return keep
