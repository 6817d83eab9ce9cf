"""The part of peers.py for a machine with a GPU: llm-run beside transformers with bitsandbytes and accelerate, the same card,
weights and prompt, in turns, each measurement a process of its own."""
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# Whole on the card: what each encoding is called on our command line, and in BitsAndBytesConfig.
RESIDENT = {
    "bf16": ([], {}),
    "int8": (["--load-in-8bit"], {"load_in_8bit": True}),
    "nf4 double": (
        ["--load-in-4bit", "--double-quant"],
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    ),
}

# Partly beside it. bitsandbytes keeps what is not on the card unquantized, and only if it is told to.
BESIDE = {
    "bf16": ([], {}),
    "int8": (["--load-in-8bit"], {"load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True}),
    "nf4 double": (
        ["--load-in-4bit", "--double-quant"],
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
         "llm_int8_enable_fp32_cpu_offload": True},
    ),
}

# Makes random weights of a configuration, on the card where there is one; nothing is downloaded.
MAKE = r"""
import pathlib, sys
import torch, transformers
config_path, folder, device = sys.argv[1:4]
config = transformers.AutoConfig.from_pretrained(config_path)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with torch.device(device):
    model = transformers.AutoModelForCausalLM.from_config(config)
model.save_pretrained(folder)
"""

# Loads and generates in a fresh process; prints one JSON object.
THEIRS = r"""
import json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
asked = json.loads(sys.argv[1])
import torch, transformers
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
device = torch.device(asked["device"])
on_card = device.type == "cuda"
settle = torch.cuda.synchronize if on_card else lambda: None
kwargs = {"dtype": torch.bfloat16, "device_map": asked["device_map"]}
for key in ("max_memory", "offload_folder"):
    if asked[key]:
        kwargs[key] = asked[key]
if asked["max_memory"]:
    kwargs["max_memory"] = {int(k) if k.isdigit() else k: v for k, v in asked["max_memory"].items()}
if asked["config"]:
    config = dict(asked["config"])
    if config.get("load_in_4bit"):
        config["bnb_4bit_compute_dtype"] = torch.bfloat16
    kwargs["quantization_config"] = transformers.BitsAndBytesConfig(**config)
try:
    begin = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(asked["model"], **kwargs).eval()
    settle()
    load = time.perf_counter() - begin
    model.generation_config.eos_token_id = None
    ids = torch.arange(5, 21).reshape(1, -1)
    ids = ids.to(device) if on_card else ids
    n = asked["tokens"]
    def timed(ids, n):
        settle()
        begin = time.perf_counter()
        with torch.no_grad():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=False)
        settle()
        return time.perf_counter() - begin
    # The first run over new lengths has cuDNN plan attention for each of them.
    timed(ids, 2)
    timed(ids, n + 1)
    one, many = timed(ids, 1), timed(ids, n + 1)
    long = torch.arange(asked["prompt"]).remainder(200).reshape(1, -1) + 5
    long = long.to(device) if on_card else long
    timed(long, 1)
    prefill = timed(long, 1)
    homes = [str(home) for home in getattr(model, "hf_device_map", {"": device}).values()]
    print(json.dumps({
        "load": load, "decode": n / (many - one), "prefill": asked["prompt"] / prefill,
        "gpu": torch.cuda.max_memory_reserved(device) if on_card else 0,
        "host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "beside": sum(home in ("cpu", "disk") for home in homes), "modules": len(homes)}))
except Exception as error:
    print(json.dumps({"failure": f"{type(error).__name__}: {error}".splitlines()[0][:200]}))
"""


def n_gpus():
    """GPUs that the driver shows."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    n = ctypes.c_int()
    return n.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(n)) == 0 else 0


def number(device):
    """The number in `cuda:0`; exits where it is no such device."""
    kind, _, digits = device.partition(":")
    if kind != "cuda" or not digits.isdigit():
        sys.exit(f"peers.py gpu: `{device}` is no GPU; write cuda:0")
    return int(digits)


def check(args):
    """Exits, before anything is built, where the arguments or the machine will not do."""
    device = number(args.device)
    if args.tokens < 1 or args.prompt < 1:
        sys.exit("peers.py gpu: --tokens and --prompt are at least 1")
    if (args.gpu_memory is None) != (args.ram is None):
        sys.exit("peers.py gpu: --gpu-memory and --ram go together: what the card holds, and what rests beside it")
    for name, size in (("--gpu-memory", args.gpu_memory), ("--ram", args.ram)):
        if size is not None and size <= 0:
            sys.exit(f"peers.py gpu: {name} {size} is no memory")
    if args.model and not (pathlib.Path(args.model) / "config.json").exists():
        sys.exit(f"peers.py gpu: {args.model} holds no model; it has no config.json")
    found = n_gpus()
    if device >= found:
        there = f"only {found} GPU{'s' * (found > 1)}" if found else "no GPU, or no driver that works"
        sys.exit(f"peers.py gpu: this machine has {there}; --table FILE prints what was measured elsewhere")


def made(config, folder, device, python):
    """The folder of a configuration's random model, made once."""
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(python), "-c", MAKE, str(config), str(folder), device], check=True)
    return folder


def last_json(command):
    found = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = found.stdout.strip().splitlines()
    if found.returncode != 0 or not lines:
        error = found.stderr.strip().splitlines() or [f"exit code {found.returncode}"]
        return {"failure": error[-1][:200]}
    return json.loads(lines[-1])


def ours(llm_run, model, args, flags):
    """A long prompt, and a long answer after a short one."""
    def generate(ids, n):
        ids = ",".join(map(str, ids))
        return last_json([llm_run, "generate", model, "--device", args.device, "--token-ids", ids, "--max-new-tokens", n,
                          "--context", args.prompt + args.tokens + 1, "--greedy", "--ignore-eos", "--json", *flags])

    short = generate(range(5, 21), args.tokens + 1)
    long = generate([i % 200 + 5 for i in range(args.prompt)], 1)
    for found in (short, long):
        if "failure" in found:
            return found
    return of_ours(short, long, str(number(args.device)))


def of_ours(short, long, gpu):
    """The record of what llm-run printed of both."""
    used = short["memory"]["gpus"].get(gpu, {"used": 0, "used_before": 0})
    return {
        "load": short["timings"]["load_seconds"],
        "decode": short["timings"]["decode_tokens_per_second"],
        "prefill": long["timings"]["prompt_tokens_per_second"],
        "gpu": max(0, used["used"] - used["used_before"]),
        "host_peak": short["memory"]["peak_resident_bytes"],
    }


def theirs(python, model, args, config, offload):
    # Whole on the card, or shared as accelerate does it.
    asked = {"model": str(model), "device": args.device, "tokens": args.tokens, "prompt": args.prompt, "config": config,
             "device_map": {"": args.device}, "max_memory": None, "offload_folder": None}
    if offload:
        asked.update(device_map="auto", offload_folder=offload,
                     max_memory={str(number(args.device)): size(args.gpu_memory), "cpu": size(args.ram)})
    return last_json([python, "-c", THEIRS, json.dumps(asked)])


def size(gigabytes):
    return f"{int(gigabytes * 1000)}MB"


def measure(args, llm_run, python, model, say):
    """Both sides in turns, a record each."""
    kinds = [("on the card", name, of, None) for name, of in RESIDENT.items()]
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        if args.gpu_memory:
            kinds += [(f"{size(args.gpu_memory)} of card, {size(args.ram)} of RAM, and disk", name, of, scratch)
                      for name, of in BESIDE.items()]
        for way, encoding, (flags, config), folder in kinds:
            if folder:
                budget = f"{number(args.device)}={size(args.gpu_memory)},cpu={size(args.ram)}"
                flags = [*flags, "--max-memory", budget, "--offload-folder", f"{folder}/ours"]
            of = {"model": model.name, "way": way, "encoding": encoding}
            say({**of, "side": "llm-run", **ours(llm_run, model, args, flags)})
            say({**of, "side": "transformers", **theirs(python, model, args, config, folder and f"{folder}/theirs")})


def table(records):
    """Markdown of records; ratios are ours beside theirs, above 1 where ours is better."""
    lines = []
    for of in dict.fromkeys((r["model"], r["way"]) for r in records):
        lines += [f"\n{of[0]}, {of[1]}", "| | load, s | × | decode, tokens/s | × | prefill, tokens/s | × | GPU, GB | host peak, GB |",
                  "|---|---|---|---|---|---|---|---|---|"]
        for encoding in dict.fromkeys(r["encoding"] for r in records if (r["model"], r["way"]) == of):
            pair = {r["side"]: r for r in records if (r["model"], r["way"], r["encoding"]) == (*of, encoding)}
            lines += [row(f"{encoding}: {side}", record, pair.get("transformers") if side == "llm-run" else None)
                      for side, record in pair.items()]
    return "\n".join(lines)


def row(name, record, other):
    if "failure" in record:
        return f"| {name} | {record['failure']} | | | | | | | |"
    beside = f", {record['beside']} of {record['modules']} modules beside it" if record.get("beside") else ""
    other = other if other and "failure" not in other else None

    def times(better, key):
        return f"{better(record[key], other[key]):.1f}" if other and record[key] and other[key] else ""

    faster, less = lambda own, their: own / their, lambda own, their: their / own
    return (f"| {name}{beside} | {record['load']:.1f} | {times(less, 'load')} | {rounded(record['decode'])} "
            f"| {times(faster, 'decode')} | {rounded(record['prefill'])} | {times(faster, 'prefill')} "
            f"| {gigabytes(record, 'gpu')} | {gigabytes(record, 'host_peak')} |")


def gigabytes(record, key):
    return f"{record[key] / 1e9:.1f}" if key in record else ""


def rounded(rate):
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def gpu(args, root, prepare):
    """Measures, and prints a table; or prints that of a file of records."""
    if args.table:
        print(table([json.loads(line) for line in pathlib.Path(args.table).read_text().splitlines() if line]))
        return
    check(args)
    llm_run, python = prepare()
    target = root / "target/peers"
    configs = [root / f"benches/configs/{name}.json" for name in (("tiny",) if args.quick else ("llama-1.1b", "llama-8b"))]
    models = [pathlib.Path(args.model)] if args.model else [
        made(config, target / f"{config.stem}-random", args.device, python) for config in configs]
    records = []

    def say(record):
        records.append(record)
        print(json.dumps(record), file=sys.stderr, flush=True)
        if args.json:
            with open(args.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    print(f"{os.cpu_count()} processors, prompt of {args.prompt}, {args.tokens} decoded, one sequence, greedy")
    for model in models:
        measure(args, llm_run, python, model, say)
    print(table(records))
