#!/usr/bin/env python3
"""Reading as a run reads (pager, checksums) beside fio on the same file: same sizes, depth, io_uring, direct, huge pages.

    python3 tests/bench/io.py [--headrace build/release/headrace] [--work build/bench] [--pairs 15]

fio (Debian's package, needed by this alone) reads into memory in 2 MiB pages: its allocator is told to ask for them. Pairs
alternate in who goes first; the figure is the median of the pairs' ratios. Exit 1 below the bars.
"""
import json
import os
import shutil
import subprocess

import common

RATIO, IO_MS, VERIFY_MS = 0.95, 8.0, 50.0


def fio(path, size, block, depth):
    run = subprocess.run(
        ["fio", "--name=read", f"--filename={path}", "--rw=read", f"--bs={block}", f"--iodepth={depth}", f"--size={size}",
         "--direct=1", "--ioengine=io_uring", "--fixedbufs", "--registerfiles", "--iomem=malloc", "--iomem_align=2m",
         "--invalidate=0", "--output-format=json"],
        capture_output=True, text=True, env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
    if run.returncode != 0:
        raise SystemExit(f"fio: exit {run.returncode}\n{run.stderr}")
    job = json.loads(run.stdout[run.stdout.index("{"):])["jobs"][0]
    gigabytes = job["read"]["io_bytes"] / 1e9
    cpu_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
    return {"rate": job["read"]["bw_bytes"], "cpu_ms": cpu_s * 1e3 / gigabytes}


def random_file(path, size):
    if path.exists() and path.stat().st_size == size:
        return
    with open(path, "wb") as file:
        for _ in range(0, size, 8 << 20):
            file.write(os.urandom(8 << 20))
        file.flush()
        os.fsync(file.fileno())


def main():
    a = common.arguments(__doc__, pairs=15, mib=1024, chunk="2MiB")
    if shutil.which("fio") is None:
        raise SystemExit("fio is not there: apt-get install fio")
    work = a.work
    path, size = work / "io.bin", a.mib << 20
    random_file(path, size)

    def ours():
        return common.headrace(a.headrace, "bench", "io", "--path", path, "--size", size, "--chunk", a.chunk, "--rounds", 1,
                               "--no-write")

    first = ours()
    block, depth = first["block_bytes"], first["depth"]
    pairs = []
    for i in range(a.pairs):
        if i % 2 == 0:
            mine, theirs = ours(), fio(path, size, block, depth)
        else:
            theirs, mine = fio(path, size, block, depth), ours()
        pairs.append({"ratio": mine["read_Bps"] / theirs["rate"], "of_raw": mine["ratio_of_raw"],
                      "rate": mine["read_Bps"], "fio": theirs["rate"], "fio_ms": theirs["cpu_ms"],
                      "io_ms": mine["read_cpu_s_per_GB"] * 1e3, "verify_ms": mine["verify_cpu_s_per_GB"] * 1e3})
        print(f"pair {i + 1}: {mine['read_Bps'] / 1e9:.2f} GB/s, fio {theirs['rate'] / 1e9:.2f}", flush=True)
    m = {k: common.median([p[k] for p in pairs]) for k in pairs[0]}
    ratios = sorted(p["ratio"] for p in pairs)
    row = {"chunk": a.chunk, "request": f"{block >> 10} KiB x {depth}", "GB/s": f"{m['rate'] / 1e9:.2f}",
           "fio GB/s": f"{m['fio'] / 1e9:.2f}", "of fio": f"{m['ratio']:.3f}",
           "worst, best": f"{ratios[0]:.2f}, {ratios[-1]:.2f}", "of requests alone": f"{m['of_raw']:.3f}",
           "I/O ms/GB": f"{m['io_ms']:.2f}", "fio ms/GB": f"{m['fio_ms']:.2f}", "verify ms/GB": f"{m['verify_ms']:.1f}"}
    text = f"Reads with checksums beside fio, medians of {a.pairs} alternating pairs of {a.mib} MiB:\n\n"
    text += common.table([row], list(row))
    common.publish(text, "python3 tests/bench/io.py", a.output)
    if m["ratio"] < RATIO or m["io_ms"] > IO_MS or m["verify_ms"] > VERIFY_MS:
        raise SystemExit(f"below the bars: {RATIO} of fio, {IO_MS} ms/GB to read, {VERIFY_MS} ms/GB to verify")


if __name__ == "__main__":
    main()
