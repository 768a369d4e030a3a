#!/usr/bin/env python3
"""Compares the logits of small checkpoints of every architecture with those of the library that checkpoints are made for.

usage: bench/checkpoints.py [--json FILE] [--keep DIRECTORY]

transformers makes the checkpoints, with pseudo-random weights: whole, in several files, in F32, BF16 and F16, with the
settings that change how they are computed; tokenizers makes their tokenizers. Lockstep opens the folders. 64 tokens; the
largest difference of two logits is a share of the range of a row's logits. transformers computes in F32. Installs torch and
transformers into the cache folder of bench/peers.sh (6 GB) when they are not there.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import peer

ENVIRONMENT = peer.CACHE / "transformers"
# What is stored of keys and values is rounded to f16 here.
WANTED = 1e-3
LENGTH = 64
SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Name, type, settings, type of the weights, largest file.
CHECKPOINTS = [
    ("llama", "llama", {}, "float32", None),
    ("llama-tied-bf16", "llama", {"tie_word_embeddings": True}, "bfloat16", None),
    ("llama-f16-files", "llama", {"head_dim": 32}, "float16", "60KB"),
    ("llama-3", "llama", {"rope_parameters": LLAMA3, "max_position_embeddings": 512}, "float32", None),
    (
        "llama-linear",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        "float32",
        None,
    ),
    ("mistral", "mistral", {"sliding_window": None, "head_dim": 32}, "float32", None),
    ("qwen2", "qwen2", {}, "float32", None),
    ("qwen3", "qwen3", {"head_dim": 32}, "bfloat16", "60KB"),
    (
        "gemma3",
        "gemma3_text",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "num_hidden_layers": 7},
        "float32",
        None,
    ),
    (
        "lfm2",
        "lfm2",
        {
            "layer_types": ["conv", "conv", "full_attention"],
            "block_multiple_of": 32,
            "intermediate_size": 144,
        },
        "float32",
        None,
    ),
    (
        "lfm2moe",
        "lfm2_moe",
        {
            "layer_types": ["conv", "full_attention", "conv"],
            "num_dense_layers": 1,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        },
        "float32",
        None,
    ),
]


def make(folder, kind, settings, dtype, largest):
    """A checkpoint with its tokenizer, its tokens and the logits behind each."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(5)
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **settings})
    config.dtype = dtype
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name or "embed_scale" in name:
                continue
            spread = 0.3 if "norm" in name or "bias" in name else 0.15
            noise = torch.randn(parameter.shape) * spread
            is_norm = "norm" in name and "gemma" not in kind
            parameter.copy_(noise + 1.0 if is_norm else noise)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, **({"max_shard_size": largest} if largest else {}))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *alphabet, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    tokens = [(index * index * 7 + 3) % SIZES["vocab_size"] for index in range(LENGTH)]
    with torch.no_grad():
        # Opened again, since frequencies of rotations were rounded with the weights.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        logits = model(torch.tensor([tokens])).logits[0]
    return tokens, logits.tolist()


def answer(folder, kind, settings, dtype, largest):
    tokens, logits = make(folder, kind, settings, dtype, largest)
    return {"tokens": tokens, "logits": logits}


def install():
    if not ENVIRONMENT.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        command = [ENVIRONMENT / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "torch", "transformers"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="where to leave the checkpoints")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer.serve(answer)
        return
    install()
    worker = peer.Worker("transformers", __file__)
    table = {}
    print("| checkpoint | weights | files | largest difference | other first choices of 64 |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name, kind, settings, dtype, largest in CHECKPOINTS:
            folder = (arguments.keep or pathlib.Path(temporary)) / name
            found = worker.ask(folder=str(folder), kind=kind, settings=settings, dtype=dtype, largest=largest)
            command = ["cargo", "run", "--release", "--quiet", "-p", "lockstep-model", "--example", "logits", "--"]
            result = subprocess.run(
                [*command, folder], input=json.dumps(found["tokens"]), capture_output=True, text=True, check=False
            )
            if result.returncode != 0:
                sys.exit(f"error: {name}: {result.stderr}")
            ours = [json.loads(line) for line in result.stdout.splitlines()]
            largest_difference, other = 0.0, 0
            for mine, theirs in zip(ours, found["logits"], strict=True):
                extent = max(theirs) - min(theirs)
                difference = max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
                largest_difference = max(largest_difference, difference / extent)
                other += mine.index(max(mine)) != theirs.index(max(theirs))
            files = len(list(folder.glob("*.safetensors")))
            table[name] = {"type": dtype, "files": files, "difference": largest_difference, "argmax": other}
            print(f"| {name} | {dtype} | {files} | {largest_difference:.1e} | {other} |", flush=True)
    worker.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")
    far = [name for name, found in table.items() if found["difference"] > WANTED]
    if far:
        sys.exit(f"error: further away than {WANTED}: {', '.join(far)}")


if __name__ == "__main__":
    main()
