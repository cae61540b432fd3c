#!/usr/bin/env python3
"""One sequence from a model that does not fit: how near does decoding come to what memory and disk allow?

    python3 tests/bench/streams.py [--headrace build/release/headrace] [--work build/bench] [--rounds 5]

Every round takes, one after the other: decoding with all weights in memory, and decoding at each fraction of the
weights (the budget is of the whole process), planned and with `--policy lru`. The ceiling of a fraction is min(in-memory
rate, disk rate / bound bytes of a pass), the disk's rate taken on the store's own file before and after the planned run.
"""

import common

MODEL = ["--family", "llama", "--dtype", "bfloat16", "--set", "hidden_size=2048", "--set", "intermediate_size=8192",
         "--set", "num_attention_heads=16", "--set", "num_key_value_heads=16", "--set", "head_dim=128",
         "--set", "vocab_size=32000"]
IDS = "1,2,3,4,5,6,7,8"


def main():
    a = common.arguments(__doc__, size="4.3GiB", rounds=5, tokens=16, fractions="0.65,0.5")
    work = a.work
    model, store = work / f"dense-{a.size}", work / f"stores-{a.size}"
    common.model_folder(a.headrace, model, "--size", a.size, *MODEL)
    fractions = [float(f) for f in a.fractions.split(",")]

    def decode(memory, tokens=a.tokens, policy="auto"):
        return common.headrace(a.headrace, "generate", model, "--ids", IDS, "-n", tokens, "--ignore-eos",
                               "--store", store, "--memory", memory, "--policy", policy)

    weights = decode("20GiB")["plan"]["weights_bytes"]
    runs = {f: [] for f in fractions}
    for number in range(a.rounds):
        inside = decode(weights + (1 << 30))["timings"]["decode_tokens_per_second"]
        for f in fractions:
            budget = int(f * weights)
            planned, disk = common.beside_disk(common.store_data(store), lambda b=budget: decode(b))
            lru = decode(budget, 6, "lru")
            rate = planned["timings"]["decode_tokens_per_second"]
            ceiling = min(inside, disk / planned["plan"]["bound_bytes"])
            runs[f].append({"disk": disk, "inside": inside, "rate": rate, "ratio": rate / ceiling,
                            "lru": lru["timings"]["decode_tokens_per_second"], "plan": planned["plan"],
                            "peak": planned["memory"]["peak_rss"], "budget": budget})
            print(f"round {number + 1}: {f}: {rate:.2f} tokens/s, disk {disk / 1e9:.2f} GB/s, "
                  f"{rate / ceiling:.2f} of the ceiling, lru {runs[f][-1]['lru']:.2f}", flush=True)
    rows = []
    for f in fractions:
        r = runs[f]
        m = {k: common.median([x[k] for x in r]) for k in ("disk", "inside", "rate", "ratio", "lru")}
        rows.append({"memory / weights": f, "tokens/s": f"{m['rate']:.2f}", "of the ceiling": f"{m['ratio']:.2f}",
                     "worst, best": f"{min(x['ratio'] for x in r):.2f}, {max(x['ratio'] for x in r):.2f}",
                     "in memory": f"{m['inside']:.2f}", "disk GB/s": f"{m['disk'] / 1e9:.2f}",
                     "GB a pass": f"{r[0]['plan']['bytes'] / 1e9:.3f}", "bound": f"{r[0]['plan']['bound_bytes'] / 1e9:.3f}",
                     "lru tokens/s": f"{m['lru']:.2f}", "peak / budget": f"{max(x['peak'] / x['budget'] for x in r):.3f}"})
    text = (f"Dense bfloat16, {weights / 2**30:.2f} GiB of weights, one sequence, medians of {a.rounds} interleaved rounds "
            f"of {a.tokens} tokens:\n\n" + common.table(rows, list(rows[0])))
    common.publish(text, "python3 tests/bench/streams.py", a.output)


if __name__ == "__main__":
    main()
