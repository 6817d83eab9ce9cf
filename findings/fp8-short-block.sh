#!/usr/bin/env bash
# GUESS: With weight_block_size [128, 128] each 128 rows of an fp8 matrix have a scale, the last block being
#   short where the rows are no multiple. So transformers dequantizes them where there is no GPU.
# TRUE: Without a GPU the block is as high as rows divided by scales. 192 rows with two scales become blocks
#   of 96, without a word; 320 rows with three scales, or 576 with five, as DeepSeek-V3 has them, are an error.
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.15.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions, and GPUs, were not tried.
# Where: transformers/integrations/finegrained_fp8.py, Fp8Dequantize._dequantize_one.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0

CUDA_VISIBLE_DEVICES= venv/bin/python - <<'PY'
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, logging

logging.set_verbosity_error()


def loaded(width):
    """up_proj of a llama of `width` rows, all ones in fp8, whose blocks of 128 rows have scales 1, 2, …"""
    config = LlamaConfig(hidden_size=128, intermediate_size=width, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=2, vocab_size=8, dtype="float32")
    tensors = LlamaForCausalLM(config).state_dict()
    for name in [name for name in tensors if "_proj" in name]:
        rows, cols = tensors[name].shape
        grid = -(-rows // 128), -(-cols // 128)
        tensors[name] = torch.ones(rows, cols).to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = torch.arange(1.0, grid[0] + 1)[:, None].repeat(1, grid[1])
    config.quantization_config = dict(quant_method="fp8", weight_block_size=[128, 128], activation_scheme="dynamic")
    config.save_pretrained("model")
    save_file({k: v.contiguous() for k, v in tensors.items()}, "model/model.safetensors", metadata={"format": "pt"})
    model = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32)
    return model.model.layers[0].mlp.up_proj.weight[:, 0].tolist()


def runs(column):
    return [(value, column.count(value)) for value in sorted(set(column))]


found = {width: runs(loaded(width)) for width in [256, 192]}
print("rows: (scale, rows that have it)", found)
refused = []
for width in [320, 576]:
    try:
        print(width, "rows:", runs(loaded(width)))
    except RuntimeError as error:
        print(width, "rows:", str(error).splitlines()[0])
        refused.append(width)
assert found[256] == [(1.0, 128), (2.0, 128)]
assert found[192] == [(1.0, 96), (2.0, 96)], "blocks of 128 now"
assert refused == [320, 576], "the last block may be short now"
PY
