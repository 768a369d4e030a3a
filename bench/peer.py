"""llama.cpp through its C interface, and where bench/peers.sh put it.

`Peer` needs the package llama_cpp and so one of the two environments; everything else is plain Python.
"""

import ctypes
import json
import os
import pathlib
import subprocess
import sys

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "lockstep-bench"
VARIANTS = ("native", "avx2")


def python(variant):
    """The interpreter of an environment; ends the program when it is missing."""
    path = CACHE / variant / "bin" / "python"
    if not path.exists():
        sys.exit(f"error: no llama.cpp at {path}\nhint: run bench/peers.sh {variant}")
    return str(path)


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown processor"


def tokens(count, vocabulary):
    """Token numbers that look random; `lockstep bench` uses the same."""
    return [(index * 2654435761 % 2**32) % vocabulary for index in range(count)]


def memory():
    """Resident memory and its peak, in bytes, where the system tells them."""
    figures = {}
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in ("VmRSS", "VmHWM"):
                    figures[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return figures


class Worker:
    """A script in an environment that answers one JSON line with one JSON line."""

    def __init__(self, variant, script, cores=None):
        command = [python(variant), script, "--worker"]
        if cores:
            command = ["taskset", "-c", cores, *command]
        # Threads are set in the context; libgomp's spinning stays as the library has it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: the llama.cpp worker ended with {self.process.wait()} at {request}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def serve(answer):
    """The other side of `Worker`: answers every line of stdin by `answer(**request)`."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # The library may print; answers have the pipe for themselves.
    for line in sys.stdin:
        out.write(json.dumps(answer(**json.loads(line))) + "\n")
        out.flush()


class Peer:
    """A model and one context on it."""

    def __init__(self, path, *, threads, context, ubatch, sequences=1, repack=True):
        import llama_cpp

        self.api = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = repack
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.context = None
        self.open(threads=threads, context=context, ubatch=ubatch, sequences=sequences)

    def open(self, *, threads, context, ubatch, sequences=1):
        """Makes a new context on the model."""
        self.close_context()
        parameters = self.api.llama_context_default_params()
        parameters.n_ctx = context
        parameters.n_batch = max(context, ubatch)
        parameters.n_ubatch = ubatch
        parameters.n_seq_max = sequences
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        parameters.no_perf = True
        self.context = self.api.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.batch = self.api.llama_batch_init(parameters.n_batch, 0, 1)

    def adapt(self, path):
        """Applies an adapter to everything that the context computes from now on."""
        adapter = self.api.llama_adapter_lora_init(self.model, str(path).encode())
        if not adapter:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        adapters = (self.api.llama_adapter_lora_p_ctypes * 1)(adapter)
        status = self.api.llama_set_adapters_lora(self.context, adapters, 1, (ctypes.c_float * 1)(1.0))
        if status != 0:
            raise RuntimeError(f"llama_set_adapters_lora: {status}")

    def close_context(self):
        if self.context:
            self.api.llama_batch_free(self.batch)
            self.api.llama_free(self.context)
            self.context = None

    def close(self):
        self.close_context()
        self.api.llama_model_free(self.model)

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)

    def decode(self, items):
        """Runs (token, position, sequence, wants logits) through the model."""
        batch = self.batch
        batch.n_tokens = len(items)
        for index, (token, position, sequence, logits) in enumerate(items):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = logits
        status = self.api.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        self.api.llama_synchronize(self.context)

    def logits(self, index=-1):
        """Logits of a batch entry that asked for them, as a NumPy view."""
        import numpy

        pointer = self.api.llama_get_logits_ith(self.context, index)
        return numpy.ctypeslib.as_array(pointer, shape=(self.vocabulary,))

    def tokenize(self, text):
        bytes_ = text.encode()
        room = len(bytes_) + 8
        found = (self.api.llama_token * room)()
        vocabulary = self.api.llama_model_get_vocab(self.model)
        count = self.api.llama_tokenize(vocabulary, bytes_, len(bytes_), found, room, False, False)
        if count < 0:
            raise RuntimeError("llama_tokenize: no room")
        return list(found[:count])
