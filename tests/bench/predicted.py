#!/usr/bin/env python3
"""Does the plan know how long it will take? Ten seeded configurations on a disk held to a rate (the disk itself swings).

    python3 tests/bench/predicted.py [--headrace build/release/headrace] [--work build/bench] [--count 10] [--seed 1]

Each draws a model (dense or sparse, 0.6 to 0.9 GiB), a budget, a batch and a --disk-rate. A first run, whose plan expects of
experts what models are like, leaves behind what this model's are like; the plan made then is run and its predicted_s held to
a full pass: what more tokens take longer than 8 by the passes that they take more, since passes carry fewer rows while prompts
come in and requests end. As many more as should take LONGER_S, 8 to 96: of passes of ten milliseconds that miss an expert now
and then, eight say nothing. Median of two such pairs, sampled at temperature 1, so that a random model does not repeat itself.
Then the best five of what the search had to choose from (its choice and the next-best alternatives it names) are run the same
way: its choice should be the fastest of them, or within 10 %, a token.
"""
import random

import common

MODELS = {
    "dense-0.6GiB": ["--family", "llama", "--size", "600MiB", "--set", "hidden_size=1024", "--set", "intermediate_size=4096"],
    "dense-0.9GiB": ["--family", "qwen3", "--size", "900MiB", "--set", "hidden_size=1536", "--set", "intermediate_size=4096"],
    "sparse-0.8GiB": ["--family", "mixtral", "--size", "800MiB", "--set", "hidden_size=512", "--set", "intermediate_size=1024",
                      "--set", "num_local_experts=16", "--set", "num_experts_per_tok=2"],
}


SHORT, MORE_LEAST, MORE_MOST = 8, 8, 96  # tokens
LONGER_S = 1.5


def run(a, model, batch, memory, rate, tokens, *extra):
    ids = [x for b in range(batch) for x in ("--ids", f"{1 + b},2,3,4,5,6,7,8")]
    return common.headrace(a.headrace, "generate", model, *ids, "-n", tokens, "--ignore-eos", "--memory", memory,
                           "--temperature", 1, "--seed", 5, "--disk-rate", rate,
                           "--store", a.work / "stores-predicted", *extra)


def pass_of(runs):
    """Seconds and bytes of a full pass, of a short and a long run."""
    short, long = ((r["timings"]["passes"], r["timings"]["prefill_s"] + r["timings"]["decode_s"],
                    sum(row["counted_bytes"] for row in r["swap"] if "disk" in row["edge"])) for r in runs)
    return [(l - s) / (long[0] - short[0]) for s, l in zip(short[1:], long[1:])]


def plan(a, model, batch, memory, rate, tokens, *extra):
    return common.headrace(a.headrace, "plan", model, "--memory", memory, "--batch", batch, "--prompt-len", 8, "--gen-len",
                           tokens, "--disk-rate", rate, "--store", a.work / "stores-predicted", *extra)


def turns(batch, chosen):
    """Passes in which every request gets a token."""
    return -(-batch // min(chosen["rows"], chosen["sequences"]))


def main():
    a = common.arguments(__doc__, count=10, seed=1)
    draw = random.Random(a.seed)
    work = a.work
    rows = []
    for number in range(a.count):
        name = draw.choice(sorted(MODELS))
        model = work / f"predicted-{name}"
        common.model_folder(a.headrace, model, "--dtype", "bfloat16", *MODELS[name])
        weights = common.headrace(a.headrace, "inspect", model)["weights_bytes"]
        memory = int(weights * draw.uniform(0.3, 0.9)) + (40 << 20)
        batch, rate = draw.choice([1, 1, 2, 8, 32]), draw.choice([300, 500, 800]) * 1000 * 1000
        stores = a.work / "stores-predicted"
        for usage in stores.glob(f"predicted-{name}-*/usage"):
            usage.unlink()
        guess = plan(a, model, batch, memory, rate, SHORT + MORE_LEAST)["plan"]["predicted_s"]
        tokens = SHORT + max(MORE_LEAST, min(MORE_MOST, int(LONGER_S / guess)))
        unseen = run(a, model, batch, memory, rate, tokens)["plan"]
        file = work / "predicted.plan"
        planned = plan(a, model, batch, memory, rate, tokens, "-o", file)
        seen = planned["plan"]
        runs = [run(a, model, batch, memory, rate, t, "--plan", file) for t in (SHORT, tokens, SHORT, tokens)]
        pairs = [pass_of(runs[:2]), pass_of(runs[2:])]
        measured, moved = (common.median([p[i] for p in pairs]) for i in (0, 1))
        predicted = seen["predicted_s"]
        others = [x for x in planned["alternatives"] if x.get("predicted_s")]
        others = sorted(others, key=lambda x: x["predicted_s"])[:4]
        times = {"": measured * turns(batch, seen)}
        for other in others:
            depth = [] if other["policy"] == "sync" else ["--prefetch-depth", other["prefetch_depth"]]
            chosen = plan(a, model, batch, memory, rate, tokens, "--policy", other["policy"], *depth, "-o", file)["plan"]
            times[other["policy"]] = turns(batch, chosen) * pass_of(
                [run(a, model, batch, memory, rate, t, "--plan", file) for t in (SHORT, tokens)])[0]
        best = min(times.values())
        rows.append({"model": name, "batch": batch, "memory": f"{memory / 2**20:.0f} MiB", "disk MB/s": rate // 10**6,
                     "policy": seen["policy"], "MB a pass, first plan": f"{unseen['bytes'] / 1e6:.1f}",
                     "predicted": f"{seen['bytes'] / 1e6:.1f}", "counted": f"{moved / 1e6:.1f}",
                     "ms a pass, first plan": f"{unseen['predicted_s'] * 1e3:.1f}",
                     "predicted ms": f"{predicted * 1e3:.1f}", "measured ms": f"{measured * 1e3:.1f}",
                     "measured / predicted": f"{measured / predicted:.2f}", "choice / best of five": f"{times[''] / best:.2f}"})
        print(rows[-1], flush=True)
    ratios = [float(r["measured / predicted"]) for r in rows]
    text = (f"Seed {a.seed}: {sum(abs(r - 1) <= 0.15 for r in ratios)} of {len(ratios)} within 15 %; the choice within 10 % of "
            f"the fastest in {sum(float(r['choice / best of five']) <= 1.1 for r in rows)}:\n\n" + common.table(rows, list(rows[0])))
    common.publish(text, f"python3 tests/bench/predicted.py --count {a.count} --seed {a.seed}", a.output)


if __name__ == "__main__":
    main()
