"""Lumina 2, and NetaYume, which is one: fewer keys and values than queries."""

from lib_pm.families.families import transformer

_BLOCK = """
  attention.qkv          | attn.to_q*3 + attn.to_k + attn.to_v | 5x3
  attention.out          | attn.to_out.0          | 3
  feed_forward.w1        | feed_forward.linear_1  | 12x3
  feed_forward.w2        | feed_forward.linear_2  | 3x12
  feed_forward.w3        | feed_forward.linear_3  | 12x3
"""
_ADA = """
  adaLN_modulation.1     | norm1.linear           | 12x1024
"""

LUMINA2 = transformer(
    "lumina2",
    "Lumina 2",
    r"lumina(2|image2)|netayume|netalumina",
    f"""
layers                   | =                      | 26 LAYER
{_BLOCK}{_ADA}
noise_refiner            | =                      | 2? NOISE
{_BLOCK}{_ADA}
context_refiner          | =                      | 2? CONTEXT
{_BLOCK}
before
  x_embedder             | =                      | -
  t_embedder.mlp.0       | time_caption_embed.timestep_embedder.linear_1 | -
  t_embedder.mlp.2       | time_caption_embed.timestep_embedder.linear_2 | -
  cap_embedder.1         | time_caption_embed.caption_embedder.1 | -
after
  final_layer.adaLN_modulation.1 | norm_out.linear_1 | -
  final_layer.linear     | norm_out.linear_2      | -
""",
    {"original": "diffusion_model.", "diffusers": "transformer."},
    width=768,
    encoders={"gemma2_2b": "te"},
    trainer="lora_lumina",
    model="Lumina2Transformer2DModel",
)
