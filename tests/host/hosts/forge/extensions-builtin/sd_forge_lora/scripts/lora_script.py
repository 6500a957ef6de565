import extra_networks_lora
import networks
import ui_extra_networks_lora
from modules import extra_networks, script_callbacks, ui_extra_networks


def before_ui() -> None:
    ui_extra_networks.register_page(ui_extra_networks_lora.ExtraNetworksPageLora())
    networks.extra_network_lora = extra_networks_lora.ExtraNetworkLora()
    extra_networks.register_extra_network(networks.extra_network_lora)
    extra_networks.register_extra_network_alias(networks.extra_network_lora, "lyco")


script_callbacks.on_before_ui(before_ui)
