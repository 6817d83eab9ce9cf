#!/usr/bin/env bash
# GUESS: The unit in max_memory is read whatever its case: "10gb" is "10GB", as it is for the other
#   libraries of the same house.
# TRUE: In accelerate a small b at the end of a decimal unit means bits: "10gb" is 1.25 GB, an eighth,
#   and nothing is said. "10gib" is 10 GiB all the same. huggingface_hub reads "10gb" as 10 GB and
#   refuses "10GiB".
# Versions: accelerate 1.15.0, huggingface_hub 2.4.0, torch 2.15.0, numpy 2.4.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: accelerate/utils/modeling.py, convert_file_size_to_int; huggingface_hub/serialization/_base.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet accelerate==1.15.0 huggingface_hub==2.4.0 torch==2.15.0 numpy==2.4.6

venv/bin/python - <<'PY'
from accelerate.utils import convert_file_size_to_int
from huggingface_hub.serialization._base import parse_size_to_int

def read(parse, text):
    try:
        return parse(text)
    except ValueError:
        return None

seen = {}
for text in ["10GB", "10gb", "10Gb", "10GiB", "10gib"]:
    seen[text] = read(convert_file_size_to_int, text), read(parse_size_to_int, text)
    print(f"{text:6} accelerate {seen[text][0]}, huggingface_hub {seen[text][1]}")

assert seen["10GB"] == (10_000_000_000, 10_000_000_000)
assert seen["10gb"] == seen["10Gb"] == (1_250_000_000, 10_000_000_000), "both read it alike now"
assert seen["10GiB"] == seen["10gib"] == (10 << 30, None), "binary units are read alike now"
PY
