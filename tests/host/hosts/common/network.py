"""A LoRA file as both hosts list it, and a LoRA in use."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from modules import errors, sd_models


class NetworkOnDisk:
    def __init__(self, name: str, filename: str):
        self.name, self.filename = name, filename
        self.is_safetensors = os.path.splitext(filename)[1].lower() == ".safetensors"
        self.metadata: dict[str, str] = {}
        if self.is_safetensors:
            try:
                self.metadata = sd_models.read_metadata_from_safetensors(filename)
            except Exception as error:  # noqa: BLE001 (as the host does)
                errors.display(error, f"reading lora {filename}")
        self.alias = self.metadata.get("ss_output_name", self.name)
        self.hash = self.shorthash = ""
        self.set_hash(self.metadata.get("sshs_model_hash", ""))

    def set_hash(self, value: str) -> None:
        self.hash, self.shorthash = value, value[:12]

    def read_hash(self) -> None:
        if not self.hash:
            self.set_hash(hashlib.sha256(Path(self.filename).read_bytes()).hexdigest())

    def get_alias(self) -> str:
        return self.alias


class Network:
    def __init__(self, name: str, network_on_disk: NetworkOnDisk):
        self.name, self.network_on_disk = name, network_on_disk
        self.te_multiplier = self.unet_multiplier = 1.0
        self.dyn_dim: int | None = None
        self.modules: dict[str, Any] = {}
        self.bundle_embeddings: dict[str, Any] = {}
        self.mtime: float | None = None
        self.mentioned_name: str | None = None
