#!/usr/bin/env python3
"""Compares the speed of Lockstep and llama.cpp on the same files, threads and tokens.

Every repetition runs both, each in a new process, in alternating order, so that a change in the
machine's load meets both alike. Prints a Markdown table of medians and writes every figure as JSON.
Measures, does not judge: the exit code is 0 unless a program failed. See bench/README.md.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import peer

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = ("q4_0", "q8_0", "q4_1")
UBATCH = 512
BEHIND_TOKENS = 32
# Wanted Lockstep / llama.cpp in tokens per second, by variant, measurement, file and threads.
TARGETS = {
    "native": {
        "prefill": {"q4_0": {1: 2.3, 2: 2.8}, "q8_0": {1: 3.5, 2: 3.5}, "q4_1": {1: 6.5, 2: 6.5}},
        "decode": {"q4_0": {1: 1.8, 2: 2.1}, "q8_0": {1: 1.7, 2: 1.9}, "q4_1": {1: 2.1, 2: 2.4}},
    },
    "avx2": {
        "prefill": {name: {1: 1.2, 2: 1.2} for name in FILES},
        "decode": {name: {1: 1.5, 2: 1.5} for name in FILES},
    },
}


class PeerRun:
    """The worker's side: one model, whose context is made anew for each measurement."""

    def __init__(self):
        import llama_cpp  # noqa: F401  so that loading the library counts as before the model

        self.before = peer.memory()
        self.peer = None

    def answer(self, do, **arguments):
        return getattr(self, do)(**arguments)

    def open(self, model, threads, prompt):
        self.threads = threads
        begun = time.perf_counter()
        self.peer = peer.Peer(model, threads=threads, context=max(prompt, UBATCH), ubatch=UBATCH)
        load = time.perf_counter() - begun
        first = self.prefill(prompt)["seconds"]
        return {"load_seconds": load, "prefill_seconds": first, "first_token_seconds": load + first}

    def prefill(self, prompt):
        self.peer.clear()
        begun = time.perf_counter()
        self._prefill(prompt)
        int(self.peer.logits().argmax())
        return {"seconds": time.perf_counter() - begun}

    def _prefill(self, prompt):
        tokens = peer.tokens(prompt, self.peer.vocabulary)
        for begin in range(0, prompt, UBATCH):
            end = min(begin + UBATCH, prompt)
            self.peer.decode([(tokens[at], at, 0, at == prompt - 1) for at in range(begin, end)])

    def decode(self, count):
        self.peer.clear()
        begun = time.perf_counter()
        for position, token in enumerate(peer.tokens(count, self.peer.vocabulary)):
            self.peer.decode([(token, position, 0, True)])
            self.peer.logits()
        return {"seconds": time.perf_counter() - begun}

    def memory(self):
        return {"before_load": self.before, "after": peer.memory()}

    def context(self, tokens):
        """Decoding behind a long context, and the same number of tokens from an empty one."""
        self.peer.open(threads=self.threads, context=tokens + BEHIND_TOKENS, ubatch=UBATCH)
        empty = self.decode(BEHIND_TOKENS)["seconds"] / BEHIND_TOKENS
        self.peer.clear()
        begun = time.perf_counter()
        self._prefill(tokens)
        prefill = time.perf_counter() - begun
        seconds = []
        for index, token in enumerate(peer.tokens(BEHIND_TOKENS, self.peer.vocabulary)):
            begun = time.perf_counter()
            self.peer.decode([(token, tokens + index, 0, True)])
            self.peer.logits()
            seconds.append(time.perf_counter() - begun)
        median = statistics.median(seconds)
        return {"prefill_seconds": prefill, "median_seconds": median, "ratio_to_empty": median / empty}

    def batch(self, sequences, count):
        """Decoding of several sequences, all with a token in every step."""
        self.peer.open(
            threads=self.threads, context=sequences * max(count, 256), ubatch=UBATCH, sequences=sequences
        )
        tokens = peer.tokens(count, self.peer.vocabulary)
        begun = time.perf_counter()
        for position, token in enumerate(tokens):
            self.peer.decode([(token, position, sequence, True) for sequence in range(sequences)])
            for sequence in range(sequences):
                self.peer.logits(sequence)
        return {"tokens_per_second": sequences * count / (time.perf_counter() - begun)}


class Failed(Exception):
    pass


class Comparison:
    def __init__(self, options, model, threads):
        self.options = options
        self.model = model
        self.threads = threads
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        pin = shutil.which("taskset") and len(cores) >= threads
        self.cores = ",".join(map(str, cores[:threads])) if pin else None
        self.figures = {}

    def note(self, name, side, value):
        if value is not None:
            self.figures.setdefault(name, {}).setdefault(side, []).append(value)

    def lockstep(self, *arguments):
        command = [self.options.lockstep, "bench", str(self.model), "--threads", str(self.threads)]
        command += ["--repetitions", "1", "--no-profile", "--json", *map(str, arguments)]
        if self.cores:
            command = ["taskset", "-c", self.cores, *command]
        environment = dict(os.environ)
        environment.pop("LOCKSTEP_ISA", None)
        if self.options.variant == "avx2":
            environment["LOCKSTEP_ISA"] = "avx2"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(done.stderr.strip() or f"lockstep ended with {done.returncode}")
        return json.loads(done.stdout)

    def worker(self):
        worker = peer.Worker(self.options.variant, __file__, self.cores)
        start = worker.ask(
            do="open", model=str(self.model), threads=self.threads, prompt=self.options.prompt_tokens
        )
        return worker, start

    def ours(self):
        options = self.options
        report = self.lockstep(
            "--prompt-tokens", options.prompt_tokens, "--decode-tokens", options.decode_tokens
        )
        run = report["runs"][0]
        self.note("prefill", "ours", run["prefill"]["tokens_per_second"])
        self.note("decode", "ours", run["decode"]["tokens_per_second"])
        self.note("first token", "ours", report["start"]["first_token_seconds"])
        self.note("first token after load", "ours", report["start"]["prefill_seconds"])
        self.note("memory", "ours", report["memory"]["resident_bytes"])
        self.note("memory peak", "ours", report["memory"]["peak_bytes"])
        self.note("memory before load", "ours", report["memory"]["before_load_bytes"])

    def theirs(self):
        options = self.options
        worker, start = self.worker()
        prefill = worker.ask(do="prefill", prompt=options.prompt_tokens)["seconds"]
        decode = worker.ask(do="decode", count=options.decode_tokens)["seconds"]
        memory = worker.ask(do="memory")
        worker.close()
        self.note("prefill", "peer", options.prompt_tokens / prefill)
        self.note("decode", "peer", options.decode_tokens / decode)
        self.note("first token", "peer", start["first_token_seconds"])
        self.note("first token after load", "peer", start["prefill_seconds"])
        self.note("memory", "peer", memory["after"].get("VmRSS"))
        self.note("memory peak", "peer", memory["after"].get("VmHWM"))
        self.note("memory before load", "peer", memory["before_load"].get("VmRSS"))

    def our_context(self):
        context = self.options.context
        report = self.lockstep("--prompt-tokens", 16, "--decode-tokens", BEHIND_TOKENS, "--context", context)
        self.note_context("ours", report["runs"][0]["context"])

    def their_context(self):
        worker, _ = self.worker()
        self.note_context("peer", worker.ask(do="context", tokens=self.options.context))
        worker.close()

    def note_context(self, side, behind):
        self.note("prefill of context", side, self.options.context / behind["prefill_seconds"])
        self.note("decode behind context", side, 1 / behind["median_seconds"])
        self.note("token time behind context / empty", side, behind["ratio_to_empty"])

    def our_batch(self):
        report = self.lockstep(
            "--prompt-tokens", 16, "--decode-tokens", self.options.decode_tokens, "--batch", self.options.batch
        )
        self.note("decode of batch", "ours", report["runs"][0]["batch"]["tokens_per_second"])

    def their_batch(self):
        worker, _ = self.worker()
        answer = worker.ask(do="batch", sequences=self.options.batch, count=self.options.decode_tokens)
        self.note("decode of batch", "peer", answer["tokens_per_second"])
        worker.close()

    def run(self):
        options = self.options
        pairs = [(options.repetitions, self.ours, self.theirs)]
        if options.context:
            pairs.append((min(options.repetitions, 3), self.our_context, self.their_context))
        if options.batch:
            pairs.append((min(options.repetitions, 3), self.our_batch, self.their_batch))
        for repetitions, ours, theirs in pairs:
            for repetition in range(repetitions):
                for side in (ours, theirs) if repetition % 2 == 0 else (theirs, ours):
                    side()
        return self.figures


def summary(values):
    return {
        "median": statistics.median(values), "min": min(values), "max": max(values), "values": values,
    }  # fmt: skip


def rows(result, variant):
    """One row per measurement with medians, range, ratio and what is wanted."""
    name = pathlib.Path(result["model"]).stem.rsplit("-", 1)[-1]
    for measurement, sides in result["figures"].items():
        wanted = TARGETS.get(variant, {}).get(measurement, {}).get(name, {}).get(result["threads"])
        cells = []
        for side in ("ours", "peer"):
            figure = sides.get(side)
            cells.append("-" if figure is None else text(measurement, figure))
        ratio = "-"
        if "ours" in sides and "peer" in sides:
            ratio = f"{sides['ours']['median'] / sides['peer']['median']:.2f}"
        yield [name, str(result["threads"]), *label(measurement), *cells, ratio, f"{wanted:.1f}" if wanted else ""]


def label(measurement):
    if measurement.startswith("memory"):
        return measurement, "MB"
    if measurement.startswith("first token"):
        return measurement, "s"
    if measurement.startswith("token time"):
        return measurement, "ratio"
    return measurement, "tok/s"


def text(measurement, figure):
    unit = label(measurement)[1]
    scale, digits = {"MB": (1e6, 0), "s": (1, 3), "ratio": (1, 2), "tok/s": (1, 1)}[unit]
    median, low, high = (f"{figure[key] / scale:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low}..{high})"


def table(report):
    lines = [
        f"{report['processor']}, {report['variant']}, {report['repetitions']} repetitions, "
        f"prefill of {report['prompt_tokens']}, decode of {report['decode_tokens']}, "
        f"context {report['context']}, batch {report['batch']}",
        "",
        "| file | threads | measurement | unit | Lockstep (range) | llama.cpp (range) | ratio | wanted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in report["results"]:
        lines += ["| " + " | ".join(row) + " |" for row in rows(result, report["variant"])]
    for result in report["results"]:
        if result.get("error"):
            lines.append(f"\n{pathlib.Path(result['model']).name}, {result['threads']} threads: {result['error']}")
    return "\n".join(lines)


def binary():
    target = os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"
    return str(pathlib.Path(target) / "release" / "lockstep")


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="GGUF files; those of bench/models.py when none is given")
    parser.add_argument("--lockstep", default=binary(), help="the binary (default: %(default)s)")
    parser.add_argument("--variant", choices=peer.VARIANTS, default="native", help="which build of llama.cpp; avx2 sets LOCKSTEP_ISA=avx2 too")
    parser.add_argument("--threads", default="1,2", help="thread counts, separated by commas")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--context", type=int, default=4096, help="tokens before the long decode; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=8, help="sequences decoded together; 0 leaves it out")
    parser.add_argument("--output", default="compare", help="written as OUTPUT-VARIANT.json and .md")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    chosen = options()
    if chosen.worker:
        return peer.serve(PeerRun().answer)
    models = chosen.models or [peer.CACHE / f"smollm2-135m-{name}.gguf" for name in FILES]
    for path in [*models, chosen.lockstep]:
        if not pathlib.Path(path).is_file():
            sys.exit(f"error: no such file: {path}\nhint: run bench/models.py and cargo build --release first")
    report = {
        "processor": peer.processor(), "variant": chosen.variant, "repetitions": chosen.repetitions,
        "prompt_tokens": chosen.prompt_tokens, "decode_tokens": chosen.decode_tokens,
        "context": chosen.context, "batch": chosen.batch, "results": [],
    }  # fmt: skip
    failed = False
    for model in models:
        for threads in map(int, chosen.threads.split(",")):
            comparison = Comparison(chosen, model, threads)
            result = {"model": str(model), "file_bytes": os.path.getsize(model), "threads": threads}
            try:
                comparison.run()
            except Failed as error:
                failed = True
                result["error"] = str(error)
            result["figures"] = {
                name: {side: summary(values) for side, values in sides.items()}
                for name, sides in comparison.figures.items()
            }
            report["results"].append(result)
            print(f"{pathlib.Path(model).name}, {threads} threads: done", file=sys.stderr)
    pathlib.Path(f"{chosen.output}-{chosen.variant}.json").write_text(json.dumps(report, indent=1) + "\n")
    markdown = table(report)
    pathlib.Path(f"{chosen.output}-{chosen.variant}.md").write_text(markdown + "\n")
    print(markdown)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
