#!/usr/bin/env bash
# GUESS: A scale byte of 255 in an MXFP4 block is NaN, as the OCP Microscaling specification has it, so the
#   block's elements are NaN.
# TRUE: transformers takes it for 2^128 and shifts the exponents of each element: 0 stays 0, 0.5 becomes
#   2^127, and 1 and more infinities. torch's own float8_e8m0fnu says NaN.
# Versions: transformers 5.24.0, torch 2.15.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: transformers/integrations/mxfp4.py, convert_moe_packed_tensors.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 numpy==2.4.6 transformers==5.24.0

venv/bin/python - <<'PY'
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

# 0, 0.5, 1 and -1 in the low and high halves of bytes.
blocks = torch.tensor([[[[0x10, 0xA2] + [0] * 14]]], dtype=torch.uint8)
scale = torch.tensor([[[255]]], dtype=torch.uint8)
found = convert_moe_packed_tensors(blocks, scale).flatten()[:4].float()
by_torch = scale.view(torch.float8_e8m0fnu).float().item()
print("elements", found.tolist(), "scale by torch", by_torch)
assert by_torch != by_torch, "a number"
assert found.tolist() == [0.0, 2.0**127, float("inf"), float("-inf")], "other elements"
PY
