"""What the WebUI loads: each thing it asks for is handed on to lib_pm."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks, scripts
from modules.ui_components import InputAccordion

from lib_pm.host import xyz
from lib_pm.host.live import INFOTEXT, Live
from lib_pm.host.settings import add_settings, read_settings
from lib_pm.ui import accordion

_live = Live()  # one for txt2img and img2img together; a new one after Reload UI


class PowerMerger(scripts.Script):
    def title(self) -> str:
        return accordion.TITLE

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        drawn = accordion.build(InputAccordion, self.elem_id, read_settings().mode, INFOTEXT)
        self.infotext_fields = drawn.pasted
        self.paste_field_names = [INFOTEXT]
        return drawn.controls

    def process(self, p: Any, *args: Any) -> None:
        xyz.rewrite_prompts(p, lambda: accordion.requested(*args))

    def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        _live.restore(p)

    def after_extra_networks_activate(
        self, p: Any, *args: Any, extra_network_data: dict[str, Any], **kwargs: Any
    ) -> None:
        _live.activate(p, lambda: accordion.requested(*args), extra_network_data)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        _live.restore(p)


script_callbacks.on_ui_settings(add_settings)
script_callbacks.on_before_ui(xyz.add_axes)
xyz.add_axes()  # with --nowebui the API reads the plot's menu before that; the plot is loaded before extensions are
