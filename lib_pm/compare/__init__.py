"""How LoRAs relate to each other, before they are merged."""
