"""How much of each LoRA a merge keeps, and of the caption, seen in the small model's pictures."""
