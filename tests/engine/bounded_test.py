#!/usr/bin/env python3
"""Peak memory stays within --memory, all included, and a memory cgroup of exactly that limit is enough.

    python3 tests/engine/bounded_test.py build/release/headrace [--size 3GiB] [--work FOLDER]

Makes a model, then runs it at 0.9, 0.65, 0.5 and 0.25 of its weights, each inside a cgroup whose limit equals
the budget; then the smallest budget that the refusal names, in such a cgroup too, and 4 MiB less, refused.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

V1, V2 = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
PAGE = 4096
passed = failed = skipped = 0


def check(good, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(("ok      " if good else "FAILED  ") + what, flush=True)


class Cgroup:
    """A memory cgroup with a limit, version 1 or 2; None of it where neither can be made."""

    def __init__(self, limit):
        self.path, self.kills = None, 0
        for root, name in ((V1, "memory.limit_in_bytes"), (V2, "memory.max")):
            path = root / f"headrace-test-{os.getpid()}"
            try:
                path.mkdir()
                (path / name).write_text(str(limit))
                self.path = path
                return
            except OSError:
                if path.exists():
                    path.rmdir()

    def enter(self):
        if self.path:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        if not self.path:
            return
        for name in ("memory.oom_control", "memory.events"):
            if (self.path / name).exists():
                for line in (self.path / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        self.kills = int(line.split()[1])
        self.path.rmdir()


def run(headrace, model, store, memory, limit=None):
    group = Cgroup(limit) if limit else None
    result = subprocess.run([headrace, "generate", model, "--ids", "1,2,3,4,5,6,7,8", "-n", "3", "--ignore-eos", "--json",
                             "--store", store, "--memory", str(memory)], capture_output=True, text=True,
                            preexec_fn=group.enter if group else None)
    if group:
        group.close()
    return result, group


def main():
    global skipped
    parser = argparse.ArgumentParser()
    parser.add_argument("headrace")
    parser.add_argument("--size", default="3GiB")
    parser.add_argument("--work")
    a = parser.parse_args()
    work = pathlib.Path(a.work or tempfile.mkdtemp(prefix="headrace-bounded-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        if shutil.disk_usage(work).free < 10 << 30:
            print("skipped: less than 10 GiB of disk")
            skipped += 1
            return
        model, store = str(work / "model"), str(work / "stores")
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        if not (work / "model/config.json").exists():
            subprocess.run([a.headrace, "synth", model, "--size", a.size, "--quiet", "--set", "hidden_size=2048", "--set",
                            "intermediate_size=8192", "--set", "num_attention_heads=16", "--set", "num_key_value_heads=16",
                            "--set", "head_dim=128", "--set", "vocab_size=32000"], check=True)
        weights = json.loads(subprocess.run([a.headrace, "inspect", model, "--json"], capture_output=True, text=True,
                                            check=True).stdout)["stored_bytes"]
        # The first run also prepares the store: in the tightest cgroup of all.
        for fraction in (0.25, 0.9, 0.65, 0.5):
            budget = int(fraction * weights) // PAGE * PAGE
            result, group = run(a.headrace, model, store, budget, budget)
            if not group.path:
                print("skipped: no memory cgroup can be made here; peak memory is checked alone")
                skipped += 1
            check(result.returncode == 0 and group.kills == 0,
                  f"{fraction}: runs in a cgroup of {budget} bytes (exit {result.returncode}, {group.kills} kills)")
            if result.returncode != 0:
                print(result.stderr[-2000:])
                continue
            out = json.loads(result.stdout)
            peak = out["memory"]["peak_rss"]
            check(peak <= budget, f"{fraction}: peak {peak} is within {budget}, {budget - peak} to spare")
            check(sum(out["plan"]["memory"].values()) == budget, f"{fraction}: the split sums to the budget")
            check(all(r["predicted_bytes"] == r["counted_bytes"] for r in out["swap"]), f"{fraction}: bytes are exact")
        result, _ = run(a.headrace, model, store, 1 << 20)
        least = json.loads(result.stdout)["error"]["required_bytes"]
        check(result.returncode == 3, f"1 MiB is refused with exit 3, naming {least}")
        result, group = run(a.headrace, model, store, least, least)
        check(result.returncode == 0, f"the smallest budget runs in its cgroup (exit {result.returncode})")
        if result.returncode == 0:
            peak = json.loads(result.stdout)["memory"]["peak_rss"]
            check(peak <= least, f"smallest: peak {peak} is within {least}, {least - peak} to spare")
        result, _ = run(a.headrace, model, store, least - (4 << 20))
        check(result.returncode == 3 and json.loads(result.stdout)["error"]["required_bytes"] == least,
              "4 MiB less is refused, with the same figure")
    finally:
        if not a.work:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)
