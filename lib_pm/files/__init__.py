"""LoRA files: found by name, read, written, described."""
