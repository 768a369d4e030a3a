#!/usr/bin/env python3
"""Models as large as machines run them: opening, decoding, and two where one fits.

usage: bench/large.py [--shape sparse|dense|small ...] [--tokens 32] [--no-shelf] [--keep]

Writes GGUF files with pseudo-random weights (8 GB; two of 4 GB), prepares them with `lockstep prepare`, and measures
them with `lockstep bench` and the example `large` of lockstep-model. Needs 18 GB of disk in
${XDG_CACHE_HOME:-$HOME/.cache}/lockstep-bench/large, which is deleted at the end unless kept, and 12 GB of memory. Prints
Markdown. The exit code is 1 if a file takes longer to open than 0.3 s, a process has more anonymous memory than 512 MB,
or a model's bits change when it is loaded again.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
OPEN_SECONDS_MAX = 0.3
ANONYMOUS_BYTES_MAX = 512e6
SHELF_BYTES = 6_000_000_000


def run(*command):
    """The lines a command prints, and the seconds it takes."""
    begun = time.monotonic()
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines(), time.monotonic() - begun


def forget(path):
    """Has the system drop the file's pages from memory, where it can."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make(folder, shape, seed):
    """A prepared file, and how long it took; the GGUF file is gone then."""
    gguf, packed = folder / f"{shape}-{seed}.gguf", folder / f"{shape}-{seed}.packed"
    if packed.exists():
        return packed, None
    _, written = run(TARGET / "examples" / "large", "write", shape, seed, gguf)
    size = gguf.stat().st_size
    _, prepared = run(TARGET / "lockstep", "prepare", gguf)
    gguf.unlink()
    return packed, {"gguf_bytes": size, "write_seconds": written, "prepare_seconds": prepared}


def measure(packed, tokens, profile):
    command = [TARGET / "lockstep", "bench", packed, "--json", "--threads", os.cpu_count(), "--prompt-tokens", 1]
    command += ["--decode-tokens", tokens, "--repetitions", 1] + ([] if profile else ["--no-profile"])
    return json.loads(run(*command)[0][-1])


def one(folder, shape, tokens):
    """Prints a table of one model; whether it is as it has to be."""
    packed, made = make(folder, shape, 1)
    print(f"\n## {shape}\n\n| figure | |\n|---|---|")
    row = lambda name, value: print(f"| {name} | {value} |", flush=True)
    if made:
        row("GGUF file", f"{made['gguf_bytes'] / 1e9:.2f} GB")
        row("prepared in", f"{made['prepare_seconds']:.1f} s")
    row("prepared file", f"{packed.stat().st_size / 1e9:.2f} GB")
    forget(packed)
    cold = measure(packed, 1, False)
    row("opened, file not in memory", f"{cold['start']['load_seconds']:.3f} s")
    row("first pass after that", f"{cold['start']['prefill_seconds']:.1f} s")
    warm = measure(packed, tokens, True)
    only = warm["runs"][0]
    row("opened, file in memory", f"{warm['start']['load_seconds']:.3f} s")
    row("threads, instruction set", f"{only['threads']}, {warm['isa']}")
    row("weights read per token", f"{warm['weight_bytes_per_token'] / 1e9:.2f} GB")
    row(f"decode of {tokens} tokens", f"{only['decode']['tokens_per_second']:.2f} tokens/s")
    share = only["weight_bytes_per_second"] / only["memory_bytes_per_second"]
    row("weights read", f"{only['weight_bytes_per_second'] / 1e9:.1f} GB/s")
    row("memory's bandwidth on these threads", f"{only['memory_bytes_per_second'] / 1e9:.1f} GB/s")
    row("share of it", f"{share:.0%}")
    anonymous = max(report["memory"]["anonymous_bytes"] for report in (cold, warm))
    row("anonymous memory", f"{anonymous / 1e6:.0f} MB")
    row("pages of the file in memory", f"{warm['memory']['file_bytes'] / 1e9:.2f} GB")
    seconds = max(report["start"]["load_seconds"] for report in (cold, warm))
    return seconds < OPEN_SECONDS_MAX and anonymous < ANONYMOUS_BYTES_MAX


def shelf(folder, shape, budget):
    """Prints a table of two models within a budget; whether it is as it has to be."""
    files = [make(folder, shape, seed)[0] for seed in (1, 2)]
    lines, _ = run(TARGET / "examples" / "large", "shelf", budget, *files)
    steps = [json.loads(line) for line in lines]
    sizes = " and ".join(f"{file.stat().st_size / 1e9:.2f} GB" for file in files)
    print(f"\n## {sizes} within {budget / 1e9:.2f} GB\n")
    print("| step | opened in | 8 tokens in | on the shelf | anonymous | pages of files | logits |\n|---|---|---|---|---|---|---|")
    for step in steps:
        if "error" in step:
            print(f"| {step['step']} | refused: {step['error']} | | | | | |")
            continue
        print(
            f"| {step['step']} | {step['open_seconds']:.3f} s | {step['decode_seconds']:.2f} s "
            f"| {step['shelf_bytes'] / 1e9:.2f} GB | {step['anonymous_bytes'] / 1e6:.0f} MB "
            f"| {step['file_bytes'] / 1e9:.2f} GB | {step['logits'][:8]} |"
        )
    loaded = [step for step in steps if "error" not in step]
    return (
        len(loaded) == 3
        and loaded[0]["logits"] == loaded[2]["logits"]
        and all(step["open_seconds"] < OPEN_SECONDS_MAX for step in loaded)
        and all(step["anonymous_bytes"] < ANONYMOUS_BYTES_MAX for step in loaded)
        and all(step["shelf_bytes"] <= budget for step in loaded)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=["sparse", "dense", "small"], default=["sparse", "dense"])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--no-shelf", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the files where they are")
    arguments = parser.parse_args()
    for package in (["-p", "lockstep-model", "--example", "large"], []):
        subprocess.run(["cargo", "build", "--release", "--quiet", *package], cwd=ROOT, check=True)
    folder = CACHE / "lockstep-bench" / "large"
    good = True
    try:
        for shape in arguments.shape:
            folder.mkdir(parents=True, exist_ok=True)
            good &= one(folder, shape, arguments.tokens)
            if not arguments.keep:
                shutil.rmtree(folder)
        if not arguments.no_shelf:
            folder.mkdir(parents=True, exist_ok=True)
            small = arguments.shape == ["small"]
            good &= shelf(folder, "small" if small else "half", 100_000_000 if small else SHELF_BYTES)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
