#!/usr/bin/env bash
# GUESS: time_step_limit bounds the steps of Mamba-2 wherever they are computed, so that a token's logits are the same in a
#   prompt and read alone behind a cached one.
# TRUE: It bounds the steps of prompts and not those of single tokens. Where it binds, the last token's logits differ by a
#   fifth of their size. Without bounds, as published, they agree.
# Versions: torch 2.15.0, transformers 5.24.0, without mamba_ssm.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: modeling_mamba2.py, Mamba2Mixer: the chunked scan is given the bounds, the update of a state is not.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import warnings
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM

warnings.filterwarnings("ignore")
small = dict(hidden_size=32, num_hidden_layers=2, vocab_size=64, num_heads=4, head_dim=16, state_size=16, n_groups=1, chunk_size=8)
off = {}
for limits in (0.0, float("inf")), (0.4, 0.6):
    torch.manual_seed(0)
    model = Mamba2ForCausalLM(Mamba2Config(**small, time_step_limit=limits)).eval()
    ids = torch.randint(3, 64, (1, 19))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, p.shape[-1] ** -0.5)
        whole = model(ids).logits[0, -1]
        cache = model(ids[:, :-1], use_cache=True).cache_params
        alone = model(ids[:, -1:], use_cache=True, cache_params=cache).logits[0, -1]
    off[limits] = float((alone - whole).norm() / whole.norm())
    print("steps within", limits, "the last token's logits, alone and in the prompt, differ by", f"{off[limits]:.1e}")
assert off[0.0, float("inf")] < 1e-5, "without bounds they differ now"
assert off[0.4, 0.6] > 0.1, "single tokens are bounded now"
PY
