#!/usr/bin/env python3
"""Compares the logits of small files of every architecture with llama.cpp's.

usage: bench/architectures.py [--formats] [--json FILE] [--directory DIRECTORY]

The files and Lockstep's logits are those of `cargo run --release -p lockstep-model --example tiny`: pseudo-random weights,
all F32, or F32, Q8_0 and Q4_1 mixed, each bare and with an adapter that changes every matrix it can; 96 tokens. llama.cpp runs
the same tokens in one batch and one by one, with its own cache of f16. `largest difference` is from the nearer of the two, `own
spread` what they differ from each other by, `moved` what Lockstep's logits change by when the weights of all norms are a
ten-thousandth larger: the change itself, and what becomes of it where activations are rounded. All are the largest difference of
two logits as a share of the range of a row's logits. With --formats the files are wider, and there is one for each architecture and
format that `lockstep quantize` writes. A directory with such files is taken as it is; without one they are made.
Needs bench/peers.sh native.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import peer

# With F32 weights; what is stored of keys and values is rounded to f16 here.
WANTED = 1e-3


def rows(path, tokens, one_by_one, adapter):
    import numpy

    # With repacked weights the library crashes on shapes as small as these, on processors that have AMX.
    model = peer.Peer(path, threads=1, context=256, ubatch=256, repack=False)
    if adapter:
        model.adapt(adapter)
    model.clear()
    found = []
    if one_by_one:
        for position, token in enumerate(tokens):
            model.decode([(token, position, 0, True)])
            found.append(model.logits().copy())
    else:
        model.decode([(token, position, 0, True) for position, token in enumerate(tokens)])
        found = [model.logits(index).copy() for index in range(len(tokens))]
    model.close()
    return numpy.array(found, dtype=numpy.float64)


def answer(path, tokens, adapter):
    import numpy

    whole = rows(path, tokens, False, adapter)
    single = rows(path, tokens, True, adapter)
    found = json.loads(pathlib.Path(path).with_suffix(".json").read_text())
    ours = numpy.array(found["adapted" if adapter else "logits"])
    bare, moved = numpy.array(found["logits"]), numpy.array(found["moved"])
    extent = ours.max(axis=1) - ours.min(axis=1)

    def share(left, right):
        return float((numpy.abs(left - right).max(axis=1) / extent).max())

    return {
        "difference": min(share(ours, whole), share(ours, single)),
        "spread": share(whole, single),
        "moved": share(bare, moved),
        "argmax": int((ours.argmax(axis=1) != whole.argmax(axis=1)).sum()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--directory", type=pathlib.Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer.serve(answer)
        return
    directory = arguments.directory or peer.CACHE / ("wide" if arguments.formats else "tiny")
    if not arguments.directory:
        command = ["cargo", "run", "--release", "--quiet", "-p", "lockstep-model", "--example", "tiny", "--", directory]
        command += ["formats"] if arguments.formats else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    names = sorted(path.stem for path in directory.glob("*.json"))
    worker = peer.Worker("native", __file__)
    table = {}
    print("| file | largest difference | llama.cpp's own spread | moved | other first choices of 96 |")
    print("|---|---|---|---|---|")
    for name in names:
        path = directory / f"{name}.gguf"
        tokens = json.loads(path.with_suffix(".json").read_text())["tokens"]
        adapter = path.with_suffix(".adapter.gguf")
        cases = [(name, None)] + [(f"{name} with an adapter", str(adapter))] * adapter.exists()
        for title, adapter in cases:
            found = worker.ask(path=str(path), tokens=tokens, adapter=adapter)
            table[title] = found
            shares = " | ".join(f"{found[share]:.1e}" for share in ("difference", "spread", "moved"))
            print(f"| {title} | {shares} | {found['argmax']} |", flush=True)
    worker.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")
    far = [name for name, found in table.items() if "-f32" in name and found["difference"] > WANTED]
    if far:
        sys.exit(f"error: further from llama.cpp than {WANTED}: {', '.join(far)}")


if __name__ == "__main__":
    main()
