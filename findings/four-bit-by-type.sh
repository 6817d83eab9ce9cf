#!/usr/bin/env bash
# GUESS: load_in_4bit quantizes every linear layer but the head.
# TRUE: It takes modules that are exactly nn.Linear. Falcon's own subclass is passed over: no
#   module is quantized. Mixtral's experts are 3-D parameters, no modules: only attention is
#   quantized.
# Versions: torch 2.15.0, transformers 5.24.0, bitsandbytes 0.50.2, accelerate 1.15.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: replace_with_bnb_linear in transformers/integrations/bitsandbytes.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0 bitsandbytes==0.50.2 accelerate==1.15.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import torch
from transformers import (
    AutoModelForCausalLM, BitsAndBytesConfig, FalconConfig, FalconForCausalLM, LlamaConfig, LlamaForCausalLM,
    MixtralConfig, MixtralForCausalLM,
)
from transformers.utils import logging

logging.disable_progress_bar()
torch.manual_seed(0)
size = dict(vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
heads = dict(intermediate_size=64, num_key_value_heads=2)
models = {
    "llama": LlamaForCausalLM(LlamaConfig(**size, **heads)),
    "falcon": FalconForCausalLM(FalconConfig(**size)),
    "mixtral": MixtralForCausalLM(MixtralConfig(**size, **heads, num_local_experts=4)),
}
counts = {}
for name, model in models.items():
    model.save_pretrained(name)
    loaded = AutoModelForCausalLM.from_pretrained(
        name, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map="cpu"
    )
    four = [n for n, m in loaded.named_modules() if type(m).__name__ == "Linear4bit"]
    wide = sum(p.numel() for p in loaded.parameters() if p.dtype.is_floating_point and p.dim() > 1)
    counts[name] = len(four)
    print(name + ":", len(four), "modules in 4 bit,", wide, "weights left as floats,", [n.split(".")[-1] for n in four])
    if name == "mixtral":
        assert all("self_attn" in n for n in four)
assert counts == {"llama": 7, "falcon": 0, "mixtral": 4}, "other modules are quantized now"
PY
