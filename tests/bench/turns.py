"""Two programs that generate, beside each other in turns of a second or two: one is stopped while the other runs.

A machine's memory may be half as fast from one second to the next (other guests of it); whole runs one after the other
compare such seconds, not programs.
"""
import os
import signal
import subprocess
import threading
import time

import common

SETTLE_TOKENS = 3  # not counted: weights are loading


class Generating:
    """A process whose every write to its standard output is a token. Stopped whenever it is not its turn."""

    def __init__(self, command):
        self.command = [str(c) for c in command]
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.marks = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        while len(self.marks) < SETTLE_TOKENS:
            self.check()
            time.sleep(0.05)
        self.process.send_signal(signal.SIGSTOP)

    def read(self):
        while os.read(self.process.stdout.fileno(), 1 << 16):
            self.marks.append(time.monotonic())

    def check(self):
        if self.process.poll() is not None:
            raise SystemExit(f"{' '.join(self.command)}: ended early, exit {self.process.returncode}\n"
                             f"{self.process.stderr.read().decode()[-300:]}")

    def turn(self, seconds):
        """Tokens a second from the first that comes in this turn to the last."""
        first = len(self.marks)
        self.process.send_signal(signal.SIGCONT)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGSTOP)
        self.check()
        marks = self.marks[first:]
        if len(marks) < 3:
            raise SystemExit(f"{self.command[0]}: {len(marks)} tokens in {seconds} s; give a turn more time")
        return (len(marks) - 1) / (marks[-1] - marks[0])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()


def turns(title, ours, name, theirs, pairs, seconds, last_first=False):
    """Rates of pairs of turns, each going first as often as the other, of two programs that are started for them, one
    after the other, with nothing of either in memory: a page cache that outlives programs keeps the memory it has."""
    programs = {}
    try:
        common.drop_page_cache()
        for p, command in sorted(enumerate((ours, theirs)), reverse=last_first):
            programs[p] = Generating(command)
        rates = []
        for i in range(pairs):
            order = (0, 1) if i % 2 == 0 else (1, 0)
            pair = {p: programs[p].turn(seconds) for p in order}
            rates.append((pair[0], pair[1]))
            print(f"{title}, turn {i + 1}: headrace {pair[0]:.3g} tokens/s, {name} {pair[1]:.3g}", flush=True)
        return rates
    finally:
        for program in programs.values():
            program.close()


def compare(title, ours, name, theirs, starts, pairs, seconds, rows):
    """`pairs` of turns after each of several starts; appends a row. The memory that a program is given when it starts
    may be slower than the other's for as long as it runs."""
    rates = [rate for s in range(starts) for rate in turns(title, ours, name, theirs, pairs, seconds, s % 2 == 1)]
    rows.append(common.ratio_row(title, name, *zip(*rates)))
