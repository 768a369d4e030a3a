#!/usr/bin/env python3
"""Shows what the bits of llama.cpp's logits depend on: micro-batch, threads, instruction set.

usage: bench/determinism.py [--tokens 64] [--prompt FILE] [MODEL...]

A prompt of more than 600 tokens is run with all its logits, then tokens are decoded greedily. The base
is the native build with one thread and micro-batches of 512. Every other configuration gets the same
prompt and the base's tokens, so that each of its logits has a counterpart, and is compared bit by bit.
The first greedy token that differs is the first step whose largest logit is another one. Needs both
environments of bench/peers.sh; prints one Markdown table per file.
"""

import argparse
import os
import pathlib
import sys
import tempfile

import peer

FOLDER = pathlib.Path(__file__).resolve().parent
BASE = {"variant": "native", "threads": 1, "ubatch": 512}
CHANGES = [
    ("the same again", {}),
    ("2 threads", {"threads": 2}),
    ("micro-batch 64", {"ubatch": 64}),
    ("micro-batch 7", {"ubatch": 7}),
    ("micro-batch 1", {"ubatch": 1}),
    ("AVX2 build", {"variant": "avx2"}),
    ("AVX2 build, 2 threads", {"variant": "avx2", "threads": 2}),
    ("AVX2 build, micro-batch 1", {"variant": "avx2", "ubatch": 1}),
]
HEADING = (
    "| changed | prompt logits that differ | max. difference | largest logit is another "
    "| decode logits that differ | max. difference | first greedy token that differs |\n"
    "|---|---|---|---|---|---|---|"
)


def run(model, prompt, threads, ubatch, count, forced, output):
    """The worker's side: writes prompt and decode logits as f32 to `output`, returns the greedy tokens."""
    import numpy

    llama = peer.Peer(model, threads=threads, context=4096, ubatch=ubatch)
    tokens = llama.tokenize(pathlib.Path(prompt).read_text(encoding="utf-8"))
    logits = numpy.empty((len(tokens) + count - 1, llama.vocabulary), dtype=numpy.float32)
    llama.decode([(token, position, 0, True) for position, token in enumerate(tokens)])
    for row in range(len(tokens)):
        logits[row] = llama.logits(row)
    greedy = [int(logits[len(tokens) - 1].argmax())]
    for step in range(count - 1):
        row = len(tokens) + step
        llama.decode([((forced or greedy)[step], row, 0, True)])
        logits[row] = llama.logits()
        greedy.append(int(logits[row].argmax()))
    numpy.save(output, logits)
    llama.close()
    return {"greedy": greedy, "prompt_tokens": len(tokens)}


def part(base, other):
    """How many of two arrays' values have other bits, and by how much at most."""
    import numpy

    differ = int(numpy.count_nonzero(base.view(numpy.uint32) != other.view(numpy.uint32)))
    largest = float(numpy.abs(base - other).max()) if differ else 0.0
    share = f"{100 * differ / base.size:.2f} %" if differ else "0"
    return share, f"{largest:.2g}" if differ else "0"


def compare(base, other, prompt_tokens, greedy, others):
    prompt = part(base[:prompt_tokens], other[:prompt_tokens])
    argmax = (base[:prompt_tokens].argmax(axis=1) != other[:prompt_tokens].argmax(axis=1)).sum()
    decode = part(base[prompt_tokens:], other[prompt_tokens:])
    first = next((step for step, pair in enumerate(zip(greedy, others)) if pair[0] != pair[1]), None)
    return [
        *prompt,
        f"at {argmax} of {prompt_tokens}",
        *decode,
        f"none of {len(greedy)}" if first is None else str(first + 1),
    ]


def measure(model, options, folder):
    import numpy

    def ask(change, output, forced):
        chosen = {**BASE, **change}
        worker = peer.Worker(chosen.pop("variant"), __file__)
        answer = worker.ask(
            model=str(model), prompt=options.prompt, count=options.tokens, output=output, forced=forced, **chosen
        )
        worker.close()
        return answer

    first = os.path.join(folder, "base.npy")
    base = ask({}, first, None)
    prompt_tokens, greedy = base["prompt_tokens"], base["greedy"]
    expected = numpy.load(first, mmap_mode="r")
    print(f"\n{pathlib.Path(model).name}: {prompt_tokens} prompt tokens, {len(greedy)} greedy tokens\n\n{HEADING}")
    for name, change in CHANGES:
        second = os.path.join(folder, "other.npy")
        answer = ask(change, second, greedy)
        cells = compare(expected, numpy.load(second, mmap_mode="r"), prompt_tokens, greedy, answer["greedy"])
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="GGUF files; those of bench/models.py when none is given")
    parser.add_argument("--tokens", type=int, default=64, help="greedy tokens")
    parser.add_argument("--prompt", default=str(FOLDER / "essay.txt"), help="text file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return peer.serve(run)
    models = options.models or sorted(peer.CACHE.glob("smollm2-135m-*.gguf"))
    if not models:
        sys.exit("error: no model files\nhint: run bench/models.py")
    for variant in peer.VARIANTS:
        peer.python(variant)
    if pathlib.Path(sys.prefix) != peer.CACHE / "native":
        os.execv(peer.python("native"), [peer.python("native"), *sys.argv])
    print(f"{peer.processor()}; base: native build, 1 thread, micro-batches of 512")
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            measure(model, options, folder)


if __name__ == "__main__":
    main()
