#!/usr/bin/env python3
"""Many sequences at once from a model that does not fit: how near to what compute and disk allow?

    python3 tests/bench/batch.py [--headrace build/release/headrace] [--work build/bench] [--rounds 3]

Every round takes for each case all sequences with all weights in memory, and then within a budget, before and after
which the disk's rate is taken on the store's own file. The cases:

- 32 sequences within half of the weights, against min(rate in memory, 32 x disk rate / bytes of the bound);
- 256 sequences within half of the weights plus the keys and values of all, against the rate in memory.

Rates are of passes that only decode. All sequences are of one length, and the prompts of all fit one pass, so that every
such pass carries them all; the runs that are compared form the same passes.
"""
import json
import random

import common

MODEL = ["--family", "llama", "--dtype", "bfloat16", "--set", "hidden_size=2048", "--set", "intermediate_size=8192",
         "--set", "num_attention_heads=16", "--set", "num_key_value_heads=4", "--set", "head_dim=128",
         "--set", "vocab_size=32000"]


def main():
    a = common.arguments(__doc__, size="2GiB", rounds=3, prompt=2, tokens=30, cases="32,256")
    work = a.work
    model, store = work / f"batch-{a.size}", work / f"batch-stores-{a.size}"
    common.model_folder(a.headrace, model, "--size", a.size, *MODEL)
    cases = [int(c) for c in a.cases.split(",")]
    rng = random.Random(1)
    inputs, out = {}, work / "batch-out.jsonl"
    for n in cases:
        inputs[n] = work / f"batch-{n}.jsonl"
        lines = [{"id": i, "ids": [rng.randrange(3, 32000) for _ in range(a.prompt)], "max_tokens": a.tokens,
                  "ignore_eos": True} for i in range(n)]
        inputs[n].write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")

    def batch(n, memory):
        out.unlink(missing_ok=True)
        result = common.headrace(a.headrace, "generate", model, "-i", inputs[n], "-o", out, "--store", store,
                                 "--memory", memory)
        if result["batch"]["finished"] != n:
            raise SystemExit(f"{n} sequences: {result['batch']}")
        return result

    first = batch(cases[0], "40%")
    weights = first["plan"]["weights_bytes"]
    runs = {n: [] for n in cases}
    for number in range(a.rounds):
        for n in cases:
            whole = batch(n, "80%")
            memory = whole["plan"]["memory"]
            budget = weights // 2 if n <= 32 else weights // 2 + memory["kv"]
            half, disk = common.beside_disk(common.store_data(store), lambda n=n, b=budget: batch(n, b))
            inside = whole["timings"]["decode_tokens_per_second"]
            rate = half["timings"]["decode_tokens_per_second"]
            bound = half["plan"]["bound_bytes"]
            ceiling = min(inside, n * disk / bound) if bound else inside
            runs[n].append({"disk": disk, "inside": inside, "rate": rate, "ratio": rate / ceiling, "of_inside": rate / inside,
                            "plan": half["plan"], "budget": budget, "peak": half["memory"]["peak_rss"],
                            "passes": half["timings"]["passes"], "stall": half["stall"]["seconds"]})
            print(f"round {number + 1}: {n} sequences: {rate:.1f} tokens/s, in memory {inside:.1f}, disk {disk / 1e9:.2f} GB/s, "
                  f"{rate / ceiling:.2f} of the ceiling, {rate / inside:.2f} of in memory, "
                  f"{half['timings']['passes']} passes ({whole['timings']['passes']} in memory)", flush=True)
    rows = []
    for n in cases:
        r = runs[n]
        m = {k: common.median([x[k] for x in r]) for k in ("disk", "inside", "rate", "ratio", "of_inside", "stall")}
        rows.append({"sequences": n, "budget / weights": f"{r[0]['budget'] / weights:.2f}", "tokens/s": f"{m['rate']:.1f}",
                     "in memory": f"{m['inside']:.1f}", "of in memory": f"{m['of_inside']:.2f}",
                     "of the ceiling": f"{m['ratio']:.2f}",
                     "worst, best": f"{min(x['ratio'] for x in r):.2f}, {max(x['ratio'] for x in r):.2f}",
                     "disk GB/s": f"{m['disk'] / 1e9:.2f}", "GB a pass": f"{r[0]['plan']['bytes'] / 1e9:.3f}",
                     "bound": f"{r[0]['plan']['bound_bytes'] / 1e9:.3f}", "passes": r[0]["passes"],
                     "stalled s": f"{m['stall']:.2f}", "peak / budget": f"{max(x['peak'] / x['budget'] for x in r):.3f}"})
    text = (f"Dense bfloat16, {weights / 2**30:.2f} GiB of weights, {a.prompt} prompt tokens and {a.tokens} generated ones a "
            f"sequence, medians of {a.rounds} interleaved rounds:\n\n" + common.table(rows, list(rows[0])))
    common.publish(text, "python3 tests/bench/batch.py", a.output)


if __name__ == "__main__":
    main()
