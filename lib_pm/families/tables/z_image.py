"""Z-Image (base and Turbo), under ComfyUI's names, in which q, k and v are one, and its authors', diffusers' too."""

from lib_pm.families.families import transformer

_BLOCK = """
  attention.qkv          | attention.to_q + attention.to_k + attention.to_v | 3x1
  attention.out          | attention.to_out.0     | 1
  feed_forward.w1        | =                      | 10240x1
  feed_forward.w2        | =                      | 1x10240
  feed_forward.w3        | =                      | 10240x1
"""
_ADA = """
  adaLN_modulation.0     | =                      | 4x256
"""

Z_IMAGE = transformer(
    "z-image",
    "Z-Image",
    r"zimage",
    f"""
layers                   | =                      | 30 LAYER
{_BLOCK}{_ADA}
noise_refiner            | =                      | 2? NOISE
{_BLOCK}{_ADA}
context_refiner          | =                      | 2? CONTEXT
{_BLOCK}
before
  x_embedder             | all_x_embedder.2-1     | -
  t_embedder.mlp.0       | =                      | -
  t_embedder.mlp.2       | =                      | -
  cap_embedder.1         | =                      | -
after
  final_layer.linear     | all_final_layer.2-1.linear | -
  final_layer.adaLN_modulation.1 | all_final_layer.2-1.adaLN_modulation.1 | -
""",
    {"comfy": "lora_unet_", "diffusers": "diffusion_model."},
    width=3840,
    trainer="lora_zimage",
    model="ZImageTransformer2DModel",
)
