"""Start and Reload UI, in the hosts' order."""

from __future__ import annotations

from typing import Any

from modules import extensions, extra_networks, script_callbacks, scripts, shared, ui, ui_extra_networks
from modules.api import api


class App:
    """Stands for the FastAPI application: remembers what was added."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Any] = {}

    def add_api_route(self, path: str, endpoint: Any, methods: tuple[str, ...] = ("GET",), **kwargs: Any) -> None:
        self.routes |= {(method, path): endpoint for method in methods}

    def get(self, path: str, **kwargs: Any) -> Any:
        return lambda endpoint: self.add_api_route(path, endpoint) or endpoint

    def post(self, path: str, **kwargs: Any) -> Any:
        return lambda endpoint: self.add_api_route(path, endpoint, ("POST",)) or endpoint

    def include_router(self, router: Any) -> None:
        for route in router.routes:
            self.add_api_route(route.path, route.endpoint, tuple(route.methods))


def start() -> api.Api:
    extensions.list_extensions()
    return _load()


def reload_ui() -> api.Api:
    """Scripts are executed anew; modules that they imported stay, and so do settings and the model."""
    script_callbacks.app_reload_callback()
    script_callbacks.script_unloaded_callback()
    return _load()


def _load() -> api.Api:
    scripts.load_scripts()
    extra_networks.initialize()
    ui_extra_networks.initialize()
    for key, info in shared.options_templates.items():
        if key not in shared.opts.data_labels:
            shared.opts.add_option(key, info)
    script_callbacks.before_ui_callback()
    shared.demo = ui.create_ui()
    app = App()
    shared.demo.app = app
    served = api.Api(app)
    script_callbacks.app_started_callback(shared.demo, app)
    return served
