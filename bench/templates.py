#!/usr/bin/env python3
"""Compares what chat templates make of conversations with what transformers makes of them.

usage: bench/templates.py FOLDER

FOLDER has templates, `*.jinja`; llama.cpp's source package brings many in vendor/llama.cpp/models/templates. Four
conversations each; what both refuse is the same. Templates that ask for the date get none here, and the one that
transformers puts there is not compared. Needs the environment of bench/checkpoints.py.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import peer

CONVERSATIONS = [
    [("user", "Hello, wörld?\n")],
    [("system", " You are brief. "), ("user", "Why?"), ("assistant", "Because."), ("user", "  And then?  ")],
    [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c {{ d }} 'e' \"f\"")],
    [("user", "a"), ("user", "b")],
]


def answer(source):
    from transformers.utils.chat_template_utils import render_jinja_template

    found = []
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        try:
            texts, _ = render_jinja_template(
                conversations=[messages],
                chat_template=source,
                add_generation_prompt=True,
                bos_token="<|im_start|>",
                eos_token="<|im_end|>",
            )
            found.append({"text": texts[0]})
        except Exception as error:
            found.append({"error": str(error)})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--show", action="store_true", help="print what differs")
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.worker:
        peer.serve(answer)
        return
    worker = peer.Worker("transformers", __file__)
    differing = 0
    print("| template | same | both refuse | refused here alone | refused there alone | other text |")
    print("|---|---|---|---|---|---|")
    for path in sorted(arguments.folder.glob("*.jinja")):
        theirs = worker.ask(source=path.read_text())
        lines = "".join(
            json.dumps([{"role": role, "content": content} for role, content in conversation]) + "\n"
            for conversation in CONVERSATIONS
        )
        command = ["cargo", "run", "--release", "--quiet", "-p", "lockstep-model", "--example", "template", "--", path]
        result = subprocess.run(command, input=lines, check=True, capture_output=True, text=True)
        ours = [json.loads(line) for line in result.stdout.splitlines()]
        same = sum("text" in mine and mine == their for mine, their in zip(ours, theirs))
        both = sum("error" in mine and "error" in their for mine, their in zip(ours, theirs))
        alone = [mine["error"] for mine, their in zip(ours, theirs) if "error" in mine and "text" in their]
        lenient = sum("text" in mine and "error" in their for mine, their in zip(ours, theirs))
        other = [(mine, their) for mine, their in zip(ours, theirs) if "text" in mine and "text" in their]
        other = [pair for pair in other if pair[0] != pair[1]]
        has_date = "strftime_now" in path.read_text()
        reason = alone[0] if alone else ""
        date = " (the date)" if other and has_date else ""
        print(f"| {path.stem} | {same} | {both} | {len(alone)} {reason} | {lenient} | {len(other)}{date} |", flush=True)
        differing += 0 if has_date else len(other)
        for pair in other if arguments.show else []:
            print(*pair, sep="\n")
    worker.close()
    if differing:
        sys.exit(f"error: {differing} conversations have another text")


if __name__ == "__main__":
    main()
