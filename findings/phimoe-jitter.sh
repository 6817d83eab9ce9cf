#!/usr/bin/env bash
# GUESS: router_jitter_noise of Phi-3.5-MoE is noise for training, without a part in inference, and num_experts_per_tok says how
#   many experts a token goes to.
# TRUE: In evaluation nothing is drawn, and the number acts all the same: twice it is the distance from the best score up to which
#   other experts share a weight's softmax. Another number gives other logits, the same at each call. num_experts_per_tok changes
#   nothing: it is two experts always.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: modeling_phimoe.py, sparsemixer.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import warnings
import torch
from transformers import PhimoeConfig, PhimoeForCausalLM

warnings.filterwarnings("ignore")
small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
             num_local_experts=6)
ids = torch.arange(3, 19)[None]
weights = None


def logits(**keys):
    global weights
    config = PhimoeConfig(**small, **keys)
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = PhimoeForCausalLM(config).eval()
    weights = weights or model.state_dict()
    model.load_state_dict(weights)
    with torch.no_grad():
        once, again = model(ids).logits, model(ids).logits
    assert torch.equal(once, again), "something is drawn in evaluation now"
    return once


usual = logits(router_jitter_noise=0.01)
more = (logits(router_jitter_noise=0.3) - usual).abs().max().item()
other = [(logits(router_jitter_noise=0.01, num_experts_per_tok=n) - usual).abs().max().item() for n in (1, 2, 3)]
print(f"router_jitter_noise of 0.3 instead of 0.01 changes logits by {more:.4f}, in evaluation")
print(f"num_experts_per_tok of 1, 2 and 3 changes them by {other}")
assert more > 1e-3, "the number has no part in evaluation now"
assert other == [0, 0, 0], "num_experts_per_tok is read now"
PY
