#!/usr/bin/env python3
"""headrace beside what a user would pick instead: same weights, same precision, same memory cgroup, interleaved.

    python3 tests/bench/peers.py [--python PYTHON] [--cases dense] [--rounds 3] [-o FILE.md]

PYTHON is an interpreter with llama-cpp-python, gguf, torch, transformers, accelerate and airllm (those of the cases
asked for). Every run is a fresh process inside a memory cgroup of the case's limit, the page cache dropped before;
headrace gets that limit as --memory. Decoding in memory is compared in turns of two seconds instead, five after each of
--rounds starts (turns.py). Needs root for cgroup and cache; says so and stops where it has not.

Cases: dense (one sequence in memory, at 0.65 and at 0.5), wide (32 sequences at 0.5), prompt (512 tokens in memory),
offload (accelerate, airllm and transformers at 0.5), moe (a sparse model at half its size).
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import common
import streams
import turns

HERE = pathlib.Path(__file__).resolve().parent
SPARSE = ["--family", "mixtral", "--dtype", "bfloat16", "--set", "hidden_size=1024", "--set", "intermediate_size=1024",
          "--set", "num_local_experts=64", "--set", "num_experts_per_tok=8", "--set", "num_attention_heads=16",
          "--set", "num_key_value_heads=8", "--set", "head_dim=64", "--set", "vocab_size=32000"]
TURN_S = 2.0  # of programs that generate beside each other
CGROUP = pathlib.Path("/sys/fs/cgroup/memory")


class Limit:
    """A memory cgroup (version 1) of so many bytes; None: no limit."""

    def __init__(self, limit):
        self.path = CGROUP / f"headrace-bench-{os.getpid()}" if limit else None
        if self.path:
            self.path.mkdir(exist_ok=True)
            (self.path / "memory.limit_in_bytes").write_text(str(limit))

    def enter(self):
        if self.path:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        if self.path:
            self.path.rmdir()


def isolated(command, limit):
    common.drop_page_cache()
    group = Limit(limit)
    run = subprocess.run([str(c) for c in command], capture_output=True, text=True, preexec_fn=group.enter, check=False)
    group.close()
    return run


class Bench:
    def __init__(self, a):
        self.a, self.work = a, a.work

    def model(self, name, size, shape):
        folder = self.work / f"{name}-{size}"
        return common.model_folder(self.a.headrace, folder, "--size", size, *shape)

    def gguf(self, folder):
        out = folder.with_suffix(folder.suffix + ".gguf")
        if not out.exists():
            part = out.with_suffix(".part")
            subprocess.run([self.a.python, HERE / "gguf_of.py", folder, part], check=True, stdout=subprocess.DEVNULL)
            part.rename(out)
        return out

    def weights(self, folder):
        return common.headrace(self.a.headrace, "inspect", folder)["weights_bytes"]

    def generate(self, folder, limit, prompt=8, tokens=8, sequences=1):
        ids = ",".join(str(1 + p % 1000) for p in range(prompt))
        command = [self.a.headrace, "generate", folder, "-n", tokens + 1, "--ignore-eos", "--store",
                   self.work / "stores", "--memory", limit or "20GiB"]
        for _ in range(sequences):
            command += ["--ids", ids]
        return command

    def ours(self, folder, limit, **shape):
        run = isolated([*self.generate(folder, limit, **shape), "--json"], limit)
        if run.returncode != 0:
            raise SystemExit(run.stdout + run.stderr)
        out = json.loads(run.stdout)
        t = out["timings"]
        return {"decode": t["decode_tokens_per_second"], "prefill": t["prefill_tokens_per_second"],
                "bytes": out["plan"]["bytes"], "bound": out["plan"]["bound_bytes"]}

    def ours_warm(self, folder, prompt):
        """Prompt rate with all weights in memory: `bench generate` times what comes after a first round."""
        run = isolated([self.a.headrace, "bench", "generate", folder, "-p", prompt, "-n", 2, "-r", 1, "--json", "--store",
                        self.work / "stores", "--memory", "20GiB"], None)
        if run.returncode != 0:
            raise SystemExit(run.stdout + run.stderr)
        return {"prefill": json.loads(run.stdout)["prefill_tokens_per_second"]}

    def peer_command(self, name, model, **flags):
        command = [self.a.python, HERE / "peer_run.py", name, model]
        for key, value in flags.items():
            command += [f"--{key}", value]
        return command

    def peer(self, name, model, limit, **flags):
        run = isolated(self.peer_command(name, model, **flags), limit)
        for line in run.stdout.splitlines():
            if line.startswith("RESULT "):
                r = json.loads(line[7:])
                return {"decode": r["decode_tokens_per_second"], "prefill": r["prefill_tokens_per_second"],
                        "bytes": r["read_bytes_per_step"]}
        print(f"{name}: exit {run.returncode}: {run.stderr.strip()[-300:]}", file=sys.stderr)
        return None  # killed or refused: that is a result too


def compare(title, what, ours, peers, rounds, rows):
    """Interleaved: ours, peer, peer, ours, …; appends a row a peer, with the median of the rounds' ratios."""
    mine, theirs = [], {name: [] for name in peers}
    for number in range(rounds):
        mine.append(ours()[what])
        for name, run in peers.items():
            result = run()
            theirs[name].append(result[what] if result else 0.0)
        print(f"{title}, round {number + 1}: headrace {mine[-1]:.3g} tokens/s"
              + "".join(f", {n} {v[-1]:.3g}" for n, v in theirs.items()), flush=True)
    for name, values in theirs.items():
        rows.append(common.ratio_row(title, name, mine, values))


def run_cases(bench, a):
    rows, cases = [], set(a.cases.split(","))
    if cases & {"dense", "wide", "prompt", "offload"}:
        folder = bench.model("dense", a.size, streams.MODEL)
        weights = bench.weights(folder)
        bench.ours(folder, None, tokens=1)  # the store is prepared outside of what is measured
        half, more = weights // 2, weights * 65 // 100
    if cases & {"dense", "wide", "prompt"}:
        gguf = bench.gguf(folder)
    if "dense" in cases:
        common.drop_page_cache()
        turns.compare("one sequence, in memory", bench.generate(folder, None, tokens=4000), "llama.cpp",
                      bench.peer_command("llama", gguf, tokens=4000, ticks=1), a.rounds, 5, TURN_S, rows)
        for title, limit in (("one sequence at 0.65", more), ("one sequence at 0.5", half)):
            compare(title, "decode", lambda l=limit: bench.ours(folder, l, tokens=12),
                    {"llama.cpp": lambda l=limit: bench.peer("llama", gguf, l, tokens=12)}, a.rounds, rows)
    if "prompt" in cases:
        compare("prompt of 512 tokens, in memory", "prefill", lambda: bench.ours_warm(folder, 512),
                {"llama.cpp": lambda: bench.peer("llama", gguf, None, prompt=512, tokens=2, warm=1),
                 "transformers": lambda: bench.peer("transformers", folder, None, prompt=512, tokens=2, warm=1)},
                a.rounds, rows)
    if "wide" in cases:
        compare("32 sequences at 0.5", "decode", lambda: bench.ours(folder, half, tokens=12, sequences=32),
                {"llama.cpp": lambda: bench.peer("llama", gguf, half, tokens=6, sequences=32)}, a.rounds, rows)
    if "offload" in cases:
        with tempfile.TemporaryDirectory(dir=bench.work) as scratch:
            compare("one sequence at 0.5", "decode", lambda: bench.ours(folder, half, tokens=8), {
                "accelerate": lambda: bench.peer("accelerate", folder, half, tokens=3, memory=half - (900 << 20), work=scratch),
                "airllm": lambda: bench.peer("airllm", folder, half, tokens=2, work=scratch),
                "transformers, mmap": lambda: bench.peer("transformers", folder, half, tokens=3)}, a.rounds, rows)
    if "moe" in cases:
        sparse = bench.model("moe", a.moe_size, SPARSE)
        limit = bench.weights(sparse) // 2
        bench.ours(sparse, None, tokens=1)
        gguf = bench.gguf(sparse)
        compare(f"sparse, {a.moe_size}, one sequence at 0.5", "decode", lambda: bench.ours(sparse, limit, tokens=48),
                {"llama.cpp": lambda: bench.peer("llama", gguf, limit, tokens=4)}, a.rounds, rows)
    return rows


def main():
    a = common.arguments(__doc__, python=sys.executable, size="4.3GiB", moe_size="5.2GiB", rounds=3,
                         cases="dense,prompt,wide,offload,moe")
    if os.geteuid() != 0 or not CGROUP.is_dir():
        raise SystemExit("peers.py: needs root and memory cgroups of version 1 (limits, dropping the page cache)")
    rows = run_cases(Bench(a), a)
    text = f"Medians of {a.rounds} interleaved rounds, tokens/s, and of their ratios:\n\n" + common.table(rows, list(rows[0]))
    common.publish(text, f"python3 tests/bench/peers.py --cases {a.cases} --rounds {a.rounds}", a.output)


if __name__ == "__main__":
    main()
