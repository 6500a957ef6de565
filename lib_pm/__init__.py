"""Power Merger: merge LoRAs correctly, apply the merge live, save it."""

__version__ = "0.1.0"
