#!/usr/bin/env bash
# GUESS: eager and sdpa attention differ by rounding only.
# TRUE: For Falcon with ALiBi the bias is put into the mask, and eager attention adds it once
#   more to the scores. sdpa with a doubled bias gives eager's logits.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: FalconAttention and FalconModel in transformers/models/falcon/modeling_falcon.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import torch
from transformers import FalconConfig, FalconForCausalLM
from transformers.models.falcon import modeling_falcon

config = FalconConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True,
    new_decoder_architecture=False, multi_query=False, initializer_range=0.5,
)
build = modeling_falcon.build_alibi_tensor
ids = torch.arange(24)[None]

def logits(attention, times=1):
    modeling_falcon.build_alibi_tensor = lambda *args, **options: times * build(*args, **options)
    torch.manual_seed(0)
    model = FalconForCausalLM._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        return model(ids).logits

eager, sdpa, doubled = logits("eager"), logits("sdpa"), logits("sdpa", times=2)
print("eager against sdpa:                 %.6f" % (eager - sdpa).abs().max())
print("eager against sdpa with twice ALiBi: %.6f" % (eager - doubled).abs().max())
assert (eager - sdpa).abs().max() > 0.01, "both add it once now"
assert (eager - doubled).abs().max() < 1e-4
PY
