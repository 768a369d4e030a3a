"""Compares Lockstep's model runner with llama.cpp on one GGUF file.

usage: llama_compare.py MODEL PROMPT [TOKENS] [TEXT_FILE]

Prints the greedy continuation of the templated PROMPT by llama.cpp and, when TEXT_FILE is given,
the mean negative log-likelihood of its tokens behind the first half. The example
`cargo run --release -p lockstep-model --example generate` prints the same for Lockstep.
Needs the PyPI packages llama-cpp-python and numpy.
"""

import sys

import llama_cpp
import numpy as np

TEMPLATE = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


def greedy(model, prompt, count):
    tokens = model.tokenize(TEMPLATE.format(prompt).encode(), add_bos=False, special=True)
    print("prompt tokens:", len(tokens), tokens)
    model.reset()
    model.eval(tokens)
    generated = []
    while len(generated) < count:
        logits = model.scores[model.n_tokens - 1]
        if not generated:
            best = np.argsort(-logits, kind="stable")[:5]
            print("first logits:", [(int(i), float(logits[i])) for i in best])
        token = int(np.argmax(logits))
        generated.append(token)
        if token == model.token_eos():
            break
        model.eval([token])
    print("tokens:", generated)
    print("text:", model.detokenize(generated).decode(errors="replace"))


def mean_negative_log_likelihood(model, text):
    tokens = model.tokenize(text.encode(), add_bos=False, special=False)
    first = len(tokens) // 2
    model.reset()
    model.eval(tokens)
    total = 0.0
    for index in range(first - 1, len(tokens) - 1):
        logits = model.scores[index].astype(np.float64)
        largest = logits.max()
        total += np.log(np.exp(logits - largest).sum()) + largest - logits[tokens[index + 1]]
    mean = total / (len(tokens) - first)
    print(f"{len(tokens)} tokens, mean negative log-likelihood behind token {first}: {mean:.4f}")
    print(f"perplexity: {np.exp(mean):.3f}")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model = llama_cpp.Llama(
        sys.argv[1], n_ctx=2048, n_threads=2, logits_all=True, verbose=False
    )
    greedy(model, sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 64)
    if len(sys.argv) > 4:
        with open(sys.argv[4], encoding="utf-8") as file:
            mean_negative_log_likelihood(model, file.read())


if __name__ == "__main__":
    main()
