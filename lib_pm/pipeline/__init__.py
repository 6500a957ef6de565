"""A merge on a diffusers pipeline."""
