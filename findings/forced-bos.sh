#!/usr/bin/env bash
# GUESS: forced_bos_token_id forces the first generated token.
# TRUE: It acts only when the input is one token long. For a decoder-only model with a longer
#   prompt it does nothing, and says nothing.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: ForcedBOSTokenLogitsProcessor in transformers/generation/logits_process.py.
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
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, bos_token_id=1, eos_token_id=None, pad_token_id=0,
)).eval()

def first(prompt, **options):
    out = model.generate(torch.tensor([prompt]), max_new_tokens=1, do_sample=False, **options)
    return out[0, len(prompt)].item()

for prompt in ([1], [1, 5, 6]):
    print("prompt", prompt, "free:", first(prompt), "forced_bos_token_id=9:", first(prompt, forced_bos_token_id=9))
assert first([1], forced_bos_token_id=9) == 9
assert first([1, 5, 6]) != 9
assert first([1, 5, 6], forced_bos_token_id=9) == first([1, 5, 6]), "a longer prompt obeys now"
PY
