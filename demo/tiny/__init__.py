"""A small Stable Diffusion, trained here on drawn pictures: its data, its training, its weights and their checks."""
