#!/usr/bin/env bash
# GUESS: Experts in one tensor, experts.gate_up_proj, in fp8 with experts.gate_up_proj_scale_inv beside it, are
#   the form that transformers' own FP8 modules have in memory. Without a GPU they are dequantized as other
#   matrices are.
# TRUE: Without a GPU the scales are reported as unexpected names, and the fp8 numbers are taken as they are.
#   A model with scales of 0.01 has experts a hundred times too large, and loading succeeds.
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.15.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions, and GPUs, were not tried.
# Where: transformers/integrations/finegrained_fp8.py, transformers/quantizers/quantizer_finegrained_fp8.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0

CUDA_VISIBLE_DEVICES= venv/bin/python - <<'PY'
import torch
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, logging

logging.set_verbosity_error()
config = Qwen3MoeConfig(hidden_size=128, moe_intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
                        num_key_value_heads=2, num_experts=2, num_experts_per_tok=1, vocab_size=8, dtype="float32")
tensors = Qwen3MoeForCausalLM(config).state_dict()
for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj", "o_proj.weight"))]:
    *stack, rows, cols = tensors[name].shape
    tensors[name] = torch.ones(*stack, rows, cols).to(torch.float8_e4m3fn)
    tensors[name + "_scale_inv"] = torch.full((*stack, rows // 128, cols // 128), 0.01)
print({name: tuple(t.shape) for name, t in tensors.items() if "scale_inv" in name})
config.quantization_config = dict(quant_method="fp8", weight_block_size=[128, 128], activation_scheme="dynamic")
config.save_pretrained("model")
save_file({k: v.contiguous() for k, v in tensors.items()}, "model/model.safetensors", metadata={"format": "pt"})
model, report = Qwen3MoeForCausalLM.from_pretrained("model", dtype=torch.float32, output_loading_info=True)
layer = model.model.layers[0]
attention = layer.self_attn.o_proj.weight.unique().tolist()
experts = layer.mlp.experts.gate_up_proj.unique().tolist()
unexpected = sorted(report["unexpected_keys"])
print("attention", attention, "experts", experts, "unexpected", unexpected)
assert len(attention) == 1 and abs(attention[0] - 0.01) < 1e-6
assert experts == [1.0], "scaled now"
assert [name.rsplit(".", 1)[1] for name in unexpected] == ["down_proj_scale_inv", "gate_up_proj_scale_inv"]
PY
