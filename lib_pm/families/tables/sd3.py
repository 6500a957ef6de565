"""Stable Diffusion 3 and 3.5. In the last block the text has no attention of its own after this one."""

from lib_pm.families.families import transformer

_PREFIXES = {"original": "lora_unet_", "diffusers": "transformer."}
_ENCODERS = {"clip_l": "te1", "clip_g": "te2", "t5xxl": "te3"}
_TABLE = """
joint_blocks                               | transformer_blocks                     | BLOCK
  x_block.adaLN_modulation.1               | norm1.linear                           | 6x1 9x1
  x_block.attn.qkv                         | attn.to_q + attn.to_k + attn.to_v      | 3x1
  x_block.attn.proj                        | attn.to_out.0                          | 1
  x_block.attn2.qkv                        | attn2.to_q + attn2.to_k + attn2.to_v   | 3x1
  x_block.attn2.proj                       | attn2.to_out.0                         | 1
  x_block.mlp.fc1                          | ff.net.0.proj                          | 4x1
  x_block.mlp.fc2                          | ff.net.2                               | 1x4
  context_block.adaLN_modulation.1         | norm1_context.linear                   | 6x1
  context_block.attn.qkv                   | attn.add_q_proj + attn.add_k_proj + attn.add_v_proj | 3x1
  context_block.attn.proj                  | attn.to_add_out                        | 1
  context_block.mlp.fc1                    | ff_context.net.0.proj                  | 4x1
  context_block.mlp.fc2                    | ff_context.net.2                       | 1x4
joint_blocks.last                          | transformer_blocks.last                |
  context_block.adaLN_modulation.1         | swap(norm1_context.linear)             | 2x1
before
  x_embedder.proj                          | pos_embed.proj                         | -
  context_embedder                         | =                                      | -
  t_embedder.mlp.0                         | time_text_embed.timestep_embedder.linear_1 | -
  t_embedder.mlp.2                         | time_text_embed.timestep_embedder.linear_2 | -
  y_embedder.mlp.0                         | time_text_embed.text_embedder.linear_1 | -
  y_embedder.mlp.2                         | time_text_embed.text_embedder.linear_2 | -
after
  final_layer.linear                       | proj_out                               | -
  final_layer.adaLN_modulation.1           | swap(norm_out.linear)                  | -
"""

SD3 = transformer(
    "sd3",
    "Stable Diffusion 3 medium",
    r"(sd|stablediffusion)v?3(?!5?l)",
    _TABLE,
    _PREFIXES,
    width=1536,
    counts={"joint_blocks": "24"},
    encoders=_ENCODERS,
    trainer="lora_sd3",
    model="SD3Transformer2DModel",
)
SD35_LARGE = transformer(
    "sd3.5-large",
    "Stable Diffusion 3.5 large",
    r"(sd|stablediffusion)v?3(5?l|5?$)",
    _TABLE,
    _PREFIXES,
    width=2432,
    counts={"joint_blocks": "38"},
    encoders=_ENCODERS,
    trainer="lora_sd3",
    model="SD3Transformer2DModel",
)
