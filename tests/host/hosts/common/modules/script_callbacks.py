"""Callbacks outside of a generation, and the order of all callbacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from modules import errors, extensions
from modules.ordering import in_order


class ScriptCallback(NamedTuple):
    script: str
    callback: Any
    name: str


_CATEGORIES = (
    "app_started model_loaded ui_tabs ui_settings infotext_pasted script_unloaded before_ui on_reload "
    "cfg_denoiser cfg_denoised after_component"
)
callback_map: dict[str, list[ScriptCallback]] = {f"callbacks_{category}": [] for category in _CATEGORIES.split()}


def clear_callbacks() -> None:
    for callbacks in callback_map.values():
        callbacks.clear()


def add_callback(callbacks: list[ScriptCallback], fun: Any, *, name=None, category="unknown", filename=None) -> None:
    """filename: of the script that it belongs to; found on the stack if not given."""
    if filename is None:
        filename = _caller()
    extension = extensions.find_extension(filename)
    owner = extension.canonical_name if extension else "base"
    full = f"{owner}/{os.path.basename(filename)}/{category}" + (f"/{name}" if name else "")
    number = sum(callback.name.startswith(full) for callback in callbacks)
    callbacks.append(ScriptCallback(filename, fun, f"{full}-{number}" if number else full))


def _caller() -> str:
    """Return the file of the nearest function on the stack that is not this module's."""
    frame = sys._getframe()
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename


def sort_callbacks(callbacks: list[ScriptCallback]) -> list[ScriptCallback]:
    """As registered, unless a metadata.ini says that one of them comes before or after another."""
    by_name = {callback.name: callback for callback in callbacks}
    earlier: dict[str, set[str]] = {name: set() for name in by_name}
    for extension in extensions.extensions:
        for order in extension.metadata.list_callback_order_instructions():
            if order.name not in by_name:
                continue
            earlier[order.name].update(name for name in order.after if name in by_name)
            for name in order.before:
                if name in by_name:
                    earlier[name].add(order.name)
    return [by_name[name] for name in in_order(earlier)]


def _call(category: str, *args: Any, **kwargs: Any) -> list[Any]:
    results = []
    for callback in sort_callbacks(callback_map[f"callbacks_{category}"]):
        try:
            results.append(callback.callback(*args, **kwargs))
        except Exception:  # noqa: BLE001 (as the host does)
            errors.report(f"Error executing callback {category} for {callback.script}", exc_info=True)
    return results


def _adder(category: str) -> Callable[..., None]:
    def add(callback: Callable[..., Any], *, name: str | None = None) -> None:
        add_callback(callback_map[f"callbacks_{category}"], callback, name=name, category=category)

    return add


on_app_started = _adder("app_started")
on_model_loaded = _adder("model_loaded")
on_ui_tabs = _adder("ui_tabs")
on_ui_settings = _adder("ui_settings")
on_infotext_pasted = _adder("infotext_pasted")
on_script_unloaded = _adder("script_unloaded")
on_before_ui = _adder("before_ui")
on_before_reload = _adder("on_reload")
on_cfg_denoiser = _adder("cfg_denoiser")
on_cfg_denoised = _adder("cfg_denoised")
on_after_component = _adder("after_component")


def app_started_callback(demo: Any, app: Any) -> None:
    _call("app_started", demo, app)


def model_loaded_callback(sd_model: Any) -> None:
    _call("model_loaded", sd_model)


def ui_tabs_callback() -> list[Any]:
    return [tab for tabs in _call("ui_tabs") for tab in tabs or []]


def after_component_callback(component: Any, **kwargs: Any) -> None:
    """kwargs: what the component was made with."""
    _call("after_component", component, **kwargs)


def ui_settings_callback() -> None:
    _call("ui_settings")


def infotext_pasted_callback(infotext: str, params: dict[str, Any]) -> None:
    _call("infotext_pasted", infotext, params)


def script_unloaded_callback() -> None:
    _call("script_unloaded")


def before_ui_callback() -> None:
    _call("before_ui")


def app_reload_callback() -> None:
    _call("on_reload")
