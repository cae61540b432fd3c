#!/usr/bin/env python3
"""A sparse model at half its size, one sequence: is decoding as fast as the bytes that it must read?

    python3 tests/bench/moe.py [--headrace build/release/headrace] [--work build/bench] [--size 5.3GiB] [--rounds 5]
    python3 tests/bench/moe.py --model FOLDER                 a trained one instead: its routers have favourites

Every round takes, one after the other: decoding with all weights in memory, decoding at each fraction of the weights (the
budget is of the whole process), and the same with `--policy lru`; before and after each of these the disk's rate on the
store's own file. "of the ceiling" is the seconds that the bytes of decoding cost at the disk's rate, or those of decoding
in memory where they are more, as a share of the seconds that it took; "of the disk" is the first of the two. The bytes
are the run's own count less that of a run that ends after the prompt.
"""
import json
import pathlib

import common

MODEL = ["--family", "mixtral", "--dtype", "bfloat16", "--set", "hidden_size=2048", "--set", "intermediate_size=1024",
         "--set", "num_attention_heads=16", "--set", "num_key_value_heads=8", "--set", "head_dim=128",
         "--set", "num_local_experts=64", "--set", "num_experts_per_tok=8", "--set", "vocab_size=32000"]
IDS = ",".join(str(3 + 37 * i % 900) for i in range(16))


def main():
    a = common.arguments(__doc__, model="", size="5.3GiB", rounds=5, tokens=48, fractions="0.5")
    work = a.work
    model = pathlib.Path(a.model) if a.model else work / f"moe-{a.size}"
    store = work / f"stores-{model.name}"
    common.model_folder(a.headrace, model, "--size", a.size, *MODEL)
    fractions = [float(f) for f in a.fractions.split(",")]

    def decode(memory, tokens, policy):
        return common.headrace(a.headrace, "generate", model, "--ids", IDS, "-n", tokens, "--ignore-eos",
                               "--temperature", 1, "--seed", 5, "--store", store, "--memory", memory,
                               "--policy", policy)

    def moved(run):
        return sum(row["counted_bytes"] for row in run["swap"] if row["edge"].startswith("disk"))

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    common.headrace(a.headrace, "generate", model, "--ids", IDS, "-n", 1, "--store", store)  # prepares the store
    weights = common.headrace(a.headrace, "plan", model)["plan"]["weights_bytes"]
    rows = []
    for f in fractions:
        budget = int(f * weights)
        first = {policy: moved(decode(budget, 1, policy)) for policy in ("auto", "lru")}
        runs = {"auto": [], "lru": []}
        for number in range(a.rounds):
            inside = decode(weights + (1 << 30), a.tokens, "auto")["timings"]["decode_s"]
            for policy in runs:
                run, disk = common.beside_disk(common.store_data(store), lambda p=policy: decode(budget, a.tokens, p))
                bytes_read = moved(run) - first[policy]
                seconds = run["timings"]["decode_s"]
                runs[policy].append({"rate": run["timings"]["decode_tokens_per_second"], "bytes": bytes_read, "disk": disk,
                                     "share": bytes_read / disk / seconds, "inside": (a.tokens - 1) / inside,
                                     "ceiling": max(bytes_read / disk, inside) / seconds, "hit": run["experts"]["hit_rate"],
                                     "peak": run["memory"]["peak_rss"] / budget})
                x = runs[policy][-1]
                print(f"round {number + 1}: {f} {policy}: {x['rate']:.2f} tokens/s, {x['bytes'] / 1e6 / (a.tokens - 1):.1f} MB a "
                      f"token, disk {disk / 1e9:.2f} GB/s, {x['ceiling']:.2f} of the ceiling, "
                      f"{x['share']:.2f} of the disk", flush=True)
        for policy, r in runs.items():
            m = {k: common.median([x[k] for x in r]) for k in r[0]}
            rows.append({"memory / weights": f, "policy": policy, "tokens/s": f"{m['rate']:.2f}",
                         "of the ceiling": f"{m['ceiling']:.2f}",
                         "worst, best": f"{min(x['ceiling'] for x in r):.2f}, {max(x['ceiling'] for x in r):.2f}",
                         "of the disk": f"{m['share']:.2f}", "in memory": f"{m['inside']:.2f}",
                         "MB a token": f"{m['bytes'] / 1e6 / (a.tokens - 1):.1f}", "hit rate": f"{m['hit']:.3f}",
                         "disk GB/s": f"{m['disk'] / 1e9:.2f}",
                         "peak / budget": f"{max(x['peak'] for x in r):.3f}"})
    text = (f"Sparse bfloat16, {weights / 2**30:.2f} GiB of weights, {config['num_hidden_layers']} layers of "
            f"{config['num_local_experts']} experts, {config['num_experts_per_tok']} a token; one sequence, medians of {a.rounds} "
            f"interleaved rounds of {a.tokens} tokens:\n\n" + common.table(rows, list(rows[0])))
    common.publish(text, "python3 tests/bench/moe.py", a.output)


if __name__ == "__main__":
    main()
