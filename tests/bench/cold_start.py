#!/usr/bin/env python3
"""How long does a second start take to its first token, against the time that its bytes take at the disk's rate?

    python3 tests/bench/cold_start.py [--headrace build/release/headrace] [--work build/bench] [--rounds 5]

The store exists, the page cache is dropped before each start (as root). The time is of the whole process, from its start
to its end after one token; the ceiling is what it read, divided by the disk's rate into as much memory (up to 1 GiB)
before and after. What backing as much memory takes by itself (MADV_POPULATE_WRITE, as many threads as processors) is taken
in the same round, right before the start, and published: where it is longer than the reads, it is the memory that
decides, not the disk.
"""
import os
import time

import common
from streams import MODEL


def main():
    a = common.arguments(__doc__, size="4.3GiB", rounds=5)
    work = a.work
    model, store = work / f"dense-{a.size}", work / f"stores-{a.size}"
    common.model_folder(a.headrace, model, "--size", a.size, *MODEL)

    def start(memory):
        begin = time.monotonic()
        result = common.headrace(a.headrace, "generate", model, "--ids", "1,2,3,4,5,6,7,8", "-n", 1, "--ignore-eos",
                                 "--store", store, "--memory", memory)
        return time.monotonic() - begin, result

    def touch(memory):
        return common.touch_seconds(min(weights, memory), len(os.sched_getaffinity(0)))

    weights = start("20GiB")[1]["plan"]["weights_bytes"]
    rows = []
    for title, memory in (("all in memory", weights + (1 << 30)), ("half in memory", weights // 2)):
        runs = []
        for _ in range(a.rounds):
            common.drop_page_cache()
            (touched, seconds, result), disk = common.beside_disk(
                common.store_data(store), lambda m=memory: (touch(m), *start(m)), room=min(weights, memory, 1 << 30))
            read = sum(row["counted_bytes"] for row in result["swap"])
            if result["timings"]["prepare_s"] != 0:
                raise SystemExit("a second start prepared the store again")
            runs.append({"seconds": seconds, "read": read, "disk": disk, "ratio": seconds / (read / disk), "touch": touched,
                         "load": result["timings"]["load_s"]})
            print(f"{title}: {seconds:.2f} s for {read / 1e9:.2f} GB at {disk / 1e9:.2f} GB/s: {runs[-1]['ratio']:.2f}; "
                  f"touching as much memory {touched:.2f} s", flush=True)
        rows.append({"start": title, "seconds to the first token": f"{common.median([r['seconds'] for r in runs]):.2f}",
                     "GB read": f"{runs[0]['read'] / 1e9:.2f}",
                     "disk GB/s": f"{common.median([r['disk'] for r in runs]) / 1e9:.2f}",
                     "of the bytes' time": f"{common.median([r['ratio'] for r in runs]):.2f}",
                     "touching the memory": f"{common.median([r['touch'] for r in runs]):.2f}",
                     "best, worst": f"{min(r['ratio'] for r in runs):.2f}, {max(r['ratio'] for r in runs):.2f}"})
    text = f"Second starts, medians of {a.rounds}:\n\n" + common.table(rows, list(rows[0]))
    common.publish(text, "python3 tests/bench/cold_start.py", a.output)


if __name__ == "__main__":
    main()
