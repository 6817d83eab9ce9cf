#!/usr/bin/env python3
"""Runs the same models in the same way here and in transformers + bitsandbytes, side by side.

    python3 benches/peers.py speed [--model FOLDER] [--tokens N]     load time, peak memory, tokens per second
    python3 benches/peers.py check [--model FOLDER]                  transformers loads what `llm-run quantize` writes, in
                                                                     every family, and computes the same
    python3 benches/peers.py offload [--model FOLDER] [--limit GB] [--disk GB/S]
                                                                     a model that does not fit, both in a memory cgroup
    python3 benches/peers.py gpu [--model FOLDER] [--tokens N] [--prompt N] [--device cuda:0] [--quick] [--json FILE]
                                 [--gpu-memory GB --ram GB]          the same on a GPU: whole on the card, and with a part of it
                                                                     beside RAM and disk, as accelerate offloads
    python3 benches/peers.py gpu --table FILE                        the table of what --json has kept
    python3 benches/peers.py cpu [--model NAME] [--tokens N] [--rounds N] [--threads N]
                                                     the processor beside llama.cpp and transformers, as ratios

Builds llm-run, and on its first run a virtual environment of its own in target/peers-environment (some GB, a few
minutes). Without --model, `speed` makes random Llamas of 1.1 billion parameters (2.2 GB in bfloat16) and of the shapes of
SmolLM2-135M in target/peers; `check` takes all models and GGUFs of tests/fixtures, `offload` the larger random one. `offload` wants to
be allowed to make cgroups (root, as a rule); --disk makes the disk as slow as that. `gpu` makes random Llamas of 1.1 and 8 billion
parameters on the card. Each measurement is a process of its own,
ours and theirs in turns; memory is the process's peak of resident memory, mapped files included. Not part of the tests.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import peers_gpu
from limits import Limits
from peers_cpu import cpu
from processes import forget, output

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
ENVIRONMENT = TARGET / "peers-environment"
PYTHON = ENVIRONMENT / "bin/python"
PACKAGES = ["torch==2.15.*", "transformers==5.24.*", "bitsandbytes==0.50.*", "accelerate==1.15.*", "safetensors==0.8.*"]
LLM_RUN = TARGET / "release/llm-run"

# What each encoding is called on our command line, and in BitsAndBytesConfig.
ENCODINGS = {
    "bf16": ([], {}),
    "int8": (["--load-in-8bit"], {"load_in_8bit": True}),
    "nf4": (["--load-in-4bit"], {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "nf4 double": (
        ["--load-in-4bit", "--double-quant"],
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    ),
}

# Loads and generates in a fresh process; prints one JSON object.
THEIRS = r"""
import json, resource, sys, time
model_path, config, n_tokens, dtype = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import torch, transformers
transformers.logging.set_verbosity_error()
torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
kwargs = {"dtype": getattr(torch, dtype), "device_map": {"": "cpu"}}
if config:
    if config.get("load_in_4bit"):
        config["bnb_4bit_compute_dtype"] = getattr(torch, dtype)
    kwargs["quantization_config"] = transformers.BitsAndBytesConfig(**config)
begin = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(model_path, **kwargs).eval()
load = time.perf_counter() - begin
ids = torch.arange(5, 21).reshape(1, -1)
mask = torch.ones_like(ids)
def timed(n):
    begin = time.perf_counter()
    model.generate(ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False)
    return time.perf_counter() - begin
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_peak = peak()
decode = 0.0
if n_tokens:
    timed(2)
    one, many = timed(1), timed(n_tokens + 1)
    decode = n_tokens / (many - one)
print(json.dumps({"load": load, "peak": load_peak, "decode": decode}))
"""

# The same of a model most of which is on disk.
THEIR_OFFLOAD = r"""
import json, sys, time
model_path, in_ram, folder, n_tokens = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
import torch, transformers
transformers.logging.set_verbosity_error()
torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
begin = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(
    model_path, dtype=torch.bfloat16, device_map="auto", max_memory={"cpu": in_ram}, offload_folder=folder).eval()
load = time.perf_counter() - begin
homes = [str(home) for home in model.hf_device_map.values()]
ids = torch.arange(5, 21).reshape(1, -1)
def timed(n):
    begin = time.perf_counter()
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=False)
    return time.perf_counter() - begin
one, many = timed(1), timed(n_tokens + 1)
print(json.dumps({"load": load, "decode": n_tokens / (many - one), "on_disk": homes.count("disk"), "modules": len(homes)}))
"""

# Logits of one prompt by checkpoints that are quantized already, beside ours; prints a JSON object for each.
LOGITS = r"""
import json, pathlib, sys, warnings
import bitsandbytes, torch, transformers
from bitsandbytes.functional import dequantize_blockwise
from safetensors.torch import load_file
warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# bitsandbytes' own product of 4 bits on a CPU rounds to bfloat16, and its decoder wants rows of whole blocks.
def product(self, x):
    state, packed = self.weight.quant_state, self.weight.data.flatten().view(torch.uint8)
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()[: state.shape.numel()]
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    weight = state.code[codes] * scales.float().repeat_interleave(state.blocksize)[: codes.numel()]
    return torch.nn.functional.linear(x, weight.reshape(state.shape).to(x.dtype), self.bias)
bitsandbytes.nn.Linear4bit.forward = product
ids = torch.tensor([json.loads(sys.argv[1])])
for folder in map(pathlib.Path, sys.argv[2:]):
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        # Its eager path adds Falcon's distances twice.
        attention = "sdpa" if config.model_type == "falcon" else "eager"
        model, info = auto.from_pretrained(folder, device_map={"": "cpu"}, attn_implementation=attention,
                                           output_loading_info=True)
        model = model.eval()
        found = {"left": {key: sorted(map(str, value))[:4] for key, value in info.items() if value}}
        # Before it generates: rotary positions that once grew stay so.
        if not config.is_encoder_decoder:
            with torch.no_grad():
                logits = model(ids).logits[0].double()
            ours = load_file(f"{folder}.logits")["logits"].double()
            found["error"] = float((ours - logits).norm() / logits.norm())
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12,
                                   do_sample=False, num_beams=1)[0]
        found["generated"] = generated[1 if config.is_encoder_decoder else ids.shape[1]:].tolist()
        found["quantized"] = sum(type(m).__name__ in ("Linear4bit", "Linear8bitLt") for m in model.modules())
    except Exception as error:
        found = {"failure": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(found), flush=True)
"""


def run(command, **kwargs):
    return subprocess.run([str(part) for part in command], check=True, **kwargs)


def prepare():
    run(["cargo", "build", "--release", "--quiet", "-p", "llm-run"], cwd=ROOT)
    if not PYTHON.exists():
        run([sys.executable, "-m", "venv", ENVIRONMENT])
    run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES])


def random_model(name):
    folder = TARGET / "peers" / name
    if not (folder / "config.json").exists():
        config = ROOT / f"benches/configs/{name}.json"
        run(["cargo", "run", "--release", "--quiet", "-p", "xtask", "--", "make-model", config, folder], cwd=ROOT)
    return folder


def ours(model, flags, n_tokens):
    ids = ",".join(str(i) for i in range(5, 21))
    found = output([LLM_RUN, "generate", model, "--token-ids", ids, "--max-new-tokens", n_tokens + 1, "--greedy",
                    "--ignore-eos", "--json", *flags])
    return {"load": found["timings"]["load_seconds"], "peak": found["memory"]["peak_resident_bytes"],
            "anonymous": found["memory"]["anonymous_bytes"], "decode": found["timings"]["decode_tokens_per_second"]}


def theirs(model, config, n_tokens):
    return output([PYTHON, "-c", THEIRS, model, json.dumps(config), n_tokens, "bfloat16"])


def warm(model):
    """Reads the files, so that neither side pays for the disk."""
    for path in sorted(model.glob("*.safetensors")):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def speed(args):
    models = [pathlib.Path(args.model)] if args.model else [random_model("llama-1.1b"), random_model("llama-135m")]
    for model in models:
        print(f"\n{model.name}, {len(os.sched_getaffinity(0))} processors, prompt of 16 tokens, {args.tokens} decoded")
        print("| | load, s | × | peak at load, GB | × | decode, tokens/s | × |")
        print("|---|---|---|---|---|---|---|")
        for name, (flags, config) in ENCODINGS.items():
            warm(model)
            our = ours(model, flags, args.tokens)
            at_load = ours(model, flags, 0)
            warm(model)
            their = theirs(model, config, args.tokens)
            print(f"| {name}: llm-run | {our['load']:.2f} | {their['load'] / our['load']:.1f} "
                  f"| {at_load['peak'] / 1e9:.2f} ({at_load['anonymous'] / 1e9:.2f} anonymous) "
                  f"| {at_load['peak'] / their['peak']:.2f} | {our['decode']:.1f} | {our['decode'] / their['decode']:.1f} |")
            print(f"| {name}: transformers | {their['load']:.2f} | | {their['peak'] / 1e9:.2f} | | {their['decode']:.1f} | |",
                  flush=True)


def offload(args):
    model = pathlib.Path(args.model) if args.model else random_model("llama-1.1b")
    limit = int(args.limit * 1e9)
    disk = int(args.disk * 1e9) if args.disk else None
    ids = ",".join(str(i) for i in range(5, 21))
    slow = f", a disk of {args.disk} GB/s" if args.disk else ""
    print(f"\n{model.name} under {args.limit} GB for the whole process{slow}, prompt of 16 tokens, {args.tokens} decoded")
    print("| | opened or loaded, s | decode, tokens/s | × |")
    print("|---|---|---|---|")

    def limited(command):
        """The command's output, in cgroups that nobody else has left anything in."""
        forget(model)
        with Limits(limit, disk, model) as limits:
            return output(limits.command(command))

    with tempfile.TemporaryDirectory(dir=TARGET) as scratch:
        # Python and torch want some 0.6 GB for themselves, and a module on its way is there twice.
        in_ram = f"{int(args.limit * 1000 * 0.3)}MB"
        their = limited([PYTHON, "-c", THEIR_OFFLOAD, model, in_ram, f"{scratch}/theirs", min(args.tokens, 6)])
        print(f"| accelerate, bf16, {their['on_disk']} of {their['modules']} modules on disk | {their['load']:.1f} "
              f"| {their['decode']:.2f} | |", flush=True)
        for name, (flags, _) in ENCODINGS.items():
            found = limited([LLM_RUN, "generate", model, "--token-ids", ids, "--max-new-tokens", args.tokens + 1, "--greedy",
                             "--ignore-eos", "--json", "--offload-folder", f"{scratch}/ours", *flags])
            decode = found["timings"]["decode_tokens_per_second"]
            print(f"| llm-run, {name} | {found['timings']['load_seconds']:.1f} | {decode:.2f} "
                  f"| {decode / their['decode']:.1f} |", flush=True)


# Families whose experts are stacked in every checkpoint that transformers reads; here they are written one by one.
STACKED = ["gpt_oss", "granitemoe", "granitemoehybrid", "granitemoeshared", "llama4_text"]
# GGUFs of which no checkpoint is written, as llm-run says.
NOT_WRITTEN = ["deepseek-v2-groups", "gemma3n", "gemma4-moe", "glm-moe-dsa-sparse", "glm4-moe-lite", "gpt-oss", "granitemoe", "granitemoeshared",
               "llama4", "llama4-mixed", "qwen3-next"]


def check(args):
    fixtures = ROOT / "tests/fixtures"
    models = [pathlib.Path(args.model)] if args.model else [
        *sorted((fixtures / "models").iterdir()),
        *(gguf for gguf in sorted((fixtures / "gguf-models").glob("*.gguf")) if gguf.stem not in NOT_WRITTEN),
        fixtures / "demo/demo.gguf"]
    ids = list(range(40, 60))
    text = ",".join(map(str, ids))
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours = {}
    with tempfile.TemporaryDirectory(dir=TARGET) as scratch:
        for model in models:
            for name, (flags, _) in list(ENCODINGS.items())[1:]:
                out = pathlib.Path(scratch) / f"{model.name} {name}"
                # What is not quantized in f32, since rounding to f16 alone moves such small models' logits by 1 to 3%.
                run([LLM_RUN, "quantize", model, out, "--dtype", "f32", *flags], **quiet)
                ours[out] = output([LLM_RUN, "generate", out, "--token-ids", text, "--max-new-tokens", 12, "--greedy",
                                    "--ignore-eos", "--json"])["generated_ids"]
                config = json.loads((out / "config.json").read_text())
                of_family = config["model_type"] in STACKED and config.get("num_local_experts", 1)
                if of_family or config.get("enable_moe_block"):
                    print(f"{out.name}: read by llm-run alone")
                    del ours[out]
                    continue
                # An encoder's logits are of no prompt; its continuation has to do.
                if config["model_type"] != "t5":
                    run([LLM_RUN, "score", out, "--token-ids", text, "--logits", f"{out}.logits"], **quiet)
        found = subprocess.run([PYTHON, "-c", LOGITS, json.dumps(ids), *map(str, ours)], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, check=True)
        wrong = []
        for (out, own), line in zip(ours.items(), found.stdout.splitlines(), strict=True):
            their = json.loads(line)
            # Codes of activations at the edge between two may fall to either side: up to 1% of such small models' logits.
            is_wrong = "failure" in their or their["left"] or their.get("error", 0) > 0.02
            is_wrong = is_wrong or "error" not in their and their["generated"] != own
            wrong += [out.name] if is_wrong else []
            if "failure" in their:
                print(f"{out.name}: transformers does not load it: {their['failure']}")
                continue
            same = sum(a == b for a, b in zip(own, their["generated"]))
            error = f"logits differ by {their['error']:.1e}, " if "error" in their else ""
            left = f", not in its place: {their['left']}" if their["left"] else ""
            print(f"{out.name}: transformers has {their['quantized']} quantized modules; {error}{same} of 12 greedy tokens "
                  f"agree{left}")
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "check", "offload", "cpu", "gpu"])
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--limit", type=float, default=1.7)
    parser.add_argument("--disk", type=float)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--gpu-memory", type=float, metavar="GB")
    parser.add_argument("--ram", type=float, metavar="GB")
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--table", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    TARGET.mkdir(exist_ok=True)
    if args.what == "gpu":
        peers_gpu.gpu(args, ROOT, lambda: (prepare(), (LLM_RUN, PYTHON))[1])
        return
    prepare()
    if args.what == "cpu":
        cpu(args, ROOT, PYTHON, LLM_RUN)
    else:
        {"speed": speed, "check": check, "offload": offload}[args.what](args)


if __name__ == "__main__":
    main()
