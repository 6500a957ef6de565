"""HiDream-I1, which everybody calls as diffusers does."""

from lib_pm.families.families import transformer

_EXPERTS = "".join(
    f"""
  block.ff_i.experts.{number}.w1   | 6912x2560
  block.ff_i.experts.{number}.w2   | 2560x6912
  block.ff_i.experts.{number}.w3   | 6912x2560
"""
    for number in range(4)
)
_BLOCK = f"""
  block.attn1.to_q         | 2560
  block.attn1.to_k         | 2560
  block.attn1.to_v         | 2560
  block.attn1.to_out       | 2560
  block.ff_i.gate          | 4x2560
  block.ff_i.shared_experts.w1 | 3584x2560
  block.ff_i.shared_experts.w2 | 2560x3584
  block.ff_i.shared_experts.w3 | 3584x2560
{_EXPERTS}"""

HIDREAM = transformer(
    "hidream",
    "HiDream-I1",
    r"hidream(i1|e1|$)",
    f"""
double_stream_blocks       | 16 D
{_BLOCK}
  block.adaLN_modulation.1 | 30720x2560
  block.attn1.to_q_t       | 2560
  block.attn1.to_k_t       | 2560
  block.attn1.to_v_t       | 2560
  block.attn1.to_out_t     | 2560
  block.ff_t.w1            | 6912x2560
  block.ff_t.w2            | 2560x6912
  block.ff_t.w3            | 6912x2560
single_stream_blocks       | 32 S
{_BLOCK}
  block.adaLN_modulation.1 | 15360x2560
caption_projection         | 49? -
  linear                   | 2560x4096
before
  t_embedder.timestep_embedder.linear_1 | -
  t_embedder.timestep_embedder.linear_2 | -
  p_embedder.pooled_embedder.linear_1 | -
  p_embedder.pooled_embedder.linear_2 | -
  x_embedder.proj          | -
after
  final_layer.linear       | -
  final_layer.adaLN_modulation.1 | -
""",
    {"diffusers": "diffusion_model."},
    model="HiDreamImageTransformer2DModel",
)
