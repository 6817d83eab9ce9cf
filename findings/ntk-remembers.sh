#!/usr/bin/env bash
# GUESS: A forward pass without a cache depends on its input alone.
# TRUE: Dynamic NTK rope keeps the frequencies of the longest input seen. The same 20 tokens
#   give other logits after an input of 50, until an input within max_position_embeddings sets
#   them back.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: dynamic_frequency_update in transformers/modeling_rope_utils.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=16, initializer_range=0.3,
    rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
)).eval()
ids = torch.randint(0, 64, (1, 50))
with torch.no_grad():
    first = model(ids[:, :20]).logits
    again = model(ids[:, :20]).logits
    model(ids)
    after = model(ids[:, :20]).logits
    model(ids[:, :8])
    reset = model(ids[:, :20]).logits
print("20 tokens twice:          largest difference", (again - first).abs().max().item())
print("20 tokens after 50:       largest difference", (after - first).abs().max().item())
print("20 tokens after 8 again:  largest difference", (reset - first).abs().max().item())
assert torch.equal(first, again)
assert (after - first).abs().max() > 1e-3, "the longer input leaves no trace now"
PY
