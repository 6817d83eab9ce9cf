#!/usr/bin/env bash
# GUESS: top_h = 1.0 keeps every token, as top_p = 1.0 does.
# TRUE: It never keeps more than the 100 likeliest tokens. With fewer it can still lose the
#   last: a running sum of entropy is compared with a total that is summed in another order, and
#   rounding decides.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: TopHLogitsWarper in transformers/generation/logits_process.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import torch
from transformers import TopHLogitsWarper

warper = TopHLogitsWarper(1.0)

def kept(scores):
    return torch.isfinite(warper(None, scores)).sum().item()

torch.manual_seed(0)
flat = kept(torch.zeros(1, 150))
print("of 150 equal tokens it keeps", flat)
small = [torch.randn(1, n) for n in range(2, 101)]
lost = sum(kept(s) < s.shape[1] for s in small)
print("of", len(small), "lists of 2 to 100 tokens,", lost, "lose a token")
assert flat == 100, "another number is kept now"
assert lost > 0, "1.0 is neutral for short lists now"
PY
