#!/usr/bin/env python3
"""Compares token ids with llama.cpp's, for real vocabularies.

usage: bench/tokens.py [--json FILE] [VOCABULARY.gguf ...]

Without files: the vocabularies that llama.cpp's source package brings, some of them cut another way, and the models that
`lockstep models` has.
The texts are bench/multilingual.txt as a whole, by paragraphs, by lines, and 3000 pieces of it that begin and end anywhere,
and the texts that stand beside a vocabulary. Control tokens in them are words. A vocabulary that Lockstep refuses by name is
listed as such. `round trip` counts the texts that do not come back from their ids: tokens are missing for some bytes.
Needs bench/peers.sh native.
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tarfile
import tempfile

import peer

HERE = pathlib.Path(__file__).parent
PACKAGE = "llama-cpp-python==0.3.36"
SEPARATOR = "\n__ggml_vocab_test__\n"
PIECES = 3000
PRE = "tokenizer.ggml.pre"
# Ways of cutting, of which no vocabulary is at hand, with another's tokens; a unigram model without the map of characters.
VARIANTS = [
    ("gpt-2", "gpt-2 cut as smollm", (PRE, "gpt-2", "smollm")),
    ("llama-bpe", "llama-bpe cut as lfm2", (PRE, "llama-bpe", "lfm2")),
    ("llama-bpe", "llama-bpe cut as llama3", (PRE, "llama-bpe", "llama3")),
    ("llama-bpe", "llama-bpe cut as llama-v3", (PRE, "llama-bpe", "llama-v3")),
    ("qwen2", "qwen2 cut as deepseek-r1-qwen", (PRE, "qwen2", "deepseek-r1-qwen")),
    ("nomic-bert-moe", "nomic-bert-moe without map", (None, "precompiled_charsmap", "precompiled_charsmaq")),
    (
        "nomic-bert-moe",
        "nomic-bert-moe without map, spaces kept",
        (None, "precompiled_charsmap", "precompiled_charsmaq"),
        (None, "remove_extra_whitespaces", "remove_extra_whitespacez"),
    ),
]


def vocabularies():
    """Puts the source package's vocabularies into the cache and returns their paths."""
    folder = peer.CACHE / "vocabularies"
    if not folder.exists():
        peer.CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=peer.CACHE) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            options = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", temporary, PACKAGE]
            subprocess.run([*command, *options], check=True)
            archive = next(pathlib.Path(temporary).glob("*.tar.gz"))
            part = pathlib.Path(temporary) / "vocabularies"
            part.mkdir()
            with tarfile.open(archive) as files:
                for member in files:
                    name = pathlib.PurePosixPath(member.name)
                    wanted = name.name.startswith("ggml-vocab-") and name.suffix in (".gguf", ".inp")
                    if member.isfile() and wanted and name.parent.name == "models":
                        (part / name.name).write_bytes(files.extractfile(member).read())
            part.rename(folder)
    for source, name, *changes in VARIANTS:
        relabelled(folder / f"ggml-vocab-{source}.gguf", name, changes)
    data = os.environ.get("LOCKSTEP_DATA", pathlib.Path.home() / ".local/share/lockstep")
    models = pathlib.Path(data) / "models"
    return sorted(folder.glob("*.gguf")) + sorted(path for path in models.glob("*.gguf") if "-of-" not in path.name)


def relabelled(source, name, changes):
    """A copy of a vocabulary without tensors in which texts are others: values with their lengths, or keys of the same length."""
    target = source.with_name(f"{name}.gguf")
    bytes_ = source.read_bytes()
    for key, old, new in changes:
        if key is None:
            assert len(old) == len(new) and bytes_.count(old.encode()) == 1
            bytes_ = bytes_.replace(old.encode(), new.encode())
            continue
        before, after = (
            key.encode() + struct.pack("<IQ", 8, len(text)) + text.encode() for text in (old, new)
        )
        assert bytes_.count(before) == 1
        bytes_ = bytes_.replace(before, after)
    target.write_bytes(bytes_)
    return target


def texts(path):
    whole = (HERE / "multilingual.txt").read_bytes().decode()
    found = [whole, *whole.split("\n\n"), *whole.split("\n"), *whole.splitlines(keepends=True)]
    chance = random.Random(7)
    for _ in range(PIECES):
        start = chance.randrange(len(whole))
        found.append(whole[start : start + chance.randrange(1, 60)])
    beside = path.with_name(path.name + ".inp")
    if beside.exists():
        found += beside.read_bytes().decode().split(SEPARATOR)
    return [text for text in found if text]


def answer(path, wanted):
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        return None
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    found = []
    for text in wanted:
        encoded = text.encode()
        room = 4 * len(encoded) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(vocabulary, encoded, len(encoded), ids, room, False, False)
        found.append(list(ids[: max(count, 0)]))
    llama_cpp.llama_model_free(model)
    return found


def ours(path, wanted):
    """The error of the tokenizer, or nothing, and the answers for the texts."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "lockstep-model", "--example", "tokens", "--", path]
    lines = "".join(json.dumps(text) + "\n" for text in wanted)
    result = subprocess.run(command, input=lines, check=True, capture_output=True, text=True)
    error, *answers = (json.loads(line) for line in result.stdout.split("\n") if line)
    return error, answers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--show", type=int, default=0, help="how many differing texts of each to print")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("vocabulary", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.worker:
        peer.serve(answer)
        return
    worker = peer.Worker("native", __file__)
    table, differing = {}, 0
    print("| vocabulary | texts | tokens | texts of other ids | round trip | |")
    print("|---|---|---|---|---|---|")
    for path in arguments.vocabulary or vocabularies():
        wanted = texts(path)
        name = path.name.removesuffix(".gguf").removeprefix("ggml-vocab-")
        error, found = ours(path, wanted)
        if error:
            table[name] = {"refused": error}
            print(f"| {name} | | | | | refused: {error} |", flush=True)
            continue
        theirs = worker.ask(path=str(path), wanted=wanted)
        if theirs is None:
            sys.exit(f"error: llama.cpp cannot load {path}")
        other = [text for text, mine, their in zip(wanted, found, theirs) if mine["ids"] != their]
        lost = sum(not mine["same"] for mine in found)
        count = sum(map(len, theirs))
        table[name] = {"texts": len(wanted), "tokens": count, "differing": len(other), "lost": lost}
        print(f"| {name} | {len(wanted)} | {count} | {len(other)} | {lost} | |", flush=True)
        differing += len(other)
        for text in sorted(other, key=len)[: arguments.show]:
            index = wanted.index(text)
            print(f"  {text!r}\n    ours {found[index]['ids']}\n    llama.cpp {theirs[index]}")
    worker.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")
    if differing:
        sys.exit(f"error: {differing} texts have other ids than llama.cpp's")


if __name__ == "__main__":
    main()
