#!/usr/bin/env python3
"""Running in place (`--store none`) beside a prepared store: tokens a second and bytes a pass at the same budget.

    python3 tests/bench/store_none.py [--headrace build/release/headrace] [--work build/bench] [--rounds 5]

In place nothing is written and the first token needs no store, but every read is packed again on arrival.
"""

import common
import streams


def main():
    a = common.arguments(__doc__, size="4.3GiB", rounds=5, tokens=16, fractions="1.3,0.65,0.5")
    work = a.work
    model, store = work / f"dense-{a.size}", work / f"stores-{a.size}"
    common.model_folder(a.headrace, model, "--size", a.size, *streams.MODEL)

    def decode(where, memory):
        return common.headrace(a.headrace, "generate", model, "--ids", streams.IDS, "-n", a.tokens, "--ignore-eos",
                               "--store", where, "--memory", memory)

    weights = decode(store, "20GiB")["plan"]["weights_bytes"]
    rows = []
    for fraction in [float(f) for f in a.fractions.split(",")]:
        runs = []
        for number in range(a.rounds):
            order = (store, "none") if number % 2 == 0 else ("none", store)
            pair = {str(where): decode(where, int(fraction * weights)) for where in order}
            kept, none = pair[str(store)], pair["none"]
            if kept["outputs"][0]["token_ids"] != none["outputs"][0]["token_ids"]:
                raise SystemExit("in place gave other tokens")
            speed = {k: r["timings"]["decode_tokens_per_second"] for k, r in (("kept", kept), ("none", none))}
            runs.append({**speed, "ratio": speed["none"] / speed["kept"], "bytes": none["plan"]["bytes"],
                         "kept bytes": kept["plan"]["bytes"], "load": none["timings"]["load_s"]})
            print(f"{fraction}: store {speed['kept']:.2f} tokens/s, in place {speed['none']:.2f}", flush=True)
        m = {k: common.median([r[k] for r in runs]) for k in runs[0]}
        rows.append({"memory / weights": fraction, "store tokens/s": f"{m['kept']:.2f}", "in place": f"{m['none']:.2f}",
                     "ratio": f"{m['ratio']:.2f}", "store GB a pass": f"{m['kept bytes'] / 1e9:.3f}",
                     "in place GB": f"{m['bytes'] / 1e9:.3f}", "in place load s": f"{m['load']:.2f}"})
    text = f"Dense bfloat16, {weights / 2**30:.2f} GiB, one sequence, medians of {a.rounds} alternating pairs:\n\n"
    text += common.table(rows, list(rows[0]))
    common.publish(text, "python3 tests/bench/store_none.py", a.output)


if __name__ == "__main__":
    main()
