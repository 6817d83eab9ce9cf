#!/usr/bin/env bash
# GUESS: llm_int8_enable_fp32_cpu_offload keeps the modules that are put on the CPU in fp32, as its
#   name and its documentation say.
# TRUE: It only leaves them out of quantization. They have the dtype that the model is loaded in: with
#   float16 they are float16 on the CPU, and nothing is said.
# Versions: transformers 5.24.0, bitsandbytes 0.50.2, accelerate 1.15.0, torch 2.15.0, numpy 2.4.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions, and maps that put a part
#   on a GPU, were not tried.
# Where: transformers/quantizers/quantizer_bnb_8bit.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 bitsandbytes==0.50.2 accelerate==1.15.0 torch==2.15.0 numpy==2.4.6

venv/bin/python - <<'PY'
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)
LlamaForCausalLM(config).save_pretrained("model")

def loaded(dtype):
    quantization = BitsAndBytesConfig(load_in_8bit=True, llm_int8_enable_fp32_cpu_offload=True)
    model = AutoModelForCausalLM.from_pretrained(
        "model", quantization_config=quantization, device_map={"": "cpu"}, dtype=dtype
    )
    layer = model.model.layers[0].mlp.up_proj
    print(dtype, "->", type(layer).__name__, layer.weight.dtype)
    return type(layer) is torch.nn.Linear, layer.weight.dtype

for dtype in [torch.float32, torch.float16, torch.bfloat16]:
    assert loaded(dtype) == (True, dtype), "the CPU's modules are kept otherwise now"
PY
