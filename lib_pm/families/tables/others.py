"""Families whose LoRAs go by diffusers' names alone."""

from lib_pm.families.families import transformer

_NAMES = {"diffusers": "transformer."}

SANA = transformer(
    "sana",
    "Sana 1.6B",
    r"sana(?!video)",
    """
transformer_blocks       | 20 BLOCK
  attn1.to_q             | 2240
  attn1.to_k             | 2240
  attn1.to_v             | 2240
  attn1.to_out.0         | 2240
  attn2.to_q             | 2240
  attn2.to_k             | 2240
  attn2.to_v             | 2240
  attn2.to_out.0         | 2240
  ff.conv_inverted       | 11200x2240
  ff.conv_depth          | 11200x1
  ff.conv_point          | 2240x5600
before
  patch_embed.proj       | -
  time_embed.emb.timestep_embedder.linear_1 | -
  time_embed.emb.timestep_embedder.linear_2 | -
  time_embed.linear      | -
  caption_projection.linear_1 | -
  caption_projection.linear_2 | -
after
  proj_out               | -
""",
    _NAMES,
    model="SanaTransformer2DModel",
)

_COGVIDEOX = """
transformer_blocks       | BLOCK
  norm1.linear           | 6x512
  norm2.linear           | 6x512
  attn1.to_q             | 1
  attn1.to_k             | 1
  attn1.to_v             | 1
  attn1.to_out.0         | 1
  ff.net.0.proj          | 4x1
  ff.net.2               | 1x4
before
  patch_embed.proj       | -
  patch_embed.text_proj  | -
  time_embedding.linear_1 | -
  time_embedding.linear_2 | -
after
  norm_out.linear        | -
  proj_out               | -
"""
COGVIDEOX_2B = transformer(
    "cogvideox-2b",
    "CogVideoX 2B",
    r"cogvideox(?!.*5b)",
    _COGVIDEOX,
    _NAMES,
    width=1920,
    counts={"transformer_blocks": "30"},
    model="CogVideoXTransformer3DModel",
)
COGVIDEOX_5B = transformer(
    "cogvideox-5b",
    "CogVideoX 5B",
    r"cogvideox(?!.*2b)",
    _COGVIDEOX,
    _NAMES,
    width=3072,
    counts={"transformer_blocks": "42"},
    model="CogVideoXTransformer3DModel",
)

MOCHI = transformer(
    "mochi",
    "Mochi 1",
    r"mochi",
    """
transformer_blocks       | 48 BLOCK
  norm1.linear           | 12288x3072
  norm1_context.linear   | 6144x3072
  norm1_context.linear_1 | 1536x3072
  attn1.to_q             | 3072
  attn1.to_k             | 3072
  attn1.to_v             | 3072
  attn1.to_out.0         | 3072
  attn1.add_q_proj       | 3072x1536
  attn1.add_k_proj       | 3072x1536
  attn1.add_v_proj       | 3072x1536
  attn1.to_add_out       | 1536x3072
  ff.net.0.proj          | 16384x3072
  ff.net.2               | 3072x8192
  ff_context.net.0.proj  | 8192x1536
  ff_context.net.2       | 1536x4096
before
  patch_embed.proj       | -
  time_embed.timestep_embedder.linear_1 | -
  time_embed.timestep_embedder.linear_2 | -
  time_embed.pooler.to_kv | -
  time_embed.pooler.to_q | -
  time_embed.pooler.to_out | -
  time_embed.caption_proj | -
after
  norm_out.linear        | -
  proj_out               | -
""",
    _NAMES,
    model="MochiTransformer3DModel",
)

OVIS = transformer(
    "ovis",
    "Ovis-Image",
    r"ovis",
    """
transformer_blocks       | 6 D
  norm1.linear           | 6x1
  norm1_context.linear   | 6x1
  attn.to_q              | 1
  attn.to_k              | 1
  attn.to_v              | 1
  attn.to_out.0          | 1
  attn.add_q_proj        | 1
  attn.add_k_proj        | 1
  attn.add_v_proj        | 1
  attn.to_add_out        | 1
  ff.net.0.proj          | 8x1
  ff.net.2               | 1x4
  ff_context.net.0.proj  | 8x1
  ff_context.net.2       | 1x4
single_transformer_blocks | 27 S
  norm.linear            | 3x1
  attn.to_q              | 1
  attn.to_k              | 1
  attn.to_v              | 1
  proj_mlp               | 8x1
  proj_out               | 1x5
before
  timestep_embedder.linear_1 | -
  timestep_embedder.linear_2 | -
  x_embedder             | -
  context_embedder       | -
after
  norm_out.linear        | -
  proj_out               | -
""",
    _NAMES,
    width=3072,
    model="OvisImageTransformer2DModel",
)
