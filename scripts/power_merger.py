"""What the WebUI loads: each thing it asks for is handed on to lib_pm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules import script_callbacks, scripts, shared
from modules.ui_components import InputAccordion

from lib_pm.ui import accordion, tab
from lib_pm.webui import xyz
from lib_pm.webui.infotext import INFOTEXT
from lib_pm.webui.live import Live
from lib_pm.webui.page_controls import collect_controls
from lib_pm.webui.settings import add_settings, read_settings
from lib_pm.webui.workspace import WebuiWorkspace

_live = Live()  # one for txt2img and img2img together; a new one after Reload UI
_workspace = WebuiWorkspace(Path(scripts.basedir()))
_page_controls: dict[str, Any] = {}


class PowerMerger(scripts.Script):
    def title(self) -> str:
        return accordion.TITLE

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        drawn = accordion.build(InputAccordion, self.elem_id, read_settings().mode, INFOTEXT)
        self.infotext_fields = drawn.paste_fields
        self.paste_field_names = [INFOTEXT]
        return drawn.controls

    def process(self, p: Any, *args: Any) -> None:
        xyz.rewrite_prompts(p, lambda: accordion.choice_of(*args))

    def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        _live.begin_batch(p, lambda: accordion.choice_of(*args))

    def after_extra_networks_activate(
        self, p: Any, *args: Any, extra_network_data: dict[str, Any], **kwargs: Any
    ) -> None:
        _live.activate(p, lambda: accordion.choice_of(*args), extra_network_data)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        _live.restore(p)


def _tabs() -> list[tuple[Any, str, str]]:
    return [(tab.build(_workspace, _page_controls), tab.TITLE, "power_merger")]


def _add_routes(demo: Any, app: Any) -> None:
    flags = vars(shared.cmd_opts).get
    if flags("api") or flags("nowebui"):
        from lib_pm.webui.api import add_routes
        from lib_pm.webui.origin import Origins

        add_routes(
            app, _workspace, flags("api_auth"), Origins(flags("cors_allow_origins"), flags("cors_allow_origins_regex"))
        )


script_callbacks.on_ui_settings(add_settings)
script_callbacks.on_after_component(collect_controls(_page_controls))
script_callbacks.on_ui_tabs(_tabs)
script_callbacks.on_app_started(_add_routes)
script_callbacks.on_before_ui(xyz.add_axes)
xyz.add_axes()  # with --nowebui the API reads the plot's menu before that; the plot is loaded before extensions are
