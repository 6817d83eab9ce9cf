#!/usr/bin/env bash
# GUESS: DeepSeek-V3.2 gives the same logits, but for rounding, for a prompt at once and token by token.
# TRUE: Not with few index heads. A position whose products with all heads are negative scores exactly zero, so that many
#   positions are equal, and topk takes others of them for many rows than for one. With 1 to 3 heads logits differ by 1 to 8; with
#   8 heads or more hardly any position scores zero, and they agree to 1e-5. Published models have 64, GLM-5 has 32.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64, on a CPU. Earlier versions were not tried.
# Where: modeling_deepseek_v32.py, DeepseekV32Indexer.forward: relu before the sum over heads, then topk.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import torch
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM

def gap(n_heads, seed):
    torch.manual_seed(seed)
    config = DeepseekV32Config(
        hidden_size=48, intermediate_size=96, moe_intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=131, q_lora_rank=28, kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10,
        n_routed_experts=6, num_experts_per_tok=3, n_group=1, topk_group=1, first_k_dense_replace=2, index_n_heads=n_heads,
        index_head_dim=14, index_topk=5, max_position_embeddings=256, attn_implementation="eager")
    model = DeepseekV32ForCausalLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 1.6 / p.shape[-1] ** 0.5)
        ids = torch.randint(3, 131, (1, 40))
        whole, cache, steps = model(ids).logits[0], None, []
        for i in range(ids.shape[1]):
            out = model(ids[:, i:i + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits[0, -1])
    return (whole - torch.stack(steps)).abs().max().item()

gaps = {n: [gap(n, seed) for seed in range(3)] for n in (1, 2, 3, 8, 16)}
for n, found in gaps.items():
    print(f"{n:2} index heads: " + ", ".join(f"{x:.1e}" for x in found))
assert all(min(gaps[n]) > 0.1 for n in (1, 2, 3)), "a prompt and steps agree now"
assert all(max(gaps[n]) < 1e-3 for n in (8, 16)), "many heads have ties, too"
PY
