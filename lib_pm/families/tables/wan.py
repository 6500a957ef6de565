"""Wan 2.1 and 2.2, with the layers for a first image (img), those of VACE, and the norms that some LoRAs change."""

from lib_pm.families.families import transformer

_PREFIXES = {"original": "diffusion_model.", "diffusers": "transformer."}
_LAYERS = """
  self_attn.q            | attn1.to_q             | 1
  self_attn.k            | attn1.to_k             | 1
  self_attn.v            | attn1.to_v             | 1
  self_attn.o            | attn1.to_out.0         | 1
  cross_attn.q           | attn2.to_q             | 1
  cross_attn.k           | attn2.to_k             | 1
  cross_attn.v           | attn2.to_v             | 1
  cross_attn.o           | attn2.to_out.0         | 1
  cross_attn.k_img       | attn2.add_k_proj       | 1
  cross_attn.v_img       | attn2.add_v_proj       | 1
  self_attn.norm_q       | attn1.norm_q           | -
  self_attn.norm_k       | attn1.norm_k           | -
  cross_attn.norm_q      | attn2.norm_q           | -
  cross_attn.norm_k      | attn2.norm_k           | -
  cross_attn.norm_k_img  | attn2.norm_added_k     | -
  norm3                  | norm2                  | -
  ffn.0                  | ffn.net.0.proj         | {ffn}x1
  ffn.2                  | ffn.net.2              | 1x{ffn}
"""
_TABLE = f"""
blocks                   | =                      | BLOCK
{_LAYERS}
vace_blocks              | =                      | VACE
{_LAYERS}
  before_proj            | proj_in                | 1
  after_proj             | proj_out               | 1
before
  patch_embedding        | =                      | -
  vace_patch_embedding   | =                      | -
  text_embedding.0       | condition_embedder.text_embedder.linear_1 | -
  text_embedding.2       | condition_embedder.text_embedder.linear_2 | -
  time_embedding.0       | condition_embedder.time_embedder.linear_1 | -
  time_embedding.2       | condition_embedder.time_embedder.linear_2 | -
  time_projection.1      | condition_embedder.time_proj | -
  img_emb.proj.0         | condition_embedder.image_embedder.norm1 | -
  img_emb.proj.4         | condition_embedder.image_embedder.norm2 | -
  img_emb.proj.1         | condition_embedder.image_embedder.ff.net.0.proj | -
  img_emb.proj.3         | condition_embedder.image_embedder.ff.net.2 | -
after
  head.head              | proj_out               | -
"""

WAN_14B = transformer(
    "wan-14b",
    "Wan 14B",
    r"wan(?!.*(13b|5b))",
    _TABLE.format(ffn=13824),
    _PREFIXES,
    width=5120,
    counts={"blocks": "40", "vace_blocks": "8?"},
    trainer="lora_wan",
    model="WanTransformer3DModel",
)
WAN_5B = transformer(
    "wan-5b",
    "Wan 5B",
    r"wan(?!.*(13b|14b))",
    _TABLE.format(ffn=14336),
    _PREFIXES,
    width=3072,
    counts={"blocks": "30", "vace_blocks": "0?"},
    trainer="lora_wan",
    model="WanTransformer3DModel",
)
WAN_13B = transformer(
    "wan-1.3b",
    "Wan 1.3B",
    r"wan(?!.*(14b|5b))",
    _TABLE.format(ffn=8960),
    _PREFIXES,
    width=1536,
    counts={"blocks": "30", "vace_blocks": "15?"},
    trainer="lora_wan",
    model="WanTransformer3DModel",
)
