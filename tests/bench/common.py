"""What the benchmarks share: flags, running headrace, reading a file as fast as the disk gives it, medians."""
import argparse
import ctypes
import json
import mmap
import os
import pathlib
import statistics
import subprocess
import threading
import time


def arguments(doc, **flags):
    """The command line's: --headrace, --work, --output, and `flags`: each of its default's type."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headrace", default="build/release/headrace", help="the program (%(default)s)")
    parser.add_argument("--work", default="build/bench", type=pathlib.Path, help="models and stores (%(default)s)")
    parser.add_argument("-o", "--output", help="also append the table to this Markdown file")
    for name, default in flags.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default, help="(%(default)s)")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    return a


def headrace(binary, *args, env=None, check=True):
    """Runs with --json; the object that it printed (an error object when it failed and check is off)."""
    run = subprocess.run([str(binary), *map(str, args), "--json"], capture_output=True, text=True,
                         env={**os.environ, **(env or {})})
    if check and run.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, args))}: exit {run.returncode}\n{run.stderr}")
    return json.loads(run.stdout) if run.stdout.strip() else {"exit": run.returncode}


def model_folder(binary, folder, *shape):
    """`folder`, made by synth with the flags `shape` unless it is there."""
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        headrace(binary, "synth", folder, *shape)
    return folder


def publish(text, command, output):
    """Prints `text`, and appends it with the command that gives it to the Markdown file `output`, if there is one."""
    print("\n" + text)
    if output:
        with open(output, "a", encoding="utf-8") as file:
            file.write(f"{text}\n\n`{command}`\n\n")


def huge_buffer(size):
    """Anonymous memory in 2 MiB pages: reads into small pages are limited to a third of the disk's rate."""
    room = mmap.mmap(-1, size + (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(room)) % (2 << 20)
    return memoryview(room)[start:start + size]


def in_turns(total, step, threads, work):
    """Seconds in which `threads` of them call work(at) for every `step`-th at below `total`, each as it comes free."""
    lock, position = threading.Lock(), [0]

    def run():
        while True:
            with lock:
                at = position[0]
                position[0] += step
            if at >= total:
                return
            work(at)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    begin = time.monotonic()
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return time.monotonic() - begin


def disk_rate(path, total=2 << 30, block=1 << 20, threads=8, room=None):
    """Bytes a second of direct reads of `path`: `threads` at a time, `block` bytes each, into `room` bytes of memory by
    turns. A room that fits a cache flatters disks whose data a hypervisor copies."""
    total = min(total, os.path.getsize(path) // block * block)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    room = max(room or 0, threads * block) // block * block
    buffer = huge_buffer(room)
    for at in range(0, room, mmap.PAGESIZE):
        buffer[at] = 1
    seconds = in_turns(total, block, threads, lambda at: os.preadv(fd, [buffer[at % room:at % room + block]], at))
    os.close(fd)
    return total / seconds


def beside_disk(path, run, room=None):
    """What `run()` returns, and the disk's rate of that minute: the mean of right before and right after."""
    before = disk_rate(path, room=room)
    result = run()
    return result, (before + disk_rate(path, room=room)) / 2


def touch_seconds(size, threads, piece=4 << 20):
    """What backing `size` bytes of new memory takes, `threads` pieces at a time: a hypervisor that takes memory back
    from its guests makes it slower than any disk."""
    call = ctypes.CDLL(None, use_errno=True).madvise
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    room = huge_buffer(size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))

    def touch(at):
        if call(address + at, min(piece, size - at), 23) != 0:  # MADV_POPULATE_WRITE
            raise OSError(ctypes.get_errno(), "madvise")

    return in_turns(size, piece, threads, touch)


def drop_page_cache():
    """As root; otherwise the page cache stays, which reads past it do not use."""
    os.sync()
    if os.geteuid() == 0:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def store_data(store):
    """The data file of the one store below `store`."""
    files = sorted(pathlib.Path(store).glob("*/data.0"))
    if len(files) != 1:
        raise SystemExit(f"{store}: {len(files)} stores, expected one")
    return str(files[0])


def median(values):
    return statistics.median(values)


def ratio_row(case, peer, mine, theirs):
    """Tokens a second of rounds (pairs) that were run beside each other; the ratio is the median of theirs. A peer's 0:
    it did not run."""
    ratios = sorted(m / t for m, t in zip(mine, theirs) if t)
    spread = f"; ratios {ratios[0]:.2f} to {ratios[-1]:.2f}" if ratios else ""
    return {"case": case, "headrace": f"{median(mine):.3g}", "peer": peer, "peer tokens/s": f"{median(theirs):.3g}",
            "ratio": f"{median(ratios):.2f}" if ratios else "the peer did not run",
            "range": f"{min(mine):.3g} to {max(mine):.3g} against {min(theirs):.3g} to {max(theirs):.3g}{spread}"}


def table(rows, columns):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(r[c]) for c in columns) + " |" for r in rows]
    return "\n".join(lines)
