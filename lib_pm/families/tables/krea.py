"""Krea 2."""

from lib_pm.families.families import transformer

_TEXT_BLOCK = """
  attn.wq                | attn.to_q              | 2560
  attn.wk                | attn.to_k              | 2560
  attn.wv                | attn.to_v              | 2560
  attn.wo                | attn.to_out.0          | 2560
  attn.gate              | attn.to_gate           | 2560
  mlp.gate               | ff.gate                | 6912x2560
  mlp.up                 | ff.up                  | 6912x2560
  mlp.down               | ff.down                | 2560x6912
"""

KREA2 = transformer(
    "krea2",
    "Krea 2",
    r"krea2",
    f"""
blocks                   | transformer_blocks     | 28 BLOCK
  attn.wq                | attn.to_q              | 6144
  attn.wk                | attn.to_k              | 1536x6144
  attn.wv                | attn.to_v              | 1536x6144
  attn.wo                | attn.to_out.0          | 6144
  attn.gate              | attn.to_gate           | 6144
  mlp.gate               | ff.gate                | 16384x6144
  mlp.up                 | ff.up                  | 16384x6144
  mlp.down               | ff.down                | 6144x16384
txtfusion.layerwise_blocks | text_fusion.layerwise_blocks | 2? FUSION
{_TEXT_BLOCK}
txtfusion.refiner_blocks | text_fusion.refiner_blocks | 2? REFINER
{_TEXT_BLOCK}
before
  first                  | img_in                 | -
  tmlp.0                 | time_embed.linear_1    | -
  tmlp.2                 | time_embed.linear_2    | -
  tproj.1                | time_mod_proj          | -
  txtmlp.1               | txt_in.linear_1        | -
  txtmlp.3               | txt_in.linear_2        | -
  txtfusion.projector    | text_fusion.projector  | -
after
  last.linear            | final_layer.linear     | -
""",
    {"original": "diffusion_model.", "diffusers": "transformer."},
    trainer="lora_krea2",
    model="Krea2Transformer2DModel",
)
