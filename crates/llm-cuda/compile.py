"""Compiles kernels/*.cu to ptx/, and tells what they take: registers, shared memory, occupancy.

    compile.py            writes ptx/*.ptx, ptx/kernels.txt and ../../docs/kernels.md
    compile.py --check    fails where these are not what would be written

It runs in an environment with the packages that `cargo xtask kernels` installs: NVRTC, which compiles, its headers, and
ptxas, which assembles for each card what that card would load and so finds what NVRTC does not: unresolved names and
spilled registers. No GPU is needed.
"""

import ctypes
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
TARGETS = [75, 80]  # and what a line `// targets: …` of a file adds, less what is older than a line `// needs: …` says, or what `// only: …` has
CARDS = [75, 80, 86, 89, 90, 100, 120]
THREADS = 256  # of a block, where a kernel has no launch bounds

# Of a multiprocessor: threads, blocks, kilobytes of shared memory, a block's share of it that is the system's.
LIMITS = {
    75: (1024, 16, 64, 0),
    80: (2048, 32, 164, 1),
    86: (1536, 16, 100, 1),
    89: (1536, 24, 100, 1),
    90: (2048, 32, 228, 1),
    100: (2048, 32, 228, 1),
    120: (1536, 24, 100, 1),
}
REGISTERS = 65536


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    written = build()
    if check:
        compare(written)
    else:
        for path, text in written.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for path in stale(written):
            path.unlink()
    print(f"{len(written) - 2} files of PTX, {sum(len(text) for text in written.values()) // 1024} KB")


def build():
    """Every file that is written, with its text."""
    written, kernels, usage = {}, [], {}
    for source in sorted((HERE / "kernels").glob("*.cu")):
        file, ptx = source.stem, {}
        for target in targets(source):
            text = strip(compile_file(source, target))
            # What an older target has alike is written once.
            if ptx and instructions(text) == instructions(ptx[max(ptx)]):
                continue
            ptx[target] = written[HERE / "ptx" / f"{file}_sm{target}.ptx"] = text
        kernels += entries(file, ptx)
        with ThreadPoolExecutor() as pool:
            loaded = {card: max(t for t in ptx if t <= card) for card in CARDS if card >= min(ptx)}
            found = pool.map(lambda card: assemble(file, ptx[loaded[card]], card), loaded)
            for card, of_card in zip(loaded, found):
                for name, registers in of_card.items():
                    usage[name, card] = registers
    lines = ["# name file shared threads parameters, `+` where a launch gives more shared memory: written by `cargo xtask kernels`"]
    lines += [f"{k['name']} {k['file']} {shared(k)} {k['threads']} {' '.join(k['parameters'])}" for k in kernels]
    written[HERE / "ptx" / "kernels.txt"] = "\n".join(lines) + "\n"
    written[HERE.parents[1] / "docs" / "kernels.md"] = table(kernels, usage)
    return written


def targets(source):
    text = source.read_text(encoding="utf-8")
    added = re.search(r"^// targets: ([\d ]+)$", text, re.M)
    needs = re.search(r"^// needs: (\d+)$", text, re.M)
    only = re.search(r"^// only: (\d+)$", text, re.M)
    if only:
        return [int(only[1])]
    found = set(TARGETS) | set(map(int, added[1].split() if added else []))
    return sorted(target for target in found if target >= int(needs[1] if needs else 0))


def instructions(ptx):
    return re.sub(r"^\.target .*$", "", ptx, flags=re.M)


def compile_file(source, target):
    """PTX of a file, by NVRTC."""
    nvrtc = ctypes.CDLL(PACKAGES / "cuda_nvrtc/lib/libnvrtc.so.12")
    program = ctypes.c_void_p()

    def call(name, *arguments):
        if getattr(nvrtc, name)(*arguments) == 0:
            return
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(f"{source.name} for compute capability {target / 10}:\n{log.value.decode()}")

    options = [
        f"--gpu-architecture=compute_{target}",
        f"-I{PACKAGES / 'cuda_runtime/include'}",
        f"-I{source.parent}",
        "--std=c++17",
        "-default-device",
    ]
    options = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    call("nvrtcCompileProgram", program, len(options), options)
    size = ctypes.c_size_t()
    call("nvrtcGetPTXSize", program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    call("nvrtcGetPTX", program, ptx)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx.value.decode()


def strip(ptx):
    """The same without remarks, empty lines, and the headers' constants that nothing uses."""
    lines = [line.split("//")[0].rstrip() for line in ptx.splitlines()]
    lines = [line for line in lines if line.strip()]
    text = "\n".join(lines)
    constant = re.compile(r"^\.global .*?([\w$]+)(\[\d*\])?( = .*)?;$")

    def is_used(line):
        found = constant.match(line)
        return not found or len(re.findall(rf"(?<![\w$]){re.escape(found[1])}(?![\w$])", text)) > 1

    return "\n".join(filter(is_used, lines)) + "\n"


SIZES = {"u8": 1, "b8": 1, "u16": 2, "b16": 2, "f32": 4, "u32": 4, "s32": 4, "b32": 4, "f64": 8, "u64": 8, "b64": 8}


def entries(file, ptx):
    """Facts of a file's kernels, which every target has alike but for shared memory."""
    facts = {}
    for target, text in ptx.items():
        module = sum(map(shared_bytes, re.findall(r"^\.shared.*;$", text, re.M)))
        given = re.findall(r"^\.extern \.shared .* ([\w$]+)\[\];$", text, re.M)
        for body in re.split(r"^\.visible \.entry ", text, flags=re.M)[1:]:
            name = re.match(r"\w+", body)[0]
            head = body[: body.index("{")]
            parameters = [parameter(*p) for p in re.findall(r"\.param (?:\.align \d+ )?\.(\w+) \w+(?:\[(\d+)\])?", head)]
            bounds = re.search(r"\.maxntid (\d+), (\d+), (\d+)", head)
            threads = int(bounds[1]) * int(bounds[2]) * int(bounds[3]) if bounds else THREADS
            shared = module + sum(map(shared_bytes, re.findall(r"^\s*\.shared.*;$", body, re.M)))
            takes_more = any(name in body for name in given)
            kernel = dict(name=name, file=file, shared=shared, takes_more=takes_more, threads=threads, parameters=parameters)
            before = facts.setdefault(name, kernel)
            if (before["parameters"], before["threads"]) != (parameters, threads):
                sys.exit(f"{name}: other parameters for compute capability {target / 10}")
            before["shared"] = max(before["shared"], shared)
            before["takes_more"] |= takes_more
    return [facts[name] for name in sorted(facts)]


def parameter(ty, count):
    if count:
        return f"b{SIZES[ty] * int(count)}"
    return {"s32": "u32", "b32": "u32", "b64": "u64", "s64": "u64"}.get(ty, ty)


def shared(kernel):
    return f"{kernel['shared']}+" if kernel["takes_more"] else str(kernel["shared"])


def shared_bytes(declaration):
    found = re.search(r"\.shared (?:\.align \d+ )?\.(\w+) [\w$]+(?:\[(\d+)\])?", declaration)
    return SIZES[found[1]] * int(found[2] or 1) if found else 0


def assemble(file, ptx, card):
    """Registers of each kernel on a card, by ptxas."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as source:
        source.write(ptx)
        source.flush()
        ptxas = [PACKAGES / "cuda_nvcc/bin/ptxas", "-v", f"-arch=sm_{card}", source.name, "-o", os.devnull]
        ran = subprocess.run(ptxas, capture_output=True, text=True)
    said = ran.stdout + ran.stderr
    problems = [line for line in said.splitlines() if re.search(r"error|unresolved|extern", line, re.I)]
    problems += [line for line in said.splitlines() if (spill := re.search(r"(\d+) bytes spill stores, (\d+)", line)) and spill.groups() != ("0", "0")]
    if ran.returncode or problems:
        sys.exit(f"{file} for sm_{card}:\n" + "\n".join(problems or [said]))
    compiled = re.split(r"Compiling entry function '", said)[1:]
    return {part.split("'")[0]: int(re.search(r"Used (\d+) registers", part)[1]) for part in compiled}


def occupancy(kernel, registers, card):
    """Share of a multiprocessor's threads that run at once, of those that its registers and own shared memory allow."""
    threads, blocks, shared, system = LIMITS[card]
    warps = -(-kernel["threads"] // 32)
    per_warp = -(-registers * 32 // 256) * 256
    most = [blocks, threads // (warps * 32), REGISTERS // per_warp // warps]
    if kernel["shared"]:
        most.append(shared * 1024 // (kernel["shared"] + system * 1024))
    return 100 * min(most) * warps * 32 // threads


def table(kernels, usage):
    lines = [
        "# Kernels",
        "",
        "Registers of a thread, and the share of a multiprocessor's threads that run at once, in percent, as ptxas assembles each",
        "kernel for a card from the PTX that the card loads. A block is as large as the kernel allows; shared memory is the",
        "kernel's own, with a + where a launch adds to it. Written by `cargo xtask kernels`; `cargo xtask kernels --check` fails where it",
        "is out of date, a register spills or a name is unresolved. Cards without a number have other kernels for the same.",
        "",
        "| kernel | threads | shared | " + " | ".join(f"sm_{card}" for card in CARDS) + " |",
        "|---|---|---|" + "---|" * len(CARDS),
    ]
    for kernel in kernels:
        cells = [kernel["name"], str(kernel["threads"]), shared(kernel)]
        for card in CARDS:
            registers = usage.get((kernel["name"], card))
            cells.append(f"{registers} · {occupancy(kernel, registers, card)}" if registers else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def compare(written):
    differ = [path for path, text in written.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    differ += stale(written)
    if differ:
        names = "\n".join(f"  {path.relative_to(HERE.parents[1])}" for path in differ)
        sys.exit(f"not what the kernels compile to:\n{names}\nrun cargo xtask kernels")


def stale(written):
    return [path for path in sorted((HERE / "ptx").glob("*.ptx")) if path not in written]


if __name__ == "__main__":
    main()
