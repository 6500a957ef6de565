"""Ernie-Image, which everybody calls as diffusers does."""

from lib_pm.families.families import transformer

ERNIE_IMAGE = transformer(
    "ernie-image",
    "Ernie-Image",
    r"ernie",
    """
layers                       | 24 LAYER
  self_attention.to_q        | 1
  self_attention.to_k        | 1
  self_attention.to_v        | 1
  self_attention.to_out.0    | 1
  mlp.gate_proj              | 8192x1
  mlp.up_proj                | 8192x1
  mlp.linear_fc2             | 1x8192
before
  x_embedder.proj            | -
  text_proj                  | -
  time_embedding.linear_1    | -
  time_embedding.linear_2    | -
  adaLN_modulation.1         | -
after
  final_norm.linear          | -
  final_linear               | -
""",
    {"diffusers": "transformer."},
    width=3072,
    model="ErnieImageTransformer2DModel",
)
