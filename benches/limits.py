#!/usr/bin/env python3
"""Runs a command with less memory or a slower disk than the machine has, by cgroups of its own.

    python3 benches/limits.py [--memory GB] [--disk GB/S --on FOLDER] COMMAND...

--memory is for all that the command holds, page cache included; --disk for what it reads from the disk that FOLDER is on.
Wants to be allowed to make cgroups (root, as a rule).
"""
import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path("/sys/fs/cgroup")


class Limits:
    """Cgroups of this process's own, in which commands have `memory` bytes and read `disk` bytes a second."""

    def __init__(self, memory=None, disk=None, folder="."):
        self.groups = []
        if memory is not None:
            self.groups.append(group("memory", {"memory.limit_in_bytes": memory}, {"memory.max": memory}))
        if disk is not None:
            device = whole_disk(folder)
            v1 = {"blkio.throttle.read_bps_device": f"{device} {int(disk)}"}
            self.groups.append(group("blkio", v1, {"io.max": f"{device} rbps={int(disk)}"}))

    def __enter__(self):
        made = []
        try:
            for path, knobs in self.groups:
                path.mkdir(exist_ok=path in made)
                made.append(path)
                for name, value in knobs.items():
                    (path / name).write_text(str(value))
        except OSError as error:
            self.__exit__()
            sys.exit(f"cannot limit what a command takes: {error}")
        return self

    def __exit__(self, *_):
        for path, _ in self.groups:
            if path.exists():
                path.rmdir()

    def command(self, command):
        """`command`, as it runs within the limits."""
        join = " && ".join(f"echo $$ > {path}/cgroup.procs" for path, _ in self.groups) or "true"
        return ["sh", "-c", f'{join} && exec "$@"', "sh", *command]


def group(controller, v1, v2):
    """Where a cgroup goes for a controller, and what is written to its files in either version."""
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    name = f"llm-run-limits-{os.getpid()}"
    if controller in own:
        return ROOT / controller / own[controller].lstrip("/") / name, v1
    # A group that has processes lends its children no controllers; the root does.
    return ROOT / name, v2


def whole_disk(folder):
    """The number of the disk that a folder is on; of a partition, its disk's."""
    device = os.stat(folder).st_dev
    block = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if not block.exists():
        sys.exit(f"{folder} is on no disk of this machine's")
    disk = block.parent if (block / "partition").exists() else block
    return (disk / "dev").read_text().strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=float, metavar="GB")
    parser.add_argument("--disk", type=float, metavar="GB/S")
    parser.add_argument("--on", default=".", metavar="FOLDER")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command is given")
    in_bytes = lambda gigabytes: None if gigabytes is None else int(gigabytes * 1e9)
    with Limits(in_bytes(args.memory), in_bytes(args.disk), args.on) as limits:
        sys.exit(subprocess.run(limits.command(command)).returncode)


if __name__ == "__main__":
    main()
