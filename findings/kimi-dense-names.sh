#!/usr/bin/env bash
# GUESS: What transformers loads from a published Kimi Linear checkpoint it saves under the names that it had there, as its
#   conversions of names run both ways.
# TRUE: The first layer has no experts, and its matrices come as mlp.gate_proj, mlp.up_proj and mlp.down_proj. They are saved
#   as block_sparse_moe.gate_proj and so on: the way back renames every mlp, and not only those that had the other name. The
#   library reads both; the modelling code beside the published files, and others after it, know only the first.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: conversion_mapping.py, mapping["kimi_linear"].
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import re
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, KimiLinearConfig

small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=64,
             kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, moe_intermediate_size=16, num_experts=4,
             num_experts_per_token=2, linear_head_dim=8, linear_num_heads=2, layer_types=["linear_attention", "full_attention"],
             pad_token_id=0, bos_token_id=1, eos_token_id=2)
model = AutoModelForCausalLM.from_config(KimiLinearConfig(**small))
model.save_pretrained("saved")
first = load_file("saved/model.safetensors")
published = {re.sub(r"block_sparse_moe\.(gate|up|down)_proj", r"mlp.\1_proj", name): t for name, t in first.items()}
save_file(published, "saved/model.safetensors", metadata={"format": "pt"})

loaded, info = AutoModelForCausalLM.from_pretrained("saved", output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
ids = torch.arange(3, 12)[None]
assert torch.equal(loaded(ids).logits, model.eval()(ids).logits), "other numbers"
loaded.save_pretrained("again")
names = sorted(load_file("again/model.safetensors"))
dense = [name for name in names if name.startswith("model.layers.0.") and re.search(r"(gate|up|down)_proj", name)]
print("published:", *[name for name in published if name.startswith("model.layers.0.mlp")])
print("saved again:", *dense)
assert dense == [f"model.layers.0.block_sparse_moe.{part}_proj.weight" for part in ("down", "gate", "up")], "the names came back"
PY
