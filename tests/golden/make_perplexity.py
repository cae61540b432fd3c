#!/usr/bin/env python3
"""Golden files of perplexity: what transformers' losses over sliding windows come to.

    python3 tests/golden/make_perplexity.py [tests/golden/perplexity.json]

Reads tests/golden/models; writes {"text", "cases": [{"model", "window", "stride", "nll", "tokens"}]}.
"""
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
TEXT = ("A headrace feeds a water wheel: water is led to the wheel when the wheel needs it. " * 3 +
        "The quick brown fox jumps over the lazy dog, 7 times & more.\n")
MODELS = ("llama-float32", "mistral-float32", "qwen3-float32")


def score(model, ids, window, stride):
    """Every token once: labels of those that an earlier window had, and of the first, are left out."""
    total, tokens, done = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, :max(done - begin, 0)] = -100
        count = int((labels[:, 1:] != -100).sum())
        if count:
            with torch.no_grad():
                total += float(model(inputs, labels=labels).loss.double()) * count
            tokens += count
        done = end
        if end == len(ids):
            return total / tokens, tokens


def main():
    cases = []
    for name in MODELS:
        folder = HERE / "models" / name
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ids = AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
        longest = model.config.max_position_embeddings
        for window, stride in ((longest, longest), (32, 32), (32, 7), (20, 1), (64, 63), (2, 2)):
            nll, tokens = score(model, ids, window, stride)
            cases.append({"model": name, "window": window, "stride": stride, "nll": nll,
                          "tokens": tokens})
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    path = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "perplexity.json")
    path.write_text('{"text": ' + json.dumps(TEXT) + ',\n "cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
