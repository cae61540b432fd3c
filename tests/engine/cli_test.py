#!/usr/bin/env python3
"""Holds the program to the contract of its command line: flags, exit codes, errors, JSON, files.

    python3 tests/engine/cli_test.py build/release/headrace [-k PATTERN]

Standard library only; every test works in temporary folders. Ends with a line
`N passed, N failed, N skipped` and exits with 1 when one failed.
"""
import importlib
import os
import pathlib
import sys
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import cli_support  # noqa: E402  (beside this file)

MODULES = ["cli_errors", "cli_runs", "cli_plans", "cli_files", "cli_sampling", "cli_batch", "cli_chat"]


class Results(unittest.TextTestResult):
    """Keeps how long each test took: the whole must stay short."""

    def startTest(self, test):
        self.begin = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        super().stopTest(test)
        self.times = getattr(self, "times", [])
        self.times.append((time.monotonic() - self.begin, test.id()))


def main(arguments):
    pattern = None
    if "-k" in arguments:
        at = arguments.index("-k")
        pattern = arguments[at + 1]
        del arguments[at:at + 2]
    if arguments:
        cli_support.binary = arguments[0]
    cli_support.binary = os.path.abspath(cli_support.binary)
    if not os.access(cli_support.binary, os.X_OK):
        print(f"{cli_support.binary}: no such program; give the path of headrace", file=sys.stderr)
        return 2
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{pattern}*"] if pattern else None
    suite = unittest.TestSuite(loader.loadTestsFromModule(importlib.import_module(name))
                               for name in MODULES)
    runner = unittest.TextTestRunner(resultclass=Results, verbosity=1, stream=sys.stdout)
    result = runner.run(suite)
    bad = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
    for seconds, name in sorted(getattr(result, "times", []), reverse=True)[:5]:
        print(f"{seconds:6.2f} s  {name}")
    skipped = len(result.skipped)
    print(f"{result.testsRun - len(bad) - skipped} passed, {len(bad)} failed, {skipped} skipped")
    return 0 if not bad and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
