#!/usr/bin/env bash
# GUESS: dequantize_4bit inverts quantize_4bit up to the step of the code, for every shape it
#   accepts.
# TRUE: On a CPU with AVX-512 it does so only where the last dimension is a multiple of the
#   block size. quantize_4bit counts blocks through the flat tensor; the CPU kernel counts cols
#   // 64 blocks a row. With 48 columns every row is decoded with the first absmax. A CPU
#   without AVX-512 was not tried.
# Versions: torch 2.15.0, bitsandbytes 0.50.2.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: bitsandbytes/backends/cpu/ops.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 bitsandbytes==0.50.2

venv/bin/python - <<'PY'
import torch
import bitsandbytes.functional as F

def by_hand(packed, state, shape):
    """Values of the codes in their order: high half of a byte first, one absmax for each 64."""
    bytes_ = packed.view(torch.uint8).flatten()
    codes = torch.stack([bytes_ >> 4, bytes_ & 15], dim=1).flatten().long()
    n = shape[0] * shape[1]
    scale = state.absmax.repeat_interleave(state.blocksize)[:n]
    return (state.code[codes[:n]] * scale).reshape(shape)

torch.manual_seed(0)
errors = {}
for shape in [(96, 64), (96, 48)]:
    w = torch.randn(shape)
    packed, state = F.quantize_4bit(w, blocksize=64, quant_type="nf4")
    library = F.dequantize_4bit(packed, state)
    hand = by_hand(packed, state, shape)
    errors[shape] = [((x - w).norm() / w.norm()).item() for x in (library, hand)]
    print(shape, "relative error: dequantize_4bit %.3f, by hand %.3f" % tuple(errors[shape]))
bytes_ = packed.view(torch.uint8).flatten()
codes = torch.stack([bytes_ >> 4, bytes_ & 15], dim=1).reshape(96, 48).long()
one_scale = torch.allclose(library, state.code[codes] * state.absmax[0])
print("every row of 48 decoded with the first absmax:", one_scale)
assert abs(errors[96, 64][0] - errors[96, 64][1]) < 1e-3
assert errors[96, 48][1] < 0.1
assert errors[96, 48][0] > 0.15, "dequantize_4bit inverts quantize_4bit now"
PY
