#!/usr/bin/env python3
"""The HTML report, looked at in a browser: one file that loads nothing, runs nothing, says what the run's JSON says.

    python3 tests/engine/html_test.py build/release/headrace
"""
import gzip
import html.parser
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

passed = failed = skipped = 0


def check(good, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(("ok      " if good else "FAILED  ") + what, flush=True)


class Tables(html.parser.HTMLParser):
    """Rows of texts by table id; every attribute that could load something."""

    def __init__(self):
        super().__init__()
        self.rows, self.table, self.cell, self.loads = {}, None, None, []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.loads += [f"{tag} {k}={v}" for k, v in attrs.items()
                       if k in ("src", "href", "srcset", "data", "action") and v != "data:,"]
        if tag in ("script", "iframe", "object", "embed", "img"):
            self.loads.append(tag)
        if tag == "table":
            self.table = self.rows.setdefault(attrs.get("id"), [])
        if tag == "tr" and self.table is not None:
            self.table.append([])
        if tag in ("td", "th") and self.table:
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.table[-1].append(self.cell)
            self.cell = None
        if tag == "table":
            self.table = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def colours(png):
    """Distinct colours of an 8-bit PNG without interlacing."""
    data, at, body = png.read_bytes(), 8, b""
    width = height = channels = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", data[at + 8:at + 18])
            channels = {2: 3, 6: 4}[colour]
        if kind == b"IDAT":
            body += data[at + 8:at + 8 + size]
        at += size + 12
    raw, line, seen = zlib.decompress(body), bytearray(width * channels), set()
    for y in range(height):
        begin = y * (width * channels + 1)
        method, row = raw[begin], bytearray(raw[begin + 1:begin + 1 + width * channels])
        for i, value in enumerate(row):
            left = row[i - channels] if i >= channels else 0
            up, corner = line[i], line[i - channels] if i >= channels else 0
            if method == 1:
                row[i] = (value + left) & 255
            elif method == 2:
                row[i] = (value + up) & 255
            elif method == 3:
                row[i] = (value + (left + up) // 2) & 255
            elif method == 4:
                guess = left + up - corner
                best = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
                row[i] = (value + best) & 255
        seen.update(bytes(row[i:i + 3]) for i in range(0, len(row), channels))
        line = row
    return seen


def browse(browser, folder, page, *flags):
    return subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
                           "--window-size=800,1000", "--enable-logging=stderr", "--virtual-time-budget=2000", *flags,
                           page.as_uri()], capture_output=True, text=True, timeout=120, check=False)


def main():
    headrace, folder = sys.argv[1], pathlib.Path(tempfile.mkdtemp(prefix="headrace-html-"))
    global skipped
    try:
        model, trace, page = folder / "model<&>", folder / "trace.json.gz", folder / "report.html"
        run = [headrace, "synth", model, "--family", "mixtral", "--size", "40MiB", "--quiet"]
        subprocess.run([str(x) for x in run], check=True)
        plan = json.loads(subprocess.run([headrace, "plan", str(model), "--json", "--memory", "1GiB"], capture_output=True,
                                         text=True, check=True).stdout)["plan"]
        budget = plan["memory"]["base"] + plan["memory"]["io"] + plan["weights_bytes"] * 6 // 10 + (4 << 20)
        out = subprocess.run([headrace, "profile", "-o", str(trace), "--json", "--", "generate", str(model), "--ids", "1,2,3,4",
                              "-n", "8", "--memory", str(budget), "--store", str(folder / "stores")],
                             capture_output=True, text=True, check=False)
        check(out.returncode == 0, "a run is traced " + out.stderr)
        swap = json.loads(out.stdout)["swap"]
        read = json.loads(subprocess.run([headrace, "profile", "report", str(trace), "-o", str(page), "--json"],
                                         capture_output=True, text=True, check=True).stdout)
        events = json.loads(gzip.open(trace).read())["traceEvents"]
        counted = sum(r["counted_bytes"] for r in swap)
        check(sum(e["args"]["bytes"] for e in events if e["ph"] == "X" and "edge" in e.get("args", {})) == counted,
              "every counted byte is in the trace once")
        opening = sum(r["counted_bytes"] for r in swap if r["kind"] == "metadata")
        check(0 < opening == counted - sum(r["bytes"] for r in read["layers"]), "and in the report's layers, but for the store's own")
        check(all(r["bytes"] == r["predicted_bytes"] for r in read["layers"] + read["swap"]),
              "layer by layer what was predicted was counted")
        text = page.read_text(encoding="utf-8")
        check("http:" not in text.replace("http://www.w3.org", "") and "https:" not in text and "url(" not in text,
              "the page names no address")
        missing = subprocess.run([headrace, "profile", "report", str(trace), "-o"], capture_output=True, text=True, check=False)
        check(missing.returncode == 2 and "-o" in missing.stderr, "-o without a file is refused")

        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        if browser is None:
            skipped += 1
            print("skipped: no chromium")
            return
        seen = browse(browser, folder, page, "--dump-dom")
        tables = Tables()
        tables.feed(seen.stdout)
        rows = {(r[0], r[1]): r for r in tables.rows.get("bytes", [])[1:]}
        check(rows and all(rows[r["edge"], r["kind"]][2:5] == [str(r["predicted_bytes"]), str(r["counted_bytes"]), "0"]
                           for r in swap), "the browser shows the run's bytes, predicted and counted")
        check(len(tables.rows.get("layers", [])) > 2 and len(tables.rows.get("lanes", [])) == 1 + len(read["lanes"]),
              "and layers and lanes")
        check("model<&>" in html.unescape(seen.stdout), "and the model's name, escaped")
        check(not tables.loads, f"the page loads nothing {tables.loads}")
        check("CONSOLE" not in seen.stderr, "and writes nothing to the console")
        picture = folder / "page.png"
        browse(browser, folder, page, f"--screenshot={picture}")
        shown = colours(picture)
        check(bytes.fromhex("3b6fb6") in shown and bytes.fromhex("d98b2b") in shown and len(shown) > 20,
              f"its pictures are painted: {len(shown)} colours")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
