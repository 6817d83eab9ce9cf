#!/usr/bin/env bash
# GUESS: set_crc32_options(False) only changes how torch.save computes checksums, or what
#   loading does with them.
# TRUE: It writes 0 as the checksum of every entry. A zip reader cannot tell such a field from a
#   real checksum.
# Versions: torch 2.15.0, numpy 2.4.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: torch/serialization.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 numpy==2.4.6

venv/bin/python - <<'PY'
import zipfile
import torch

def checksums(name):
    torch.save({"w": torch.arange(6.0)}, name)
    entries = zipfile.ZipFile(name).infolist()
    print(name, {e.filename.split("/", 1)[1]: hex(e.CRC) for e in entries})
    return [e.CRC for e in entries]

on = checksums("on.pt")
torch.serialization.set_crc32_options(False)
off = checksums("off.pt")
assert all(on)
assert not any(off), "a checksum is written now"
PY
