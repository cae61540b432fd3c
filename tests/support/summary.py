#!/usr/bin/env python3
"""Adds up what ran: `summary.py RESULT…` reads ctest's JUnit files and the logs of scripts.

A GoogleTest program counts with its cases, any other test as one; a log counts with its closing line
"N passed, N failed, N skipped". Prints what failed or was skipped, and why, then the one closing line.
"""
import re
import sys
import xml.etree.ElementTree as xml

passed = failed = skipped = 0


def number(pattern, text):
    found = re.findall(pattern, text, re.M)
    return int(found[-1]) if found else 0


def reasons(text):
    return re.findall(r"^\S*?:\d+: Skipped\n(.*)$", text, re.M)


def junit(path):
    global passed, failed, skipped
    for case in xml.parse(path).getroot().iter("testcase"):
        text = case.findtext("system-out") or ""
        good = case.get("status") == "run"
        cases = number(r"^\[  PASSED  \] (\d+) tests?", text)
        passed += cases or (1 if good else 0)
        skips = number(r"^\[  SKIPPED \] (\d+) tests?", text)
        skipped += skips
        for reason in reasons(text):
            print(f"skipped in {case.get('name')}: {reason}")
        if not good:
            failed += number(r"^ *(\d+) FAILED TESTS?", text) or 1
            print(f"failed: {path}: {case.get('name')}")


def log(path):
    global passed, failed, skipped
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    closing = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", text, re.M)
    code = number(r"^exit (\d+)$", text)
    if closing:
        p, f, s = closing[-1]
        passed, failed, skipped = passed + int(p), failed + int(f), skipped + int(s or 0)
        code = code and not int(f)
    elif not code:
        passed += 1
    if code:
        failed += 1
    for line in re.findall(r"^(?:skipped: .*|FAILED .*)$", text, re.M):
        print(f"{path}: {line}")


for name in sys.argv[1:]:
    (junit if name.endswith(".xml") else log)(name)
print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or not passed else 0)
