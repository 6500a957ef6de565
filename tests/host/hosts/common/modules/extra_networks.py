"""`<name:arguments>` in prompts, and whoever registered for the name."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from modules import errors

extra_network_registry: dict[str, ExtraNetwork] = {}
extra_network_aliases: dict[str, ExtraNetwork] = {}


def initialize() -> None:
    extra_network_registry.clear()
    extra_network_aliases.clear()


def register_extra_network(extra_network: ExtraNetwork) -> None:
    extra_network_registry[extra_network.name] = extra_network


def register_extra_network_alias(extra_network: ExtraNetwork, alias: str) -> None:
    extra_network_aliases[alias] = extra_network


class ExtraNetworkParams:
    """The arguments of one tag. Two are equal if their items are, whatever has become of positional and named."""

    def __init__(self, items: list[str] | None = None):
        self.items = items or []
        self.positional: list[Any] = []
        self.named: dict[str, str] = {}
        for item in self.items:
            parts = item.split("=", 2) if isinstance(item, str) else [item]
            if len(parts) == 2:
                self.named[parts[0]] = parts[1]
            else:
                self.positional.append(item)

    def __eq__(self, other: object) -> bool:
        return self.items == other.items  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


class ExtraNetwork:
    def __init__(self, name: str):
        self.name = name

    def activate(self, p: Any, params_list: list[ExtraNetworkParams]) -> None:
        raise NotImplementedError

    def deactivate(self, p: Any) -> None:
        raise NotImplementedError


def parse_prompt(prompt: str) -> tuple[str, defaultdict[str, list[ExtraNetworkParams]]]:
    found: defaultdict[str, list[ExtraNetworkParams]] = defaultdict(list)

    def take(match: re.Match[str]) -> str:
        found[match[1]].append(ExtraNetworkParams(items=match[2].split(":")))
        return ""

    return re.sub(r"<(\w+):([^>]+)>", take, prompt), found


def parse_prompts(prompts: list[str]) -> tuple[list[str], Any]:
    """All prompts without tags; the tags are those of the first prompt, also if a later one has others."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [prompt for prompt, _ in parsed], parsed[0][1] if parsed else None


def _wanted(extra_network_data: dict[str, list[ExtraNetworkParams]]) -> dict[ExtraNetwork, list[ExtraNetworkParams]]:
    wanted: dict[ExtraNetwork, list[ExtraNetworkParams]] = {}
    for name, params in list(extra_network_data.items()):
        network = extra_network_registry.get(name) or extra_network_aliases.get(name)
        if network is not None:  # an unknown name is passed over without a word
            wanted.setdefault(network, []).extend(params)
    return wanted


def activate(p: Any, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    """First those that the prompt names, in its order, then all others with nothing, then the scripts' callback."""
    activated = []
    for network, params in _wanted(extra_network_data).items():
        try:
            network.activate(p, params)
            activated.append(network)
        except Exception as error:  # noqa: BLE001 (as the host does)
            errors.display(error, f"activating extra network {network.name}")
    for network in extra_network_registry.values():
        if network in activated:  # one that raised is activated again, with nothing
            continue
        try:
            network.activate(p, [])
        except Exception as error:  # noqa: BLE001
            errors.display(error, f"activating extra network {network.name}")
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p,
            batch_number=p.iteration,
            prompts=p.prompts,
            seeds=p.seeds,
            subseeds=p.subseeds,
            extra_network_data=extra_network_data,
        )


def deactivate(p: Any, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    for network in {**_wanted(extra_network_data), **dict.fromkeys(extra_network_registry.values())}:
        try:
            network.deactivate(p)
        except Exception as error:  # noqa: BLE001
            errors.display(error, f"deactivating extra network {network.name}")
