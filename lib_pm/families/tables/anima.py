"""Cosmos Predict2, and Anima, which is that model with an adapter for the text."""

from lib_pm.families.families import transformer

_PREFIXES = {"original": "diffusion_model.", "diffusers": "transformer."}
_TABLE = """
blocks                             | transformer_blocks         | 28 BLOCK
  adaln_modulation_self_attn.1     | norm1.linear_1             | 256x2048
  adaln_modulation_self_attn.2     | norm1.linear_2             | 6144x256
  self_attn.q_proj                 | attn1.to_q                 | 2048
  self_attn.k_proj                 | attn1.to_k                 | 2048
  self_attn.v_proj                 | attn1.to_v                 | 2048
  self_attn.output_proj            | attn1.to_out.0             | 2048
  adaln_modulation_cross_attn.1    | norm2.linear_1             | 256x2048
  adaln_modulation_cross_attn.2    | norm2.linear_2             | 6144x256
  cross_attn.q_proj                | attn2.to_q                 | 2048
  cross_attn.k_proj                | attn2.to_k                 | 2048x1024
  cross_attn.v_proj                | attn2.to_v                 | 2048x1024
  cross_attn.output_proj           | attn2.to_out.0             | 2048
  adaln_modulation_mlp.1           | norm3.linear_1             | 256x2048
  adaln_modulation_mlp.2           | norm3.linear_2             | 6144x256
  mlp.layer1                       | ff.net.0.proj              | 8192x2048
  mlp.layer2                       | ff.net.2                   | 2048x8192
before
  x_embedder.proj.1                | patch_embed.proj           | -
  t_embedder.1.linear_1            | time_embed.t_embedder.linear_1 | -
  t_embedder.1.linear_2            | time_embed.t_embedder.linear_2 | -
after
  final_layer.linear               | proj_out                   | -
  final_layer.adaln_modulation.1   | norm_out.linear_1          | -
  final_layer.adaln_modulation.2   | norm_out.linear_2          | -
"""

ANIMA = transformer(
    "anima",
    "Anima",
    r"anima(?!gine)",
    _TABLE
    + """
llm_adapter.blocks                 | ^text_conditioner.blocks   | 6? ADAPTER
  self_attn.q_proj                 | =                          | 1024
  self_attn.k_proj                 | =                          | 1024
  self_attn.v_proj                 | =                          | 1024
  self_attn.o_proj                 | =                          | 1024
  cross_attn.q_proj                | =                          | 1024
  cross_attn.k_proj                | =                          | 1024
  cross_attn.v_proj                | =                          | 1024
  cross_attn.o_proj                | =                          | 1024
  mlp.0                            | =                          | 4096x1024
  mlp.2                            | =                          | 1024x4096
before
  llm_adapter.embed                | ^text_conditioner.embed    | -
  llm_adapter.out_proj             | ^text_conditioner.out_proj | -
""",
    _PREFIXES,
    encoders={"qwen3_06b": "te"},
    trainer="lora_anima",
    model="CosmosTransformer3DModel",
)
COSMOS = transformer(
    "cosmos",
    "Cosmos Predict2 2B",
    r"cosmos",
    _TABLE,
    _PREFIXES,
    model="CosmosTransformer3DModel",
)
