"""LoRA file formats, one file each: how the tensors of a layer are named."""
