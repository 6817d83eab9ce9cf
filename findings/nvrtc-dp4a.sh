#!/usr/bin/env bash
# GUESS: __dp4a is an intrinsic from compute capability 6.1 on. NVRTC compiles a call of it to one
#   dp4a instruction, and would refuse a name that it does not know.
# TRUE: NVRTC 12.0 compiles it without a word to a call of an external function __dp4a that
#   nothing defines. The PTX is written, its log is empty, and only ptxas, which a driver runs when
#   the module is loaded, reports the unresolved name. Inline PTX gives the instruction.
# Versions: nvidia-cuda-nvrtc-cu12 12.0.140, nvidia-cuda-nvcc-cu12 12.9.86 (ptxas).
# Seen: 27 November 2026, Python 3.11, Linux x86-64, no GPU. Other versions were not tried.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet nvidia-cuda-nvrtc-cu12==12.0.140 nvidia-cuda-nvcc-cu12==12.9.86

cat >intrinsic.cu <<'CU'
extern "C" __global__ void dot(const int* a, const int* b, int* c) { *c = __dp4a(*a, *b, *c); }
CU
cat >inline.cu <<'CU'
extern "C" __global__ void dot(const int* a, const int* b, int* c) {
  int d;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(*a), "r"(*b), "r"(*c));
  *c = d;
}
CU

venv/bin/python - <<'PY'
import ctypes, glob, subprocess, sys

site = glob.glob("venv/lib/python3*/site-packages/nvidia")[0]
nvrtc = ctypes.CDLL(f"{site}/cuda_nvrtc/lib/libnvrtc.so.12")

def ptx(name):
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = open(f"{name}.cu", "rb").read()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"k.cu", 0, None, None)
    options = (ctypes.c_char_p * 1)(b"--gpu-architecture=compute_80")
    compiled = nvrtc.nvrtcCompileProgram(program, 1, options)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, text)
    open(f"{name}.ptx", "wb").write(text.value)
    print(f"{name}: NVRTC returns {compiled}, log {log.value!r}")
    assert compiled == 0 and not log.value.strip()
    return text.value.decode()

def assembled(name):
    command = [f"{site}/cuda_nvcc/bin/ptxas", "-arch=sm_80", f"{name}.ptx", "-o", "/dev/null"]
    run = subprocess.run(command, capture_output=True, text=True)
    print(f"{name}: ptxas ends with {run.returncode}", (run.stdout + run.stderr).strip())
    return run.returncode == 0

text = ptx("intrinsic")
assert ".extern .func" in text and "__dp4a" in text and "dp4a.s32" not in text, "it is an intrinsic now"
assert not assembled("intrinsic")
assert "dp4a.s32.s32" in ptx("inline")
assert assembled("inline")
PY
