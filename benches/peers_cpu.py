"""The processor beside llama.cpp and transformers: `peers.py cpu`.

Models are random, of the shapes of SmolLM2-135M and of a Llama of 1.1 billion parameters, with SmolLM2's tokenizer, which the
first run fetches. A model is a folder for transformers and for what is quantized at load, and GGUFs of the same numbers that
llama.cpp's own quantizer makes. Each figure is the median of some rounds, each a process of its own, all sides in turns.
"""
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time

from processes import forget, output

PACKAGES = ["cmake", "ninja", "llama-cpp-python==0.3.*", "gguf", "numpy"]
SHAPES = {
    "llama-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                       num_key_value_heads=3, tie_word_embeddings=True),
    "llama-1.1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
                       num_key_value_heads=4, tie_word_embeddings=False),
}
GGUFS = ["BF16", "Q8_0", "Q4_0", "Q4_K_M", "MXFP4"]

# A model in a folder, and the same in a GGUF of bf16, with the tokenizer of another GGUF.
MAKE = r"""
import json, pathlib, sys
import gguf, numpy, torch, transformers
folder, tokenizer, shape = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.manual_seed(1)
config = transformers.LlamaConfig(vocab_size=49152, max_position_embeddings=2048, rms_norm_eps=1e-5, bos_token_id=1,
                                  eos_token_id=2, dtype="bfloat16", **shape)
model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
model.save_pretrained(folder)
reader, prefix = gguf.GGUFReader(tokenizer), "llama."
writer = gguf.GGUFWriter(folder / "BF16.gguf", "llama")
for field in reader.fields.values():
    if field.name.startswith("tokenizer."):
        kind = field.types[0]
        part = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=part)
writer.add_context_length(2048)
writer.add_embedding_length(config.hidden_size)
writer.add_block_count(config.num_hidden_layers)
writer.add_feed_forward_length(config.intermediate_size)
writer.add_head_count(config.num_attention_heads)
writer.add_head_count_kv(config.num_key_value_heads)
writer.add_layer_norm_rms_eps(config.rms_norm_eps)
writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
writer.add_rope_freq_base(10000.0)
writer.add_vocab_size(config.vocab_size)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
for name, tensor in model.state_dict().items():
    if name == "lm_head.weight" and config.tie_word_embeddings:
        continue
    stem, _, suffix = name.rpartition(".")
    target = f"{names.get_name(stem)}.{suffix}"
    values = tensor.float().numpy()
    if values.ndim == 1:
        writer.add_tensor(target, values)
    else:
        bits = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
        writer.add_tensor(target, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""

# A GGUF in another type: llama.cpp's quantizer, but for MXFP4, which it has for experts alone.
QUANTIZE = r"""
import sys
import gguf, numpy
source, target, name = sys.argv[1:4]
if name == "MXFP4":
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        part = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=part)
    for tensor in reader.tensors:
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, numpy.array(tensor.data))
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        kind = gguf.GGMLQuantizationType.MXFP4 if "blk" in tensor.name else gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
else:
    import llama_cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + name)
    assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), params) == 0
"""

# llama.cpp: a prompt of 512, and tokens decoded behind one of 16.
LLAMA_CPP = r"""
import ctypes, json, sys, time
model_path, n_threads, n_tokens, n_prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
import llama_cpp as lib
begin = time.perf_counter()
# Kept, as the library calls it to its end.
quiet = lib.llama_log_callback(lambda *_: None)
lib.llama_log_set(quiet, None)
lib.llama_backend_init()
model = lib.llama_load_model_from_file(model_path.encode(), lib.llama_model_default_params())
params = lib.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_ubatch = 1024, 512, 512
params.n_threads = params.n_threads_batch = n_threads
context = lib.llama_new_context_with_model(model, params)
def decode(ids):
    tokens = (lib.llama_token * len(ids))(*ids)
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(ids))) == 0
    lib.llama_get_logits_ith(context, -1)
def forget():
    if hasattr(lib, "llama_get_memory"):
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
    else:
        lib.llama_kv_self_clear(context)
found = {}
decode(list(range(5, 21)))
found["first"] = time.perf_counter() - begin
if n_prompt:
    forget()
    begin = time.perf_counter()
    decode([5 + i % 1000 for i in range(n_prompt)])
    found["prefill"] = n_prompt / (time.perf_counter() - begin)
if n_tokens:
    forget()
    decode(list(range(5, 21)))
    decode([7])
    begin = time.perf_counter()
    for i in range(n_tokens):
        decode([5 + i])
    found["decode"] = n_tokens / (time.perf_counter() - begin)
print(json.dumps(found))
"""

TRANSFORMERS = r"""
import json, sys, time
folder, n_threads, n_tokens, n_prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
import torch, transformers
transformers.logging.set_verbosity_error()
torch.set_num_threads(n_threads)
begin = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
found = {}
with torch.no_grad():
    ids = torch.arange(5, 21).reshape(1, -1)
    model(ids, logits_to_keep=1)
    found["first"] = time.perf_counter() - begin
    if n_prompt:
        prompt = (5 + torch.arange(n_prompt) % 1000).reshape(1, -1)
        begin = time.perf_counter()
        model(prompt, logits_to_keep=1)
        found["prefill"] = n_prompt / (time.perf_counter() - begin)
    if n_tokens:
        cache = model(ids, use_cache=True).past_key_values
        begin = time.perf_counter()
        for i in range(n_tokens):
            model(torch.tensor([[5 + i]]), past_key_values=cache, use_cache=True)
        found["decode"] = n_tokens / (time.perf_counter() - begin)
print(json.dumps(found))
"""


class Sides:
    """Ways to run a model, each a process that prints JSON."""

    def __init__(self, python, llm_run, n_threads, n_tokens):
        self.python, self.llm_run, self.n_threads, self.n_tokens = python, llm_run, n_threads, n_tokens

    def ours(self, model, flags, n_prompt):
        # A prompt that long is computed for its time alone, one token being decoded.
        n_ids, n_tokens = (n_prompt, 1) if n_prompt else (16, self.n_tokens + 1)
        ids = ",".join(str(5 + i % 1000) for i in range(n_ids))
        begin = time.perf_counter()
        found = output([self.llm_run, "generate", model, "--token-ids", ids, "--max-new-tokens", n_tokens, "--greedy",
                        "--ignore-eos", "--json", "--threads", self.n_threads, *flags])
        timings = found["timings"]
        return {"decode": timings["decode_tokens_per_second"], "prefill": timings["prompt_tokens_per_second"],
                "whole": time.perf_counter() - begin, "peak": found["memory"]["peak_resident_bytes"]}

    def theirs(self, script, model, n_prompt):
        n_tokens = 0 if n_prompt else self.n_tokens
        return output([self.python, "-c", script, model, self.n_threads, n_tokens, n_prompt])


def make(python, root, folder, shape):
    """The model's folder with its GGUFs."""
    tokenizer = root / "models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not tokenizer.exists():
        command = ["cargo", "run", "--release", "--quiet", "-p", "xtask", "--", "fetch-model", "smollm2"]
        subprocess.run(command, check=True, cwd=root)
    if not (folder / "BF16.gguf").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([python, "-c", MAKE, folder, tokenizer, json.dumps(shape)], check=True)
    for name in GGUFS[1:]:
        target = folder / f"{name}.gguf"
        if not target.exists():
            command = [python, "-c", QUANTIZE, folder / "BF16.gguf", target, name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def medians(rounds, runs, key):
    """The median of each run's figure, the runs in turns, and in the other direction every other round."""
    found = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: 1 if i % 2 == 0 else -1]:
            found[name].append(runs[name]()[key])
    return {name: statistics.median(values) for name, values in found.items()}


def row(what, ours, others, least, digits=1):
    """A line of the table; `others` are figures of which the best counts, larger being better."""
    best = max(others.values())
    shown = ", ".join(f"{name} {value:.{digits}f}" for name, value in others.items())
    verdict = "" if ours >= least * best else " (less)"
    print(f"| {what} | {ours:.{digits}f} | {shown} | {ours / best:.2f} | {least:.2f}{verdict} |", flush=True)


def compare(name, model, sides, rounds):
    print(f"\n**{name}**, {sides.n_threads} threads, medians of {rounds}, tokens/s\n")
    print("| | llm-run | others | ratio | asked |\n|---|---|---|---|---|")
    gguf = {kind: model / f"{kind}.gguf" for kind in GGUFS}

    def ours(path, flags=(), n_prompt=0):
        return lambda: sides.ours(path, flags, n_prompt)

    def llama_cpp(kind, n_prompt=0):
        return lambda: sides.theirs(LLAMA_CPP, gguf[kind], n_prompt)

    def transformers(n_prompt=0):
        return lambda: sides.theirs(TRANSFORMERS, model, n_prompt)

    def line(what, least, key, own, **others):
        found = medians(rounds, {"ours": own, **others}, key)
        row(what, found.pop("ours"), found, least)

    line("decode bf16", 1.15, "decode", ours(gguf["BF16"]), llama_cpp=llama_cpp("BF16"), transformers=transformers())
    line("decode int8, beside Q8_0", 1.5, "decode", ours(model, ["--load-in-8bit"]), llama_cpp=llama_cpp("Q8_0"))
    nf4 = ["--load-in-4bit", "--double-quant"]
    line("decode NF4 double, beside Q4_0", 1.25, "decode", ours(model, nf4), llama_cpp=llama_cpp("Q4_0"))
    for kind in ["Q8_0", "Q4_0", "Q4_K_M", "MXFP4"]:
        line(f"decode {kind} as stored", 1.15, "decode", ours(gguf[kind]), llama_cpp=llama_cpp(kind))
    q8 = ["--activations", "q8"]
    for kind in ["Q8_0", "Q4_0", "Q4_K_M", "MXFP4"]:
        line(f"decode {kind} as stored, --activations q8", 1.15, "decode", ours(gguf[kind], q8), llama_cpp=llama_cpp(kind))
    # The others multiply a bf16 model in bf16, as llm-run does with the flag; without it, activations stay f32.
    for what, flags in [("in f32", []), ("`--compute-dtype bf16`", ["--compute-dtype", "bf16"])]:
        line(f"prefill of 512, bf16, {what}", 1.5, "prefill", ours(gguf["BF16"], flags, 512),
             llama_cpp=llama_cpp("BF16", 512), transformers=transformers(512))
    line("prefill of 512, Q4_K_M", 1.2, "prefill", ours(gguf["Q4_K_M"], n_prompt=512),
         llama_cpp=llama_cpp("Q4_K_M", 512))
    line("prefill of 512, Q4_K_M, --activations q8", 1.2, "prefill", ours(gguf["Q4_K_M"], q8, 512),
         llama_cpp=llama_cpp("Q4_K_M", 512))


def first_token(name, model, sides, rounds):
    """Tokens a second until the first one, nothing of the model in memory: processes as a whole here, loading and computing
    alone there."""
    print(f"\n**{name}**, cold page cache, 1 / seconds to the first token\n")
    print("| | llm-run | others | ratio | asked |\n|---|---|---|---|---|")
    found = {"ours": [], "llama_cpp": [], "transformers": []}
    once = Sides(sides.python, sides.llm_run, sides.n_threads, 0)
    for _ in range(rounds):
        forget(model / "BF16.gguf")
        found["ours"].append(1 / once.ours(model / "BF16.gguf", [], 0)["whole"])
        forget(model / "BF16.gguf")
        found["llama_cpp"].append(1 / once.theirs(LLAMA_CPP, model / "BF16.gguf", 0)["first"])
        forget(model)
        found["transformers"].append(1 / once.theirs(TRANSFORMERS, model, 0)["first"])
    found = {side: statistics.median(values) for side, values in found.items()}
    row("bf16", found.pop("ours"), found, 3.0, digits=3)


def resident(name, model, sides):
    print(f"\n**{name}**, peak of resident memory with 17 positions, MB\n")
    print("| | llm-run | the file | more |\n|---|---|---|---|")
    for kind in GGUFS:
        path = model / f"{kind}.gguf"
        peak, size = sides.ours(path, [], 0)["peak"] / 1e6, path.stat().st_size / 1e6
        print(f"| {kind} | {peak:.0f} | {size:.0f} | {peak - size:.0f} |", flush=True)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def cpu(args, root, python, llm_run):
    """All tables. `python` has this module's packages and those of the other comparisons."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[:2]], check=True)
    path = f"{pathlib.Path(python).parent}:{os.environ['PATH']}"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[2:]], check=True, env={**os.environ, "PATH": path})
    n_threads = args.threads or len(os.sched_getaffinity(0))
    sides = Sides(python, llm_run, n_threads, args.tokens)
    names = [args.model] if args.model else list(SHAPES)
    print(f"{processor()}, {len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}")
    for name in names:
        model = make(python, root, root / "target/peers/cpu" / name, SHAPES[name])
        compare(name, model, sides, args.rounds)
        if name == "llama-1.1b":
            first_token(name, model, sides, args.rounds)
        resident(name, model, sides)
