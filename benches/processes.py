"""Processes that are measured, and the files that they read."""
import json
import os
import subprocess
import sys


def output(command):
    """The last line of what a command prints, as JSON."""
    found = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if found.returncode != 0:
        # Without the scripts.
        shown = " ".join(str(part) for part in command if "\n" not in str(part))
        sys.exit(f"{shown} ended with {found.returncode}:\n{found.stderr[-3000:]}")
    return json.loads(found.stdout.strip().splitlines()[-1])


def forget(model):
    """Has the kernel drop what it has of a file, or of a folder's files, so that all sides begin at the disk."""
    subprocess.run(["sync"], check=True)
    for path in [model] if model.is_file() else sorted(model.glob("*.safetensors")):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
