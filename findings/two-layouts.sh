#!/usr/bin/env bash
# GUESS: A folder with model.safetensors.index.json is loaded by its index.
# TRUE: model.safetensors is looked for first. If it is there, index and shards are not used,
#   though their values differ.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: _get_resolved_checkpoint_files in transformers/modeling_utils.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()

def model(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    ))

single, sharded = model(1), model(2)
sharded.save_pretrained("model", max_shard_size="8KB")
single.save_pretrained("single")
Path("single/model.safetensors").rename("model/model.safetensors")
print("in the folder:", sorted(p.name for p in Path("model").glob("*.safetensors*")))
loaded = AutoModelForCausalLM.from_pretrained("model").lm_head.weight
from_single, from_shards = (torch.equal(loaded, m.lm_head.weight) for m in (single, sharded))
print("loaded from model.safetensors:", from_single, "| from the shards of the index:", from_shards)
assert from_single and not from_shards, "the index wins now"
PY
