"""Qwen-Image and Qwen-Image-Edit, which everybody calls as diffusers does."""

from lib_pm.families.families import transformer

QWEN_IMAGE = transformer(
    "qwen-image",
    "Qwen-Image",
    r"qwenimage",
    """
transformer_blocks       | 60 BLOCK
  img_mod.1              | 6x1
  txt_mod.1              | 6x1
  attn.to_q              | 1
  attn.to_k              | 1
  attn.to_v              | 1
  attn.to_out.0          | 1
  attn.add_q_proj        | 1
  attn.add_k_proj        | 1
  attn.add_v_proj        | 1
  attn.to_add_out        | 1
  img_mlp.net.0.proj     | 4x1
  img_mlp.net.2          | 1x4
  txt_mlp.net.0.proj     | 4x1
  txt_mlp.net.2          | 1x4
before
  img_in                 | -
  txt_in                 | -
  time_text_embed.timestep_embedder.linear_1 | -
  time_text_embed.timestep_embedder.linear_2 | -
after
  norm_out.linear        | -
  proj_out               | -
""",
    {"diffusers": "diffusion_model."},
    width=3072,
    encoders={"qwen25_7b": "te"},
    trainer="lora_qwen_image",
    model="QwenImageTransformer2DModel",
)
