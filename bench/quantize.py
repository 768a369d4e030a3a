#!/usr/bin/env python3
"""Quantises a model to every format and compares the perplexity with llama.cpp's on the same file and tokens.

usage: bench/quantize.py [--model MODEL] [--formats LIST] [--tokens COUNT] [--calibrate] [--text FILE] [--json FILE]

MODEL (by default smollm2, as `lockstep pull` stores it) is first written as F32, which holds what its weights stand for exactly;
that file is the source of all others. The text is Ambrose Bierce's The Devil's Dictionary, in the public domain, out
of the Debian package dict-devil, its paragraphs a line each. Perplexity is defined as by llama.cpp's tool: pieces of 512 tokens,
of which those behind the middle count. Wanted is a ratio within 0.5 % of 1, or the exit code is 1. With --calibrate 8,192
tokens near the end of the text, far from those that are measured, say what matters. Needs bench/peers.sh native and
`cargo build --release`.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import peer

ROOT = pathlib.Path(__file__).resolve().parent.parent
FORMATS = "F32 F16 BF16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K Q2_K".split()
CONTEXT = 512
PACKAGE = "dict-devil"
WANTED = 0.005


def fetch_text(target):
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["apt-get", "download", "--quiet", PACKAGE], cwd=folder, check=True, capture_output=True)
            package = next(pathlib.Path(folder).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            sys.exit(f"error: cannot fetch the Debian package {PACKAGE}: {error}\nhint: give a text with --text FILE")
        with gzip.open(pathlib.Path(folder) / "usr/share/dictd/devil.dict.dz") as file:
            text = file.read().decode("ascii", errors="ignore")
    # What the dictionary's format puts before the text.
    text = text[text.index("ABASEMENT") :]
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    target.write_text("\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n")


def lockstep(*arguments):
    binary = pathlib.Path(arguments_binary) if arguments_binary else ROOT / "target" / "release" / "lockstep"
    if not binary.exists():
        sys.exit(f"error: no binary at {binary}\nhint: cargo build --release, or --binary FILE")
    process = subprocess.run([binary, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if process.returncode != 0:
        sys.exit(f"error: lockstep {arguments[0]} ended with {process.returncode}")
    return json.loads(process.stdout)


arguments_binary = None


def answer(path, text, most, threads):
    """llama.cpp's perplexity, as its tool computes it."""
    import numpy

    # With repacked weights the library crashes on some shapes, on processors that have AMX.
    model = peer.Peer(path, threads=threads, context=CONTEXT, ubatch=CONTEXT, repack=False)
    api = model.api
    vocabulary = api.llama_model_get_vocab(model.model)
    adds = api.llama_vocab_get_add_bos(vocabulary)
    bos = [api.llama_vocab_bos(vocabulary)] if adds else []
    tokens = (bos + model.tokenize(pathlib.Path(text).read_text()))[:most]
    first, total, count = CONTEXT // 2, 0.0, 0
    for start in range(0, len(tokens) - CONTEXT + 1, CONTEXT):
        piece = bos + tokens[start + len(bos) : start + CONTEXT]
        model.clear()
        model.decode([(token, place, 0, first <= place < CONTEXT - 1) for place, token in enumerate(piece)])
        for place in range(first, CONTEXT - 1):
            logits = model.logits(place).astype(numpy.float64)
            largest = logits.max()
            total += numpy.log(numpy.exp(logits - largest).sum()) + largest - logits[piece[place + 1]]
            count += 1
    model.close()
    digest = hashlib.sha256(struct.pack(f"<{len(tokens)}I", *tokens)).hexdigest()
    return {"perplexity": float(numpy.exp(total / count)), "tokens_predicted": count, "tokens_sha256": digest}


def main():
    global arguments_binary
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer.serve(answer)
        return
    arguments_binary = arguments.binary
    directory = peer.CACHE / "quantize"
    directory.mkdir(parents=True, exist_ok=True)
    text = arguments.text or directory / "devil.txt"
    if not text.exists():
        fetch_text(text)
    source = directory / "source-f32.gguf"
    lockstep("quantize", arguments.model, source, "--format", "F32", "--requantize", "--force", "--json")
    extra = []
    if arguments.calibrate:
        # Far from the part that is measured.
        behind = directory / "calibration.txt"
        behind.write_text(text.read_text()[-65_536:])
        extra = ["--calibrate", behind, "--calibrate-tokens", 8192]
    worker = peer.Worker("native", __file__)
    table = {}
    print("| format | MB | bits per weight | Lockstep's perplexity | llama.cpp's | ratio |")
    print("|---|---|---|---|---|---|")
    for name in arguments.formats.split(","):
        path = directory / f"{name.lower()}.gguf"
        made = lockstep("quantize", source, path, "--format", name, "--force", "--json", *extra)
        options = ["--tokens", arguments.tokens, "--context", CONTEXT, "--threads", arguments.threads, "--json"]
        ours = lockstep("perplexity", path, text, *options)
        theirs = worker.ask(path=str(path), text=str(text), most=arguments.tokens, threads=arguments.threads)
        for part in ("tokens_sha256", "tokens_predicted"):
            if ours[part] != theirs[part]:
                sys.exit(f"error: {part} differ: {ours[part]} here, {theirs[part]} in llama.cpp")
        ratio = ours["perplexity"] / theirs["perplexity"]
        table[name] = {"file": made, "lockstep": ours, "llama.cpp": theirs, "ratio": ratio}
        print(
            f"| {name} | {made['bytes_after'] / 1e6:.1f} | {made['bits_per_weight']:.2f} "
            f"| {ours['perplexity']:.4f} | {theirs['perplexity']:.4f} | {ratio:.5f} |",
            flush=True,
        )
        path.unlink()
    worker.close()
    source.unlink()
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")
    far = [name for name, found in table.items() if abs(found["ratio"] - 1) > WANTED]
    if far:
        sys.exit(f"error: further from llama.cpp than {WANTED:.1%}: {', '.join(far)}")


if __name__ == "__main__":
    main()
