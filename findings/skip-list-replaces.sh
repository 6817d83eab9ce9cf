#!/usr/bin/env bash
# GUESS: llm_int8_skip_modules adds modules to those that stay in full precision.
# TRUE: It replaces the default list, on which lm_head stood. Naming any other module turns the
#   head into a Linear8bitLt, even where it is tied to the embedding.
# Versions: torch 2.15.0, transformers 5.24.0, bitsandbytes 0.50.2, accelerate 1.15.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: get_modules_to_not_convert in transformers/quantizers/base.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0 bitsandbytes==0.50.2 accelerate==1.15.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, tie_word_embeddings=True,
)).save_pretrained("model")
seen = {}
for skip in (None, ["down_proj"]):
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    model = AutoModelForCausalLM.from_pretrained("model", quantization_config=config, device_map="cpu")
    seen[str(skip)] = (type(model.lm_head).__name__, type(model.model.layers[0].mlp.down_proj).__name__)
    print("llm_int8_skip_modules =", skip, "lm_head, down_proj:", *seen[str(skip)])
assert seen["None"] == ("Linear", "Linear8bitLt")
assert seen["['down_proj']"] == ("Linear8bitLt", "Linear"), "the list adds to the default now"
PY
