#!/usr/bin/env bash
# GUESS: A model's feed-forward is as wide as its configuration says: LFM2-1.2B's 12288.
# TRUE: Unless block_auto_adjust_ff_dim is false, LFM2 takes two thirds of the number, times a multiplier, and
#   rounds up to block_multiple_of: 12288 becomes 8192.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: transformers/models/lfm2/modeling_lfm2.py, Lfm2MLP.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

small = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=64, layer_types=["conv"])

def width(**keys):
    with torch.device("meta"):
        model = Lfm2ForCausalLM(Lfm2Config(**small, **keys))
    return model.model.layers[0].feed_forward.w1.out_features

seen = {
    "as it is by default": width(intermediate_size=12288),
    "1000": width(intermediate_size=1000),
    "1000, multiplier 1.5": width(intermediate_size=1000, block_ffn_dim_multiplier=1.5),
    "1000, not adjusted": width(intermediate_size=1000, block_auto_adjust_ff_dim=False),
}
print(seen)
assert list(seen.values()) == [8192, 768, 1024, 1000]
PY
