"""What the peers reach on a card: copy bandwidth, bitsandbytes' products, transformers' decoding and prefill.

    python3 benches/gpu/peers.py [--device cuda:0] [--quick]

prints a line of JSON for each measurement. Weights are random, made on the device, and rotate through more than its second-level
cache holds; nothing is downloaded. Needs torch, transformers, accelerate and bitsandbytes.
"""

import argparse
import json
import tempfile
import time

import bitsandbytes as bnb
import torch
import transformers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336), (28672, 8192), (8192, 28672)]
ROWS = (1, 2, 8, 16, 64, 512)
ROTATED = 400 << 20
LLAMAS = {
    "1.1B": dict(hidden_size=2048, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4,
                 intermediate_size=5632, vocab_size=32000),
    "8B": dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
               intermediate_size=14336, vocab_size=128256),
}
TINY = {"tiny": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                     intermediate_size=128, vocab_size=256)}


def say(**measured):
    print(json.dumps(measured), flush=True)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(device, work, n, n_warm=5):
    """Of `n` calls; the card's own clock where there is one."""
    for i in range(n_warm):
        work(i)
    synchronize(device)
    seconds = []
    for i in range(n):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work(i)
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            work(i)
            seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[n // 2]


def copies(device, quick):
    n = 1 << 20 if quick else 1 << 30
    x = torch.empty(n, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    seconds = median_seconds(device, lambda _: y.copy_(x), 10)
    say(what="copy", GBps_read_plus_written=2 * n / seconds / 1e9)
    if device.type != "cuda":
        return
    for name, pinned in (("pinned host to device", True), ("pageable host to device", False)):
        host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=pinned)
        there = torch.empty_like(host, device=device)
        seconds = median_seconds(device, lambda _: there.copy_(host, non_blocking=pinned), 10)
        say(what=name, GBps=host.numel() / seconds / 1e9)


def layer(kind, rows, cols, device):
    dtype = torch.float16 if kind == "int8" else torch.bfloat16
    # LLM.int8() is quantized on its way to the card, so that it must not be there yet.
    home = "cpu" if kind == "int8" else device
    weight = torch.randn(rows, cols, dtype=dtype, device=home) * 0.02
    if kind == "bf16":
        made = torch.nn.Linear(cols, rows, bias=False, dtype=dtype, device=device)
        made.weight.data = weight
    elif kind == "int8":
        made = bnb.nn.Linear8bitLt(cols, rows, bias=False, has_fp16_weights=False, threshold=6.0)
        made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        double = kind == "nf4 double"
        made = bnb.nn.Linear4bit(cols, rows, bias=False, compute_dtype=dtype, quant_type="nf4",
                                 compress_statistics=double)
        made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=double)
    return made.to(device)


def products(device, quick):
    for rows, cols in [(256, 256)] if quick else SHAPES:
        n_copies = 2 if quick else max(2, min(40, ROTATED // (rows * cols // 2)))
        for kind in ("bf16", "nf4", "nf4 double", "int8"):
            layers = [layer(kind, rows, cols, device) for _ in range(n_copies)]
            size = rows * cols * {"bf16": 2, "int8": 1}.get(kind, 0.5)
            for n_rows in ROWS:
                dtype = torch.float16 if kind == "int8" else torch.bfloat16
                x = torch.randn(n_rows, cols, device=device, dtype=dtype)
                with torch.no_grad():
                    seconds = median_seconds(device, lambda i: layers[i % n_copies](x), 40)
                say(what="product", kind=kind, rows=rows, cols=cols, m=n_rows, us=seconds * 1e6,
                    weight_GBps=size / seconds / 1e9, tflops=2 * n_rows * rows * cols / seconds / 1e12)
            del layers
            if device.type == "cuda":
                torch.cuda.empty_cache()


def models(device, quick):
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.bfloat16)
    kinds = (("bf16", None), ("nf4 double", four_bit), ("int8", BitsAndBytesConfig(load_in_8bit=True)))
    for name, shape in (TINY if quick else LLAMAS).items():
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            torch.set_default_dtype(torch.bfloat16)
            with torch.device(device):
                made = AutoModelForCausalLM.from_config(LlamaConfig(max_position_embeddings=4096, **shape))
            torch.set_default_dtype(torch.float32)
            made.save_pretrained(folder)
            del made
            for kind, quantization in kinds:
                measure(device, quick, folder, name, kind, quantization)


def measure(device, quick, folder, name, kind, quantization):
    options = {"quantization_config": quantization} if quantization else {}
    begin = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map={"": str(device)}, **options)
    model.eval()
    synchronize(device)
    load = time.perf_counter() - begin
    model.generation_config.eos_token_id = None
    prompt = torch.arange(5, 21, device=device).reshape(1, -1)

    def generate(n):
        synchronize(device)
        begin = time.perf_counter()
        with torch.no_grad():
            model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, min_new_tokens=n,
                           do_sample=False)
        synchronize(device)
        return time.perf_counter() - begin

    n_tokens = 9 if quick else 65
    # The first run over new lengths has cuDNN plan attention for each of them.
    n_tokens = 8 if quick else 64
    generate(2)
    runs = [n_tokens / (generate(n_tokens + 1) - generate(1)) for _ in range(3)]
    long = torch.randint(5, 200, (1, 64 if quick else 512), device=device)
    with torch.no_grad():
        seconds = median_seconds(device, lambda _: model(long), 3, 1)
    allocated = torch.cuda.memory_allocated(device) / 1e9 if device.type == "cuda" else None
    say(what="model", name=name, kind=kind, load_s=load, decode_tokens_per_s_of_runs=runs,
        prefill_tokens_per_s=long.numel() / seconds, allocated_GB=allocated)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    device = torch.device(given.device)
    say(what="versions", torch=torch.__version__, transformers=transformers.__version__, bitsandbytes=bnb.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu")
    copies(device, given.quick)
    products(device, given.quick)
    models(device, given.quick)


if __name__ == "__main__":
    main()
