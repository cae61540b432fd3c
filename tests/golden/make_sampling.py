#!/usr/bin/env python3
"""Golden files of sampling: what transformers' logits processors make of random logits.

    python3 tests/golden/make_sampling.py [tests/golden/sampling]

Writes sampling.json: {"cases": [{"params", "ids", "logits", "processed"}]}; tokens that a filter
took out are -1e30 in "processed", the others are divided by the temperature.
"""
import json
import pathlib
import sys

import torch
from transformers.generation import (LogitsProcessorList, MinPLogitsWarper,
                                     RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
                                     TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper)

PROCESSORS = (("repetition_penalty", RepetitionPenaltyLogitsProcessor),
              ("temperature", TemperatureLogitsWarper), ("top_k", TopKLogitsWarper),
              ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper),
              ("typical_p", TypicalLogitsWarper))
PARAMS = [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_k": 1}, {"top_p": 0.9}, {"top_p": 0.3}, {"min_p": 0.1},
          {"min_p": 0.02}, {"typical_p": 0.9}, {"typical_p": 0.2}, {"repetition_penalty": 1.3},
          {"repetition_penalty": 0.8}, {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
          {"temperature": 1.5, "top_p": 0.95, "min_p": 0.05},
          {"top_k": 25, "typical_p": 0.7}, {"top_p": 0.9, "typical_p": 0.9},
          {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.95,
           "repetition_penalty": 1.1}]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/sampling")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    cases = []
    for params in PARAMS * 2:
        logits = (2 * torch.randn(1, 32)).round(decimals=4)
        ids = torch.randint(0, 32, (1, 9))
        processors = LogitsProcessorList(make(params[name]) if name != "temperature" else make(float(params[name]))
                                         for name, make in PROCESSORS if name in params)
        processed = processors(ids, logits.clone())[0]
        processed = torch.where(torch.isinf(processed), torch.tensor(-1e30), processed)
        cases.append({"params": params, "ids": ids[0].tolist(),
                      "logits": [round(x, 4) for x in logits[0].tolist()],
                      "processed": [round(x, 6) for x in processed.tolist()]})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (folder / "sampling.json").write_text('{"cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
