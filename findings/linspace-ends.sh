#!/usr/bin/env bash
# GUESS: torch.linspace in float32 is start + i * step, rounded; numpy.linspace rounded to float32
#   gives the same values, so a table that bitsandbytes makes with it can be made with either.
# TRUE: It counts from the nearer end: the second half is end - (n - 1 - i) * step, with the step
#   rounded to float32, and with one rounding for product and sum together. numpy.linspace and the
#   plain formula differ in the last bit at some points. The map of bitsandbytes' double
#   quantization is made of such pieces, and whoever makes it anew gets other scales.
# Versions: torch 2.15.0, numpy 2.4.6, bitsandbytes 0.50.2.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Other versions were not tried.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 numpy==2.4.6 bitsandbytes==0.50.2

venv/bin/python - <<'PY'
import numpy as np
import torch
from bitsandbytes.functional import create_dynamic_map

def from_both_ends(start, end, n):
    start, end = np.float32(start), np.float32(end)
    step = np.float64(np.float32((end - start) / np.float32(n - 1)))
    i = np.arange(n)
    return np.where(i < n // 2, start + i * step, end - (n - 1 - i) * step).astype(np.float32)

other = 0
for start, end in ((0.1, 1.0), (-1.0, 1.0), (0.0, 0.3), (5.0, 7.7)):
    for n in (3, 9, 33, 64, 65, 100, 129, 1000):
        values = torch.linspace(start, end, n).numpy()
        assert (values == from_both_ends(start, end, n)).all(), "it is computed otherwise now"
        other += int((values != np.linspace(start, end, n, dtype=np.float32)).sum())
print("values that numpy.linspace has otherwise:", other)
assert other

def signed_map(linspace):
    values = [0.0, 1.0]
    for i in range(7):
        ends = linspace(0.1, 1.0, 2**i + 1)
        means = np.float32(0.5) * (ends[:-1] + ends[1:])
        power = np.float32(10.0 ** (i - 6))
        values += [v for m in means for v in (power * m, -power * m)]
    return np.sort(np.array(values, dtype=np.float32))

code = create_dynamic_map(signed=True).numpy()
by_numpy = signed_map(lambda a, b, n: np.linspace(a, b, n, dtype=np.float32))
print("of", code.size, "values of the map, made with numpy.linspace, differ:", int((code != by_numpy).sum()))
assert (code == signed_map(lambda a, b, n: torch.linspace(a, b, n).numpy())).all()
assert (code == signed_map(from_both_ends)).all()
assert (code != by_numpy).any()
PY
