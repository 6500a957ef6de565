"""PixArt alpha and sigma."""

from lib_pm.families.families import transformer

PIXART = transformer(
    "pixart",
    "PixArt",
    r"pixart",
    """
blocks                   | transformer_blocks     | 28 BLOCK
  attn.qkv               | attn1.to_q + attn1.to_k + attn1.to_v | 3x1
  attn.proj              | attn1.to_out.0         | 1
  cross_attn.q_linear    | attn2.to_q             | 1
  cross_attn.kv_linear   | attn2.to_k + attn2.to_v | 2x1
  cross_attn.proj        | attn2.to_out.0         | 1
  mlp.fc1                | ff.net.0.proj          | 4x1
  mlp.fc2                | ff.net.2               | 1x4
before
  x_embedder.proj        | pos_embed.proj         | -
  t_block.1              | adaln_single.linear    | -
  t_embedder.mlp.0       | adaln_single.emb.timestep_embedder.linear_1 | -
  t_embedder.mlp.2       | adaln_single.emb.timestep_embedder.linear_2 | -
  ar_embedder.mlp.0      | adaln_single.emb.aspect_ratio_embedder.linear_1 | -
  ar_embedder.mlp.2      | adaln_single.emb.aspect_ratio_embedder.linear_2 | -
  csize_embedder.mlp.0   | adaln_single.emb.resolution_embedder.linear_1 | -
  csize_embedder.mlp.2   | adaln_single.emb.resolution_embedder.linear_2 | -
  y_embedder.y_proj.fc1  | caption_projection.linear_1 | -
  y_embedder.y_proj.fc2  | caption_projection.linear_2 | -
after
  final_layer.linear     | proj_out               | -
""",
    {"original": "lora_unet_", "diffusers": "transformer."},
    width=1152,
    model="PixArtTransformer2DModel",
)
