"""Power Merger: merge LoRAs rightly, apply the merge live, save it."""

__version__ = "0.1.0"
