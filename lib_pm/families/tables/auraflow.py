"""AuraFlow, and Pony V7, which is one."""

from lib_pm.families.families import transformer

AURAFLOW = transformer(
    "auraflow",
    "AuraFlow",
    r"auraflow|ponyv7",
    """
double_layers            | joint_transformer_blocks | 4 D
  modX.1                 | norm1.linear           | 6x1
  modC.1                 | norm1_context.linear   | 6x1
  attn.w2q               | attn.to_q              | 1
  attn.w2k               | attn.to_k              | 1
  attn.w2v               | attn.to_v              | 1
  attn.w2o               | attn.to_out.0          | 1
  attn.w1q               | attn.add_q_proj        | 1
  attn.w1k               | attn.add_k_proj        | 1
  attn.w1v               | attn.add_v_proj        | 1
  attn.w1o               | attn.to_add_out        | 1
  mlpX.c_fc1             | ff.linear_1            | 8192x1
  mlpX.c_fc2             | ff.linear_2            | 8192x1
  mlpX.c_proj            | ff.out_projection      | 1x8192
  mlpC.c_fc1             | ff_context.linear_1    | 8192x1
  mlpC.c_fc2             | ff_context.linear_2    | 8192x1
  mlpC.c_proj            | ff_context.out_projection | 1x8192
single_layers            | single_transformer_blocks | 32 S
  modCX.1                | norm1.linear           | 6x1
  attn.w1q               | attn.to_q              | 1
  attn.w1k               | attn.to_k              | 1
  attn.w1v               | attn.to_v              | 1
  attn.w1o               | attn.to_out.0          | 1
  mlp.c_fc1              | ff.linear_1            | 8192x1
  mlp.c_fc2              | ff.linear_2            | 8192x1
  mlp.c_proj             | ff.out_projection      | 1x8192
before
  init_x_linear          | pos_embed.proj         | -
  cond_seq_linear        | context_embedder       | -
  t_embedder.mlp.0       | time_step_proj.linear_1 | -
  t_embedder.mlp.2       | time_step_proj.linear_2 | -
after
  modF.1                 | swap(norm_out.linear)  | -
  final_linear           | proj_out               | -
""",
    {"original": "lora_unet_", "diffusers": "transformer."},
    width=3072,
    model="AuraFlowTransformer2DModel",
)
